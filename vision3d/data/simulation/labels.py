"""KITTI's labels of simulated objects: boxes, truncation, occlusion levels from the visible share of their rays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from vision3d.core import Boxes3D, RigidTransform
from vision3d.data.simulation.solids import Solid
from vision3d.io.kitti import LEVEL_FROM_RECT, OURS_FROM_KITTI_PX, KittiCalibration, boxes_to_kitti
from vision3d.io.kitti_labels import DONT_CARE, KittiObjects

IMAGE_SIZE = (1242, 375)  # px
KINDS = ("Car", "Van", "Truck", "Pedestrian", "Cyclist")
# Least visible shares of KITTI's levels 0 (fully visible), 1 (partly occluded) and 2 (largely occluded).
_LEVELS = (0.8, 0.45, 0.1)
_LEFT = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """An object at one moment, in the street's frame. kind: of KINDS. center: of its box, size: length, width, height,
    m; yaw: rad."""

    kind: str
    solid: Solid
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float


def virtual_calibration() -> KittiCalibration:
    """Cameras like KITTI's: f = 721 px, in stereo pairs 0.54 m apart, 8 cm above and 27 cm before the LiDAR."""
    projections = torch.zeros(4, 3, 4, dtype=torch.float64)
    projections[:, 0, 0] = projections[:, 1, 1] = 721.0
    projections[:, 0, 2], projections[:, 1, 2], projections[:, 2, 2] = 609.5, 173.0, 1.0
    projections[:, 0, 3] = 721.0 * torch.tensor([0.0, -0.54, 0.06, -0.48], dtype=torch.float64)
    axes = torch.tensor(LEVEL_FROM_RECT, dtype=torch.float64).mT
    camera = torch.tensor([0.27, 0.0, -0.08], dtype=torch.float64)  # in the LiDAR's frame
    imu = RigidTransform(torch.eye(3, dtype=torch.float64), torch.tensor([-0.81, 0.32, -0.8], dtype=torch.float64))
    return KittiCalibration(projections, RigidTransform.identity(), RigidTransform(axes, -axes @ camera), imu)


def label(
    standing: Sequence[Standing],
    lidar_from_street: RigidTransform,
    calibration: KittiCalibration,
    visible: Int64[np.ndarray, " n"],
    alone: Int64[np.ndarray, " n"],
    returned: Int64[np.ndarray, " n"],
    min_points: int,
) -> KittiObjects:
    """The labels of the objects that the left colour image shows.

    visible: rays through the image that meet the object first; alone: those that would if nothing else were there;
    returned: points that it has in the scan. Objects with fewer than min_points become regions DontCare, those that
    no ray meets are left out.
    """
    boxes = Boxes3D(
        torch.tensor([s.center for s in standing], dtype=torch.float64).reshape(-1, 3),
        torch.tensor([s.size for s in standing], dtype=torch.float64).reshape(-1, 3),
        torch.tensor([s.yaw for s in standing], dtype=torch.float64),
        torch.tensor([KINDS.index(s.kind) for s in standing], dtype=torch.int64),
        None,
        "street",
    ).transformed(lidar_from_street, "lidar")
    objects = boxes_to_kitti(boxes, KINDS, calibration, *IMAGE_SIZE, index=_LEFT)
    share = visible / np.maximum(alone, 1)
    occlusion = np.select([share >= level for level in _LEVELS], [0, 1, 2], 3).astype(np.int64)
    shown = (objects.boxes_2d[:, 2] - objects.boxes_2d[:, 0] >= 2) & (visible > 0) & (objects.truncation < 0.95)
    image = objects.boxes_2d.copy()
    for i in np.flatnonzero(shown).tolist():
        image[i] = _outline(standing[i].solid, lidar_from_street, calibration, image[i])
    care = returned >= min_points
    # KITTI's values for what a region DontCare lacks.
    lacking = ~care[:, None]
    return KittiObjects(
        tuple(kind if keep else DONT_CARE for kind, keep in zip(objects.types, care, strict=True)),
        np.where(care, np.round(objects.truncation, 2), -1.0),
        np.where(care, occlusion, -1),
        np.where(care, objects.alpha, -10.0),
        image,
        np.where(lacking, -1.0, objects.dimensions),
        np.where(lacking, -1000.0, objects.locations),
        np.where(care, objects.rotation_y, -10.0),
    ).select(shown)


def _outline(
    solid: Solid, lidar_from_street: RigidTransform, calibration: KittiCalibration, within: Float64[np.ndarray, " 4"]
) -> Float64[np.ndarray, " 4"]:
    """Left, top, right, bottom of the object itself in KITTI's px; `within` where a part lies behind the camera."""
    cam_from_street = calibration.cam_from_velo(_LEFT) @ lidar_from_street
    points = cam_from_street.apply(torch.from_numpy(solid.corners.reshape(-1, 3)))
    if float(points[:, 2].min()) < 0.1:
        return within
    pixels, _ = calibration.camera(_LEFT, *IMAGE_SIZE).project(points)
    low = pixels.amin(0).numpy() - OURS_FROM_KITTI_PX
    high = pixels.amax(0).numpy() - OURS_FROM_KITTI_PX
    most = np.array(IMAGE_SIZE) - 1.0
    out: Float64[np.ndarray, " 4"] = np.concatenate([np.clip(low, 0, most), np.clip(high, 0, most)])
    return out
