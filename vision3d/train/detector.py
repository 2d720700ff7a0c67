"""Training of the LiDAR detector on KITTI's object frames or on simulated streets (`task: detector`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from vision3d.data.kitti_object import LEFT, KittiObjectDataset, KittiObjectSample, find_image, image_size
from vision3d.data.simulation.labels import IMAGE_SIZE
from vision3d.data.simulation.streets import SimulatedStreets, SimulatedStreetsConfig
from vision3d.detection.augment import AugmentConfig, Scene, augment
from vision3d.detection.checkpoint import load_image_backbone
from vision3d.detection.detector import Detector, DetectorConfig
from vision3d.detection.object_database import ObjectDatabase, build_database
from vision3d.detection.sample import DetectionBatch, DetectionSample, collate_samples, pixel_from_lidar, point_rows
from vision3d.detection.voxelize import voxelize
from vision3d.errors import UsageError
from vision3d.eval.kitti_object import OFFICIAL_OVERLAPS, score_frames
from vision3d.eval.kitti_results import as_frames
from vision3d.io.kitti import boxes_to_kitti


@dataclass(frozen=True, kw_only=True)
class DetectionDataConfig:
    """Where scans come from: a folder in KITTI's layout, or streets simulated on the way."""

    kitti: Path | None = None
    """KITTI's object folder, which holds training/ and ImageSets/"""
    split: str | None = "train"
    """name of a file in ImageSets; null: all scans"""
    in_view: bool = True
    """keep only the points that the left colour image shows; needs image_2"""
    streets: SimulatedStreetsConfig | None = None
    """simulated streets instead of a folder"""

    def __post_init__(self) -> None:
        if self.kitti is not None and self.streets is not None:
            raise ValueError("give either kitti or streets")


@dataclass(frozen=True, kw_only=True)
class DetectorTaskConfig:
    """A detector, its scans and how they are changed."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    data: DetectionDataConfig = field(default_factory=DetectionDataConfig)
    validation: DetectionDataConfig | None = None
    """scans to measure average precision on; null: none"""
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    """null: scans as they are"""
    seed: int = 0
    """of all that is drawn for the samples, and of the weights at the start"""
    image_weights: Path | None = None
    """file of a ResNet-50 or of torchvision's DeepLabV3 that the image features begin with; null: random"""
    validation_copies: int = 1
    """how many times each frame is counted: below 40 true objects, KITTI's rules cap the precision below 100"""


@runtime_checkable
class Frames(Protocol):
    """Labelled frames by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> KittiObjectSample: ...


class DetectionTrainingSet:
    """Scans as the detector takes them, changed anew in every epoch."""

    def __init__(self, frames: Frames, config: DetectorTaskConfig, database: ObjectDatabase | None) -> None:
        self.frames, self.config, self.database = frames, config, database

    def __len__(self) -> int:
        return len(self.frames)

    def sample(self, index: int, epoch: int) -> DetectionSample:
        """A function of the seed, the epoch and the index alone."""
        config = self.config.detector
        rng = np.random.default_rng((self.config.seed, epoch, index))
        frame = self.frames[index]
        if frame.boxes is None:
            raise UsageError(f"frame {frame.name} has no labels to learn from")
        points = point_rows(frame.cloud, config.point_columns)
        scene = Scene(points, frame.boxes, torch.eye(3))
        if self.config.augment is not None:
            changes = self.config.augment
            scene = augment(points, frame.boxes, changes, rng, self.database, frame.plane, frame.calibration)
        shuffled = scene.points[torch.from_numpy(rng.permutation(len(scene.points)))]
        voxels = voxelize(shuffled, config.grid, config.max_points, config.max_voxels_train)
        low, high = (scene.boxes.centers.new_tensor(v) for v in (config.grid.low, config.grid.high))
        inside = ((scene.boxes.centers >= low) & (scene.boxes.centers < high)).all(1)
        seed = int(rng.integers(2**31))
        boxes = scene.boxes.select(inside)
        if not config.image:
            return DetectionSample(frame.name, voxels, boxes, seed=seed)
        if frame.image_left is None:
            raise UsageError(f"frame {frame.name} has no image, which this detector takes")
        pixel = pixel_from_lidar(frame.calibration, frame.image_left)
        undone = torch.cat([pixel[:, :3] @ torch.linalg.inv(scene.from_original), pixel[:, 3:]], dim=1)
        return DetectionSample(frame.name, voxels, boxes, frame.image_left.rgb, undone, seed)


class DetectorTask:
    """The model, its samples, its losses and its average precision by KITTI's rules."""

    main_metric = "3d_moderate"

    def __init__(self, config: DetectorTaskConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Detector(config.detector)
        if config.image_weights is not None:
            load_image_backbone(self.model, config.image_weights)
        frames = _frames(config.data, config.detector)
        database = None
        if config.augment is not None and config.augment.paste:
            if len(config.augment.paste) != len(config.detector.classes):
                raise UsageError(f"augment.paste needs a count for each of {', '.join(config.detector.classes)}")
            columns = config.detector.point_columns
            every = (frames[i] for i in range(len(frames)))
            scans = ((point_rows(f.cloud, columns), f.boxes) for f in every if f.boxes is not None)
            database = build_database(scans, config.augment.min_points)
        self.dataset = DetectionTrainingSet(frames, config, database)
        self.validation = None if config.validation is None else _frames(config.validation, config.detector)

    @property
    def collate(self) -> Callable[[list[DetectionSample]], DetectionBatch]:
        """Voxels of several clouds behind each other."""
        return collate_samples

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """ "loss" is the sum of the others."""
        found = self.model.losses(batch)
        return {"loss": found.total(), **found.terms()}

    def validate(self) -> dict[str, float]:
        """Average precision in percent, 40 recall positions: METRIC_DIFFICULTY (mean of classes), CLASS_METRIC_...."""
        if self.validation is None:
            return {}
        truth, found, names = [], [], []
        classes = self.config.detector.classes
        for i in range(len(self.validation)):
            frame = self.validation[i]
            if frame.objects is None:
                raise UsageError(f"frame {frame.name} has no labels to validate with")
            boxes = self.model.detect(frame.cloud, frame.image_left, frame.calibration)
            width, height = _image_size(self.validation, frame.name)
            names.append(frame.name)
            truth.append(frame.objects)
            found.append(boxes_to_kitti(boxes, classes, frame.calibration, width, height))
        overlaps = {name: OFFICIAL_OVERLAPS.get(name, (0.5, 0.5, 0.5)) for name in classes}
        frames = as_frames(names, truth, found, self.config.validation_copies)
        return _summary(score_frames(frames, overlaps).json()["R40"], classes)


def build(config: DetectorTaskConfig) -> DetectorTask:
    """The task. UsageError: no data, or none where it should be."""
    return DetectorTask(config)


def _summary(r40: object, classes: Sequence[str]) -> dict[str, float]:
    """Flat names; a class that is not detected at all has 0."""
    assert isinstance(r40, dict)
    metrics: tuple[Literal["3d", "bev"], ...] = ("3d", "bev")
    out: dict[str, float] = {}
    for metric in metrics:
        for d, difficulty in enumerate(("easy", "moderate", "hard")):
            each = [(r40[name][metric] or [0.0, 0.0, 0.0])[d] for name in classes]
            out[f"{metric}_{difficulty}"] = sum(each) / len(each)
            out |= {f"{name.lower()}_{metric}_{difficulty}": v for name, v in zip(classes, each, strict=True)}
    return out


def _frames(data: DetectionDataConfig, detector: DetectorConfig) -> Frames:
    if data.streets is not None:
        if detector.image:
            raise UsageError("simulated streets have no images, which this detector takes")
        return SimulatedStreets(data.streets, detector.classes)
    if data.kitti is None:
        raise UsageError("say where the scans are: data.kitti (a folder in KITTI's layout) or data.streets")
    images = (LEFT,) if detector.image else ()
    return KittiObjectDataset(data.kitti, data.split, classes=detector.classes, images=images, in_view=data.in_view)


def _image_size(frames: Frames, name: str) -> tuple[int, int]:
    """(width, height) px of the left colour image, of the simulated one where there is no image_2."""
    if isinstance(frames, KittiObjectDataset) and (folder := frames.folder / f"image_{LEFT}").is_dir():
        return image_size(find_image(folder, name))
    return IMAGE_SIZE
