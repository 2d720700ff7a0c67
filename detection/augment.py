"""Random changes of a labelled scan: pasted objects, mirror image, turn about the vertical axis, scale.

Yan et al., "SECOND", Sensors 2018, section 3.2 (ground-truth sampling, global rotation and scaling). Everything drawn
comes from the generator given, so that a sample is a function of its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Boxes3D
from vision3d.detection.object_database import ObjectDatabase, paste_objects
from vision3d.io.kitti import KittiCalibration


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """paste: for each class of the detector, up to how many objects a scan should hold; empty: none are pasted.

    flip: mirrors left and right in half of all cases. rotation_deg: largest turn about z, either way. scale: smallest
    and largest factor. min_points: objects with fewer points are not pasted.
    """

    paste: tuple[int, ...] = ()
    min_points: int = 5
    flip: bool = True
    rotation_deg: float = 45.0
    scale: tuple[float, float] = (0.95, 1.05)

    def __post_init__(self) -> None:
        if any(count < 0 for count in self.paste) or not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"counts are not negative and rotation_deg lies in 0..180, got {self}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale goes from a positive factor to one not smaller, got {self.scale}")


@dataclass(frozen=True, slots=True)
class Scene:
    """points: x, y, z, then features. boxes: in the same frame. from_original: what was done to positions (x, y, z)."""

    points: Float[Tensor, "n c"]
    boxes: Boxes3D
    from_original: Float[Tensor, "3 3"]


def augment(
    points: Float[Tensor, "n c"],
    boxes: Boxes3D,
    config: AugmentConfig,
    rng: np.random.Generator,
    database: ObjectDatabase | None = None,
    plane: Float[Tensor, " 4"] | None = None,
    calibration: KittiCalibration | None = None,
) -> Scene:
    """A changed scan. database: of objects to paste, which stand on the plane (see `read_plane`) if it is given."""
    if database is not None and config.paste:
        points, boxes = paste_objects(points, boxes, database, config.paste, rng, plane, calibration)
    mirrored = config.flip and bool(rng.integers(2))
    angle = math.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
    factor = rng.uniform(*config.scale)
    return moved(points, boxes, mirrored, angle, factor)


def moved(points: Float[Tensor, "n c"], boxes: Boxes3D, mirrored: bool, angle: float, factor: float) -> Scene:
    """First mirrored (y to -y), then turned by `angle` rad about +z, then scaled about the origin."""
    side = -1.0 if mirrored else 1.0
    c, s = math.cos(angle), math.sin(angle)
    matrix = factor * torch.tensor([[c, -s * side, 0.0], [s, c * side, 0.0], [0.0, 0.0, 1.0]])
    m = matrix.to(points)
    centers = boxes.centers @ matrix.to(boxes.centers).T
    yaw = side * boxes.yaw + angle
    changed = Boxes3D(centers, boxes.sizes * factor, yaw, boxes.labels, boxes.scores, boxes.frame)
    return Scene(torch.cat([points[:, :3] @ m.T, points[:, 3:]], dim=1), changed, matrix)
