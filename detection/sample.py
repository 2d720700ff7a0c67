"""What the detector takes: clouds as voxels, their images, true boxes; one cloud and a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from vision3d.core import Boxes3D, Image, PointCloud
from vision3d.detection.image_features import stack_images
from vision3d.detection.voxelize import Voxels
from vision3d.io.kitti import KittiCalibration


@dataclass(frozen=True, slots=True)
class DetectionSample:
    """voxels: of one cloud. boxes: true ones in the frame "lidar", labels being the detector's classes; None: unknown.

    rgb, in [0, 1], and pixel_from_point (see `VoxelImages`): for detectors with images. seed: for what losses draw.
    """

    name: str
    voxels: Voxels
    boxes: Boxes3D | None = None
    rgb: Float[Tensor, "3 h w"] | None = None
    pixel_from_point: Float[Tensor, "3 4"] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DetectionBatch:
    """Several samples. means, indices: of the voxels of all clouds, (batch, z, y, x). seed: for what losses draw."""

    names: tuple[str, ...]
    means: Float[Tensor, "m c"]
    indices: Int[Tensor, "m 4"]
    boxes: tuple[Boxes3D, ...]
    images: Float[Tensor, "b 3 h w"] | None = None
    image_sizes: Float[Tensor, "b 2"] | None = None
    pixel_from_point: Float[Tensor, "b 3 4"] | None = None
    seed: int = 0


def collate_samples(samples: Sequence[DetectionSample]) -> DetectionBatch:
    """Samples as a batch; its seed is the first one's. ValueError: no sample, or only some have images."""
    if not samples:
        raise ValueError("a batch needs at least one sample")
    boxes = tuple(Boxes3D.empty() if s.boxes is None else s.boxes for s in samples)
    means = torch.cat([s.voxels.means for s in samples])
    indices = torch.cat([pad(s.voxels.indices, (1, 0), value=b) for b, s in enumerate(samples)])
    names = tuple(s.name for s in samples)
    rgb = [s.rgb for s in samples if s.rgb is not None]
    matrices = [s.pixel_from_point for s in samples if s.pixel_from_point is not None]
    if len(rgb) != len(matrices) or len(rgb) not in (0, len(samples)):
        raise ValueError("all samples of a batch have an image with its projection, or none has")
    if not rgb:
        return DetectionBatch(names, means, indices, boxes, seed=samples[0].seed)
    images, sizes = stack_images(rgb)
    return DetectionBatch(names, means, indices, boxes, images, sizes, torch.stack(matrices), samples[0].seed)


def point_rows(cloud: PointCloud, columns: int) -> Float[Tensor, "n c"]:
    """(x, y, z, features...) of a cloud in the frame "lidar", float32; missing features are 0.

    Raises:
        ValueError: another frame, or more features than the detector takes.
    """
    if cloud.frame != "lidar":
        raise ValueError(f"the detector takes clouds in the frame 'lidar', this one is in {cloud.frame!r}")
    features = cloud.points.new_zeros(len(cloud.points), 0) if cloud.features is None else cloud.features
    missing = columns - 3 - features.shape[1]
    if missing < 0:
        raise ValueError(f"the detector takes {columns - 3} features per point, the cloud has {features.shape[1]}")
    rows = torch.cat([cloud.points, features.to(cloud.points)], dim=1)
    return pad(rows, (0, missing)).float()


def pixel_from_lidar(calibration: KittiCalibration, image: Image, index: int = 2) -> Float[Tensor, "3 4"]:
    """From points in the LiDAR's frame to homogeneous px of the image as decoded (resized and cropped, if it was)."""
    width, height = image.original_size
    matrix = calibration.camera(index, width, height).matrix() @ calibration.cam_from_velo(index).matrix()[:3]
    # Image.to_original: p_original = p * scale + offset.
    to_shown = torch.eye(3, dtype=matrix.dtype)
    for axis in range(2):
        to_shown[axis, axis] = 1 / image.scale[axis]
        to_shown[axis, 2] = -image.offset[axis] / image.scale[axis]
    return (to_shown @ matrix).float()
