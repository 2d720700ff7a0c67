"""LiDAR scans of any common kind as a PointCloud: KITTI's .bin, .ply, .pcd, .las and NumPy's .npy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vision3d.core import PointCloud, Vision3DError
from vision3d.io.atomic import atomic_write_bytes
from vision3d.io.las import read_las
from vision3d.io.pcd import read_pcd
from vision3d.io.ply_table import read_vertices

SCAN_EXTENSIONS = (".bin", ".ply", ".pcd", ".las", ".npy")
Invalid = Literal["error", "drop", "drop, even all"]
_INTENSITY = ("intensity", "reflectance", "reflectivity", "remission", "i", "scalar_intensity")


def read_scan(path: str | Path, invalid: Invalid = "error", frame: str = "lidar", columns: int = 4) -> PointCloud:
    """Read a scan by its ending; features [n 1] are the intensities as the file has them, or None.

    .bin: float32 records of `columns` numbers, x, y, z, intensity first (4: KITTI; 5: nuScenes). .ply and .pcd: x, y, z
    and an intensity (or reflectance) by name. .las: scaled coordinates in float64. Otherwise float32 or the file's own
    precision. .npy: a table of 3 columns or more, the fourth is the intensity.

    invalid: what to do with points that have a NaN or infinite coordinate or intensity, as PCD uses for missing
    returns: an error, or leave them out. "drop, even all" gives an empty cloud where no valid point is left.

    Raises:
        Vision3DError: missing, damaged, cut off, of another kind, without (valid) points, or with invalid ones.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".bin":
        table = _read_bin(path, columns)
        points, intensity = table[:, :3], table[:, 3] if columns > 3 else None
    elif suffix == ".las":
        points, intensity = read_las(path)
    elif suffix == ".npy":
        points, intensity = _read_npy(path)
    elif suffix in (".ply", ".pcd"):
        points, intensity = _named(path, read_vertices(path) if suffix == ".ply" else read_pcd(path))
    else:
        hint = " (decompress it to .las first, for example with laszip)" if suffix == ".laz" else ""
        raise Vision3DError(f"{path}: a scan is one of {', '.join(SCAN_EXTENSIONS)}, not {suffix or 'this'}{hint}")
    if not len(points) and invalid != "drop, even all":
        raise Vision3DError(f"{path} holds no points")
    valid = np.isfinite(points).all(1)
    if intensity is not None:
        valid &= np.isfinite(intensity)
    if not valid.all():
        bad = int((~valid).sum())
        if invalid == "error":
            raise Vision3DError(
                f"{path}: {bad} of {len(valid)} points are NaN or infinite, the first is {_first(valid)}"
            )
        if bad == len(valid) and invalid == "drop":
            raise Vision3DError(f"{path}: all {bad} points are NaN or infinite")
        points, intensity = points[valid], None if intensity is None else intensity[valid]
    features = None if intensity is None else torch.from_numpy(np.array(intensity, np.float32)[:, None])
    return PointCloud(torch.from_numpy(np.ascontiguousarray(points)), features, frame)


def write_bin(path: str | Path, cloud: PointCloud) -> None:
    """Write KITTI's .bin: float32 x, y, z, intensity (the first feature, 0 without features).

    Raises:
        Vision3DError: it cannot be written.
    """
    intensity = torch.zeros(len(cloud.points), 1) if cloud.features is None else cloud.features[:, :1]
    table = torch.cat([cloud.points.detach().cpu().float(), intensity.detach().cpu().float()], dim=1)
    atomic_write_bytes(path, table.numpy().astype("<f4").tobytes())


def _read_bin(path: Path, columns: int) -> np.ndarray:
    if columns < 3:
        raise ValueError(f"a scan has at least 3 columns, got {columns}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) % (4 * columns):
        raise Vision3DError(
            f"{path} is cut off, or has not {columns} float32 numbers a point: {len(data)} bytes are no multiple of "
            f"{4 * columns}"
        )
    return np.frombuffer(data, "<f4").reshape(-1, columns).astype(np.float32)


def _read_npy(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Vision3DError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'no NumPy array'}") from None
    if not isinstance(table, np.ndarray) or table.ndim != 2 or table.shape[1] < 3 or table.dtype.kind not in "fiu":
        raise Vision3DError(f"{path}: points are a table of numbers with 3 columns or more")
    kind = np.float32 if table.dtype in (np.float32, np.float16) else np.float64
    return table[:, :3].astype(kind), table[:, 3].astype(np.float32) if table.shape[1] > 3 else None


def _named(path: Path, table: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    names = {name.lower(): name for name in table.dtype.names or ()}
    if not {"x", "y", "z"} <= set(names):
        raise Vision3DError(f"{path}: the points have no x, y and z (they have {', '.join(names) or 'nothing'})")
    xyz = [table[names[axis]] for axis in "xyz"]
    single = all(column.dtype == np.float32 for column in xyz)
    points = np.stack(xyz, axis=1).astype(np.float32 if single else np.float64)
    name = next((names[n] for n in _INTENSITY if n in names), None)
    return points, None if name is None else table[name].astype(np.float32)


def _first(valid: np.ndarray) -> str:
    return f"point {int(np.argmin(valid))}: remove them, or read the scan with invalid points dropped"
