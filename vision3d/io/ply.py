"""PLY point clouds, ascii and binary, with colour and normals.

Points with NaN or infinite coordinates are read as they are unless `drop_invalid` is set; normals and colours may hold
anything. What of the format is read stands in ply_table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import PointCloud, Vision3DError
from vision3d.io.ply_table import read_vertices, write_vertices

_XYZ, _NORMAL, _COLOR = ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class PlyCloud:
    """What a PLY holds: the cloud with colours in [0, 1] as features (or None), and unit normals (or None)."""

    cloud: PointCloud
    normals: Float[Tensor, "n 3"] | None


def read_ply(path: str | Path, drop_invalid: bool = False) -> PlyCloud:
    """Read the vertices of a PLY.

    Coordinates keep their precision (float32 or float64; integers become float64). Integer colours are divided by
    their type's largest value.

    Args:
        drop_invalid: leave out points with a NaN or infinite coordinate.

    Raises:
        Vision3DError: missing, no PLY, a malformed header, fewer points than promised, or a property list in the way.
    """
    vertices = read_vertices(path)
    columns = vertices.dtype.names or ()
    if not set(_XYZ) <= set(columns):
        raise Vision3DError(f"{path}: the vertices have no x, y and z (they have {', '.join(columns)})")
    points = _stack(vertices, _XYZ)
    keep = np.isfinite(points).all(1) if drop_invalid else np.ones(len(points), dtype=bool)
    colors = None
    if set(_COLOR) <= set(columns):
        kind = vertices.dtype["red"]
        white = float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0
        colors = torch.from_numpy((_stack(vertices, _COLOR)[keep] / white).astype(np.float32))
    normals = torch.from_numpy(_stack(vertices, _NORMAL)[keep]) if set(_NORMAL) <= set(columns) else None
    return PlyCloud(PointCloud(torch.from_numpy(points[keep]), colors), normals)


def write_ply(
    path: str | Path, cloud: PointCloud, normals: Float[Tensor, "n 3"] | None = None, ascii: bool = False
) -> None:
    """Write points, colours (features with 3 channels, clamped to [0, 1], 8 bit) and normals; little endian or ascii.

    Coordinates are written in the tensor's own precision (float or double) and come back exactly. NaN and infinite
    coordinates are written as such.

    Raises:
        ValueError: features that are not 3 channels. Vision3DError: it cannot be written.
    """
    if cloud.features is not None and cloud.features.shape[1] != 3:
        raise ValueError(f"a PLY holds colours of 3 channels, the features have {cloud.features.shape[1]}")
    real = "f8" if cloud.points.dtype == torch.float64 else "f4"
    fields = [(name, real) for name in _XYZ]
    columns = list(cloud.points.detach().cpu().numpy().T)
    if normals is not None:
        fields += [(name, "f4") for name in _NORMAL]
        columns += list(normals.detach().cpu().numpy().T)
    if cloud.features is not None:
        fields += [(name, "u1") for name in _COLOR]
        colors = cloud.features.detach().cpu().float().nan_to_num().clamp(0, 1)
        columns += list((colors * 255).round().to(torch.uint8).numpy().T)
    table = np.empty(cloud.points.shape[0], dtype=[(name, "<" + t) for name, t in fields])
    for (name, _), column in zip(fields, columns, strict=True):
        table[name] = column
    write_vertices(path, table, (f"frame {cloud.frame}",), ascii)


def _stack(table: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    columns = [table[name] for name in names]
    single = all(c.dtype == np.float32 for c in columns)
    return np.stack(columns, axis=1).astype(np.float32 if single else np.float64)
