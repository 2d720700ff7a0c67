"""The detector: SECOND and Voxel R-CNN on our sparse engine, plain or with focal convolutions, with images or without.

Yan et al., "SECOND", Sensors 2018; Deng et al., "Voxel R-CNN", AAAI 2021; Chen et al., "Focal Sparse Convolutional
Networks for 3D Object Detection", CVPR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.config import load_config, read_yaml
from vision3d.core import Boxes3D, Image, PointCloud, SparseTensor
from vision3d.detection.anchor_head import AnchorHead, AnchorHeadConfig, AnchorOutput
from vision3d.detection.backbone import BackboneConfig, BackboneOutput, SparseBackbone
from vision3d.detection.bev_backbone import BevBackbone, BevConfig
from vision3d.detection.focal import importance_loss
from vision3d.detection.grid import VoxelGrid
from vision3d.detection.image_features import ImageFeatures, VoxelImages
from vision3d.detection.roi_head import RoiHead, RoiHeadConfig
from vision3d.detection.sample import DetectionBatch, DetectionSample, collate_samples, pixel_from_lidar, point_rows
from vision3d.detection.suppression import SuppressionConfig, select_boxes
from vision3d.detection.voxelize import voxelize
from vision3d.io.kitti import KittiCalibration


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The defaults are SECOND on KITTI with three classes.

    point_columns: x, y, z and features (4: with intensity). max_points: per voxel. max_voxels: per cloud at detection,
    max_voxels_train: in training. refine: Voxel R-CNN's second stage, None for a detector of one stage. image: Focals
    Conv-F, which takes a photo and its calibration.
    """

    grid: VoxelGrid = field(default_factory=VoxelGrid)
    point_columns: int = 4
    max_points: int = 5
    max_voxels: int = 40000
    max_voxels_train: int = 16000
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    bev: BevConfig = field(default_factory=BevConfig)
    head: AnchorHeadConfig = field(default_factory=AnchorHeadConfig)
    refine: RoiHeadConfig | None = None
    suppression: SuppressionConfig = field(default_factory=SuppressionConfig)
    image: bool = False
    importance_weight: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the labels of boxes."""
        return tuple(kind.name for kind in self.head.classes)


@dataclass(frozen=True, slots=True)
class DetectorOutput:
    """What the first stage says, and the features that a second one needs."""

    features: BackboneOutput
    anchors: AnchorOutput


@dataclass(frozen=True, slots=True)
class DetectorLosses:
    """Weighted terms; those of parts that a detector has not are None. Importance is summed over focal blocks."""

    classes: Float[Tensor, ""]
    boxes: Float[Tensor, ""]
    directions: Float[Tensor, ""]
    importance: Float[Tensor, ""] | None
    roi_scores: Float[Tensor, ""] | None
    roi_boxes: Float[Tensor, ""] | None
    roi_corners: Float[Tensor, ""] | None

    def terms(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        every = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in every.items() if value is not None}

    def total(self) -> Float[Tensor, ""]:
        """Their sum."""
        return torch.stack(list(self.terms().values())).sum()


class Detector(nn.Module):
    """Points (x, y, z, intensity) to boxes; parameter names are OpenPCDet's, see checkpoint.py."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        grid, channels = config.grid, config.backbone.channels[0]
        image_channels = channels if config.image else 0
        self.backbone_3d = SparseBackbone(config.backbone, grid, config.point_columns, image_channels)
        self.semseg = ImageFeatures(channels) if config.image else None
        self.backbone_2d = BevBackbone(config.bev, self.backbone_3d.bev_channels)
        self.dense_head = AnchorHead(config.head, grid, self.backbone_2d.out_channels)
        stages = self.backbone_3d.stage_channels
        self.roi_head = RoiHead(config.refine, grid, stages) if config.refine is not None else None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, batch: DetectionBatch) -> DetectorOutput:
        """The first stage. ValueError: images missing where the detector takes them, or given where not."""
        images = None
        if batch.images is not None and batch.image_sizes is not None and batch.pixel_from_point is not None:
            if self.semseg is None:
                raise ValueError("this detector takes no images: leave them out, or set config.image")
            pixels = batch.images.to(self.device)
            images = VoxelImages(self.semseg(pixels), batch.pixel_from_point, batch.image_sizes)
        elif self.semseg is not None:
            raise ValueError("this detector takes an image and its calibration with each cloud")
        voxels = SparseTensor(batch.means, batch.indices, self.config.grid.spatial_shape, len(batch.names))
        features = self.backbone_3d(voxels.to(self.device), images)
        return DetectorOutput(features, self.dense_head(self.backbone_2d(features.bev)))

    def losses(self, batch: DetectionBatch) -> DetectorLosses:
        """Of a batch with true boxes; proposals are drawn by batch.seed."""
        out = self(batch)
        first = self.dense_head.losses(out.anchors, batch.boxes)
        importance = second = None
        if self.config.backbone.focal is not None:
            importance = importance_loss(out.features.importances, batch.boxes, self.config.grid)
            importance = importance.to(first.classes) * self.config.importance_weight
        if self.roi_head is not None:
            generator = torch.Generator().manual_seed(batch.seed)
            second = self.roi_head.losses(out.features, out.anchors, batch.boxes, generator)
        return DetectorLosses(
            first.classes,
            first.boxes,
            first.directions,
            importance,
            None if second is None else second.scores,
            None if second is None else second.boxes,
            None if second is None else second.corners,
        )

    def detect_batch(self, batch: DetectionBatch) -> list[Boxes3D]:
        """Boxes of each cloud, best first, in the frame "lidar" on the CPU; the module must be in evaluation mode."""
        if self.training:
            raise ValueError("call eval() before detecting: batch norm in training mode gives other results")
        with torch.no_grad():
            out = self(batch)
            if self.roi_head is not None:
                found = self.roi_head.detect(out.features, out.anchors, self.config.suppression)
            else:
                scores, labels = out.anchors.classes.sigmoid().max(dim=-1)
                rows = zip(out.anchors.boxes(), labels, scores, strict=True)
                found = [select_boxes(*row, self.config.suppression) for row in rows]
        return [_on_cpu(boxes) for boxes in found]

    def sample(
        self, cloud: PointCloud, image: Image | None = None, calibration: KittiCalibration | None = None, name: str = ""
    ) -> DetectionSample:
        """A cloud as `detect` takes it. Errors as there."""
        config = self.config
        rows = point_rows(cloud, config.point_columns)
        voxels = voxelize(rows, config.grid, config.max_points, config.max_voxels)
        if not config.image:
            return DetectionSample(name, voxels)
        if image is None or calibration is None:
            raise ValueError("this detector takes an image and its calibration with each cloud")
        return DetectionSample(name, voxels, None, image.rgb, pixel_from_lidar(calibration, image))

    def detect(
        self, cloud: PointCloud, image: Image | None = None, calibration: KittiCalibration | None = None
    ) -> Boxes3D:
        """Boxes in a cloud of the frame "lidar" (x forward, y left, z up, m; features: intensity in [0, 1]).

        Best first, scores in [0, 1], labels: indices of config.classes. A cloud without a point in the grid has no
        boxes. image, calibration: for detectors with config.image, the left colour camera's; else not looked at.

        Raises:
            ValueError: another frame, points that are not finite, too many features, a missing image.
        """
        sample = self.sample(cloud, image, calibration)
        if not len(sample.voxels.means):
            return Boxes3D.empty("lidar", scored=True)
        return self.detect_batch(collate_samples([sample]))[0]


def load_detector(weights: Path, config: Path | DetectorConfig) -> Detector:
    """A detector in evaluation mode from a file of weights (ours or OpenPCDet's) and its settings.

    config: the settings, a YAML file of them, or one of a training run (`task: detector`), whose detector counts.

    Raises:
        UsageError: a broken configuration. Vision3DError: weights that are missing, damaged or of another architecture.
    """
    from vision3d.detection.checkpoint import load_checkpoint

    if not isinstance(config, DetectorConfig):
        section = ("settings", "detector") if "task" in read_yaml(config) else ()
        config = load_config(DetectorConfig, config, section)
    detector = Detector(config)
    load_checkpoint(detector, weights)
    return detector.eval()


def _on_cpu(boxes: Boxes3D) -> Boxes3D:
    scores = None if boxes.scores is None else boxes.scores.cpu()
    parts = (boxes.centers.cpu(), boxes.sizes.cpu(), boxes.yaw.cpu(), boxes.labels.cpu())
    return Boxes3D(*parts, scores, boxes.frame)
