"""Training: samples as a function of the seed, losses, validation, configurations, and (slow) six frames by heart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.config import read_yaml
from vision3d.data.kitti_object import KittiObjectDataset
from vision3d.data.simulation.streets import SimulatedStreetsConfig
from vision3d.detection.augment import AugmentConfig
from vision3d.detection.backbone import BackboneConfig
from vision3d.detection.bev_backbone import BevConfig
from vision3d.detection.detector import Detector, DetectorConfig, load_detector
from vision3d.detection.focal import FocalConfig
from vision3d.detection.grid import VoxelGrid
from vision3d.errors import UsageError
from vision3d.eval.kitti_object import OFFICIAL_OVERLAPS, score_frames
from vision3d.eval.kitti_results import as_frames
from vision3d.train.config import OptimiserConfig, ScheduleConfig, TrainConfig
from vision3d.train.detector import DetectionDataConfig, DetectorTask, DetectorTaskConfig, build
from vision3d.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
COARSE = DetectorConfig(
    grid=VoxelGrid(size=(0.4, 0.4, 0.2)),
    backbone=BackboneConfig(channels=(8, 8, 8, 8, 8), strides=((2, 2, 2), (2, 2, 2), (1, 1, 1))),
    bev=BevConfig(layers=(1,), strides=(1,), channels=(8,), up_strides=(1,), up_channels=(8,)),
)


def coarse_task(test_data: Path) -> DetectorTask:
    data = DetectionDataConfig(kitti=test_data / "kitti", split=None)
    return build(
        DetectorTaskConfig(detector=COARSE, data=data, validation=data, augment=AugmentConfig(paste=(12, 3, 3)), seed=5)
    )


def test_samples_are_a_function_of_seed_epoch_and_index(test_data: Path) -> None:
    one, two = coarse_task(test_data), coarse_task(test_data)
    a, b, later = one.dataset.sample(1, 0), two.dataset.sample(1, 0), one.dataset.sample(1, 1)
    assert torch.equal(a.voxels.means, b.voxels.means) and torch.equal(a.voxels.indices, b.voxels.indices)
    assert a.seed == b.seed != later.seed and a.boxes is not None and len(a.boxes) > 4
    assert len(a.voxels.means) != len(later.voxels.means)
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_losses_and_validation(test_data: Path) -> None:
    task = coarse_task(test_data)
    batch = task.collate([task.dataset.sample(i, 0) for i in (0, 1)])
    losses = task.losses(batch)
    assert set(losses) == {"loss", "classes", "boxes", "directions"}
    total = sum(float(v.detach()) for k, v in losses.items() if k != "loss")
    assert float(losses["loss"].detach()) == pytest.approx(total)
    losses["loss"].backward()
    task.model.eval()
    metrics = task.validate()
    assert task.main_metric in metrics and "car_3d_moderate" in metrics and all(0 <= v <= 100 for v in metrics.values())


def test_the_loop_trains_it(test_data: Path, tmp_path: Path) -> None:
    task = coarse_task(test_data)
    before = task.model.dense_head.conv_cls.weight.detach().clone()
    loop = TrainConfig(steps=2, batch_size=2, device="cpu", log_every=1, optimiser=OptimiserConfig(clip=10.0))
    train(task, loop, tmp_path / "run", name="detector", settings=task.config)
    assert not torch.equal(before, task.model.dense_head.conv_cls.weight)
    again = load_detector(tmp_path / "run" / "weights.safetensors", tmp_path / "run" / "config.yaml")
    assert again.config == COARSE
    cloud = task.dataset.frames[0].cloud
    task.model.eval()
    torch.testing.assert_close(again.detect(cloud).centers, task.model.detect(cloud).centers)


def test_projections_follow_the_augmentation(test_data: Path) -> None:
    """A true box's centre, moved with its scan, still lies on its pixel."""
    data = DetectionDataConfig(kitti=test_data / "kitti", split=None)
    image = dataclasses.replace(
        COARSE, image=True, backbone=dataclasses.replace(COARSE.backbone, focal=FocalConfig(stages=(1,)))
    )
    plain, changed = (
        build(DetectorTaskConfig(detector=image, data=data, augment=a)).dataset.sample(4, 0)
        for a in (None, AugmentConfig())
    )
    pixels = []
    for sample in (plain, changed):
        assert sample.boxes is not None and sample.pixel_from_point is not None
        p = sample.pixel_from_point
        moved = sample.boxes.centers @ p[:, :3].T + p[:, 3]
        pixels.append(moved[:, :2] / moved[:, 2:])
    assert plain.boxes is not None and changed.boxes is not None and len(plain.boxes) == len(changed.boxes) > 5
    assert not torch.allclose(plain.boxes.centers, changed.boxes.centers, atol=0.5)
    torch.testing.assert_close(pixels[0], pixels[1], atol=0.05, rtol=1e-3)


def test_true_boxes_as_results_are_perfect(test_data: Path) -> None:
    """Through boxes and back; copies lift the cap that few true objects put on the precision."""
    frames = list(KittiObjectDataset(test_data / "kitti", classes=("Car",)))
    truth = [frame.objects for frame in frames if frame.objects is not None]
    rng = np.random.default_rng(0)
    results = []
    for objects in truth:
        cars = objects.select(np.array([t == "Car" for t in objects.types]))
        results.append(dataclasses.replace(cars, scores=rng.random(len(cars))))
    names = [frame.name for frame in frames]
    overlaps = {"Car": OFFICIAL_OVERLAPS["Car"]}
    cap = {}
    for copies in (1, 10):
        curves = score_frames(as_frames(names, truth, results, copies), overlaps).curves["Car"]["3d"]
        assert curves is not None
        cap[copies] = curves.r40()
    assert cap[1][1:] == [32.5, 37.5] and cap[10][1:] == [100.0, 100.0]
    with pytest.raises(ValueError, match="need scores"):
        as_frames(names, truth, truth)
    with pytest.raises(ValueError, match="as many names"):
        as_frames([], [], [])


def test_simulated_streets_as_training_set() -> None:
    data = DetectionDataConfig(streets=SimulatedStreetsConfig(count=2, seed=1))
    task = build(DetectorTaskConfig(detector=COARSE, data=data))
    sample = task.dataset.sample(0, 0)
    assert len(sample.voxels.means) > 500 and len(task.dataset) == 2


def test_wrong_settings(test_data: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.kitti"):
        build(DetectorTaskConfig(detector=COARSE))
    with pytest.raises(ValueError, match="either kitti or streets"):
        DetectionDataConfig(kitti=test_data / "kitti", streets=SimulatedStreetsConfig())
    data = DetectionDataConfig(kitti=test_data / "kitti", split=None)
    with pytest.raises(UsageError, match="a count for each"):
        build(DetectorTaskConfig(detector=COARSE, data=data, augment=AugmentConfig(paste=(5,))))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_configurations_build_their_detectors(file: Path) -> None:
    settings = settings_of(file)
    Detector(settings.detector)
    paste = settings.augment.paste if settings.augment is not None else ()
    assert len(paste) in (0, len(settings.detector.classes))


def settings_of(file: Path) -> DetectorTaskConfig:
    from pydantic import TypeAdapter

    content = read_yaml(file)
    assert content["task"] == "detector"
    TypeAdapter(TrainConfig).validate_python(content["train"])
    return TypeAdapter(DetectorTaskConfig).validate_python(content["settings"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["second-compact", "second-focals-compact"])
def test_six_real_frames_by_heart(name: str, test_data: Path, tmp_path: Path) -> None:
    """300 steps without changes of the scans: about 8 minutes (plain) and 15 to 20 (focal) of one busy core.

    It shows that all parts work together, and nothing about other scans.
    """
    data = DetectionDataConfig(kitti=test_data / "kitti", split=None)
    config = dataclasses.replace(
        settings_of(CONFIGS / f"{name}.yaml"), data=data, validation=data, augment=None, validation_copies=10
    )
    schedule = ScheduleConfig(name="onecycle", low_momentum=0.85)
    optimiser = OptimiserConfig(lr=3e-3, clip=10.0)
    loop = TrainConfig(
        steps=300, batch_size=2, optimiser=optimiser, schedule=schedule, validate_every=None, device="cpu"
    )
    task = build(config)
    train(task, loop, tmp_path / "run")
    task.model.eval()
    metrics = task.validate()
    assert metrics["car_3d_moderate"] >= 95 and metrics["car_3d_hard"] >= 95
