"""KITTI's files of whole sequences: object tracks (tracking benchmark), poses and times (odometry benchmark)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64

from vision3d.core import RigidTransform, Vision3DError
from vision3d.io.ascii_file import read_ascii
from vision3d.io.kitti_labels import KITTI_TYPES, LABEL_FIELDS, KittiObjects, parse_objects


@dataclass(frozen=True, slots=True)
class KittiTracks:
    """The labelled objects of a sequence: frame and track of each; DontCare has the track -1."""

    frames: Int64[np.ndarray, " n"]
    tracks: Int64[np.ndarray, " n"]
    objects: KittiObjects

    def at(self, frame: int) -> KittiTracks:
        """Those of one frame."""
        keep = self.frames == frame
        return KittiTracks(self.frames[keep], self.tracks[keep], self.objects.select(keep))


def read_tracks(path: str | Path, types: Collection[str] | None = KITTI_TYPES) -> KittiTracks:
    """Read a label_02 file of the tracking benchmark: frame, track and the 15 fields of an object a line.

    Truncation is 0, 1 or 2 there (not, partly, largely), unlike in the object benchmark.

    Raises:
        Vision3DError: missing, or a line that is not understood; the message has file and line.
    """
    path = Path(path)
    numbers: list[tuple[int, int]] = []
    rest: list[str] = []
    for number, line in enumerate(read_ascii(path).splitlines(), 1):
        words = line.split()
        rest.append(" ".join(words[2:]))
        if not words:
            continue
        if len(words) != LABEL_FIELDS + 2:
            raise Vision3DError(f"{path}:{number}: a tracking label has 17 fields, found {len(words)}")
        try:
            numbers.append((int(words[0]), int(words[1])))
        except ValueError:
            raise Vision3DError(
                f"{path}:{number}: a tracking label begins with frame and track, got {words[0]} {words[1]}"
            ) from None
    objects = parse_objects("\n".join(rest), LABEL_FIELDS, path, types)
    frames, tracks = np.array(numbers, np.int64).reshape(-1, 2).T
    return KittiTracks(frames.copy(), tracks.copy(), objects)


def read_poses(path: str | Path) -> RigidTransform:
    """Read a poses file of the odometry benchmark: first_from_cam0 of each frame, [n]; "first" is the left grey camera
    of frame 0.

    Raises:
        Vision3DError: missing, or a line without 12 numbers or a rotation; the message has file and line.
    """
    path = Path(path)
    table = _table(path, 12)
    try:
        return RigidTransform.from_matrix(torch.from_numpy(table).reshape(-1, 3, 4))
    except ValueError:
        for number, row in enumerate(torch.from_numpy(table).reshape(-1, 3, 4), 1):
            try:
                RigidTransform.from_matrix(row)
            except ValueError as error:
                raise Vision3DError(f"{path}: pose {number}: {error}") from None
        raise


def read_times(path: str | Path) -> Float64[np.ndarray, " n"]:
    """Read a times file of the odometry benchmark: seconds since frame 0. Vision3DError as `read_poses`."""
    return _table(Path(path), 1)[:, 0].copy()


def _table(path: Path, columns: int) -> Float64[np.ndarray, "n c"]:
    rows = []
    for number, line in enumerate(read_ascii(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            raise Vision3DError(f"{path}:{number}: {columns} finite numbers are needed, got {line.strip()[:60]!r}")
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, columns)
