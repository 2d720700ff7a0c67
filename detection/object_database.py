"""Labelled objects cut out of the training scans, to be pasted into others where they hit nothing.

Yan et al., "SECOND", Sensors 2018, section 3.2.1 (sampling ground truths from a database, collision test).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Boxes3D
from vision3d.geometry.boxes_overlap import footprints
from vision3d.geometry.rotated_rectangles import intersection_areas
from vision3d.io.kitti import KittiCalibration


@dataclass(frozen=True, slots=True)
class ObjectDatabase:
    """boxes: of all objects, in the LiDAR's frame. points: those of object i are starts[i] to starts[i + 1]."""

    boxes: Boxes3D
    points: Float[Tensor, "n c"]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def points_of(self, i: int) -> Float[Tensor, "k c"]:
        """The points in object i's box."""
        return self.points[self.starts[i] : self.starts[i + 1]]


def build_database(scans: Iterable[tuple[Float[Tensor, "_n _c"], Boxes3D]], min_points: int) -> ObjectDatabase:
    """All objects of labelled scans (points with x, y, z first; boxes) that have at least min_points points."""
    boxes: list[Boxes3D] = []
    points: list[Tensor] = []
    for rows, labelled in scans:
        inside = labelled.contains(rows[:, :3])
        keep = (inside.sum(1) >= min_points).nonzero()[:, 0]
        boxes.append(labelled.select(keep))
        points += [rows[inside[i]] for i in keep.tolist()]
    if not points:
        return ObjectDatabase(Boxes3D.empty(), torch.zeros(0, 4), (0,))
    starts = np.cumsum([0, *(len(p) for p in points)]).tolist()
    return ObjectDatabase(_join(boxes), torch.cat(points), tuple(starts))


def paste_objects(
    points: Float[Tensor, "n c"],
    boxes: Boxes3D,
    database: ObjectDatabase,
    counts: Sequence[int],
    rng: np.random.Generator,
    plane: Float[Tensor, " 4"] | None = None,
    calibration: KittiCalibration | None = None,
) -> tuple[Float[Tensor, "k c"], Boxes3D]:
    """The scan with objects of each class until it has counts[class] of them, fewer where they would hit others.

    Points of the scan inside pasted boxes are taken out. With a ground plane (in the rectified camera frame) and the
    calibration, objects are put on it.
    """
    chosen = []
    for label, count in enumerate(counts):
        mine = (database.boxes.labels == label).nonzero()[:, 0].numpy()
        wanted = min(len(mine), count - int((boxes.labels == label).sum()))
        if wanted > 0:
            chosen += rng.choice(mine, wanted, replace=False).tolist()
    standing, kept = footprints(boxes), []
    for i in chosen:
        one = footprints(database.boxes.select(torch.tensor([i])))
        if not (intersection_areas(one, standing) > 0).any():
            kept.append(i)
            standing = np.concatenate([standing, one])
    if not kept:
        return points, boxes
    pasted = database.boxes.select(torch.tensor(kept))
    lifts = torch.zeros(len(kept), dtype=pasted.centers.dtype)
    if plane is not None and calibration is not None:
        lifts = ground_heights(plane, calibration, pasted.centers) - (pasted.centers[:, 2] - pasted.sizes[:, 2] / 2)
    up = torch.nn.functional.pad(lifts[:, None], (2, 0))
    pasted = Boxes3D(pasted.centers + up, pasted.sizes, pasted.yaw, pasted.labels, None, pasted.frame)
    free = ~pasted.contains(points[:, :3]).any(0)
    parts = [points[free]]
    for i, lift in zip(kept, lifts.tolist(), strict=True):
        mine_points = database.points_of(i).to(points).clone()
        mine_points[:, 2] += lift
        parts.append(mine_points)
    return torch.cat(parts), _join([boxes, pasted])


def ground_heights(
    plane: Float[Tensor, " 4"], calibration: KittiCalibration, centers: Float[Tensor, "n 3"]
) -> Float[Tensor, " n"]:
    """z of the plane (a, b, c, d in the rectified camera frame) above or below each place, in the LiDAR's frame."""
    to_rect = calibration.rect_from_velo
    normal = plane[:3].double() @ to_rect.rotation.double()
    offset = plane[:3].double() @ to_rect.translation.double() + plane[3].double()
    heights: Tensor = -(centers[:, :2].double() @ normal[:2] + offset) / normal[2]
    return heights.to(centers)


def _join(parts: Sequence[Boxes3D]) -> Boxes3D:
    columns = [
        torch.cat([getattr(p, name).to(parts[0].centers) for p in parts]) for name in ("centers", "sizes", "yaw")
    ]
    labels = torch.cat([p.labels for p in parts])
    return Boxes3D(columns[0], columns[1], columns[2], labels, None, parts[0].frame)
