"""Simulated streets: pure in seed and number, labels that fit the points, KITTI's folder and back."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.cli.main import main
from vision3d.core import RigidTransform, UsageError
from vision3d.data.kitti_object import KittiObjectDataset, KittiObjectSample
from vision3d.data.simulation.drive import objects_at
from vision3d.data.simulation.labels import KINDS, Standing, label, virtual_calibration
from vision3d.data.simulation.people import cyclist, pedestrian
from vision3d.data.simulation.road import KERB, Road
from vision3d.data.simulation.rooms import overlap
from vision3d.data.simulation.street import StreetConfig, sample_street
from vision3d.data.simulation.street_pairs import SimulatedStreetPairs, SimulatedStreetPairsConfig
from vision3d.data.simulation.streets import SimulatedStreets, SimulatedStreetsConfig
from vision3d.data.simulation.vehicles import car, truck, van
from vision3d.eval.kitti_object import evaluate_kitti_object
from vision3d.geometry.boxes_overlap import iou_bev
from vision3d.io.kitti_labels import DONT_CARE, write_objects


@pytest.fixture(scope="module")
def frames() -> SimulatedStreets:
    return SimulatedStreets(SimulatedStreetsConfig(count=6, seed=5), KINDS)


@pytest.fixture(scope="module")
def samples(frames: SimulatedStreets) -> list[KittiObjectSample]:
    return [frames[i] for i in range(len(frames))]


def test_frames_are_pure_in_seed_and_number(frames: SimulatedStreets) -> None:
    forward = [frames[i] for i in (0, 1)]
    more = SimulatedStreets(dataclasses.replace(frames.config, count=50))
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    again = [more[i] for i in (1, 0)][::-1]
    torch.set_num_threads(threads)
    for a, b in zip(forward, again, strict=True):
        assert torch.equal(a.cloud.points, b.cloud.points) and torch.equal(a.cloud.features, b.cloud.features)
        assert a.objects.types == b.objects.types and np.array_equal(a.objects.boxes_2d, b.objects.boxes_2d)
    assert len(forward[0].cloud.points) != len(forward[1].cloud.points)
    other = SimulatedStreets(dataclasses.replace(frames.config, seed=6))[0]
    assert len(other.cloud.points) != len(forward[0].cloud.points)


def test_labels_fit_the_points(frames: SimulatedStreets, samples: list[KittiObjectSample]) -> None:
    labelled = 0
    for sample in samples:
        points = sample.cloud.points
        assert 9000 < len(points) < 22000 and bool(torch.isfinite(points).all())
        assert float(sample.cloud.features.min()) >= 0 and float(sample.cloud.features.max()) <= 1
        inside = sample.boxes.contains(points)
        care = np.array([t != DONT_CARE for t in sample.objects.types])
        full = care.copy()
        full[care] = sample.objects.truncation[care] == 0
        # The noise of a range puts some points out of their box.
        assert (inside[full[care]].sum(1) >= 0.5 * frames.config.min_points).all()
        overlap = iou_bev(sample.boxes, sample.boxes)
        assert float((overlap - torch.eye(len(sample.boxes))).max()) < 1e-4  # nothing stands in anything
        left, top, right, bottom = sample.objects.boxes_2d.T
        assert (left < right).all() and (top < bottom).all() and (left >= 0).all() and (bottom <= 374).all()
        assert set(sample.objects.occlusion[care]) <= {0, 1, 2, 3} and (sample.objects.occlusion[~care] == -1).all()
        # Feet on the ground plane, as far as the road is one.
        near = sample.boxes.select(sample.boxes.centers[:, 0] < 25)
        rect = sample.calibration.rect_from_velo.apply(near.centers.double())
        height = rect @ sample.plane[:3] + sample.plane[3] - near.sizes[:, 2] / 2
        assert len(near) == 0 or float(height.abs().max()) < 0.8
        labelled += int(care.sum())
    assert labelled > 15


def test_occlusion_follows_the_visible_share() -> None:
    """Three cars in a row before the sensor: all of the first is seen, some of the second, none of the third."""
    rng = np.random.default_rng(0)
    standing = []
    for x, y in ((10.0, 0.0), (20.0, 1.2), (40.0, 0.0)):
        size = (4.0, 1.6, 1.5)
        solid = car(rng).fitted(*size).placed(x, y, -1.7)
        standing.append(Standing("Car", solid, (x, y, -0.95), size, 0.0))
    visible, alone, returned = np.array([400, 60, 3]), np.array([400, 100, 30]), np.array([390, 50, 2])
    here = RigidTransform.identity()
    objects = label(standing, here, virtual_calibration(), visible, alone, returned, 5)
    assert objects.types == ("Car", "Car", DONT_CARE)
    assert objects.occlusion.tolist() == [0, 1, -1]
    left, _, right, _ = objects.boxes_2d[0]
    assert right - left == pytest.approx(721 * 1.6 / 7.73, rel=0.1)  # as wide as its rear at 8 m looks


def test_plane_lies_under_the_points(samples: list[KittiObjectSample]) -> None:
    sample = samples[2]
    rect = sample.calibration.rect_from_velo.apply(sample.cloud.points.double())
    height = rect @ sample.plane[:3] + sample.plane[3]
    road = (sample.cloud.points[:, 0] < 20) & (sample.cloud.points[:, 1].abs() < 2) & (height < 0.4)
    assert float(height[road].median().abs()) < 0.1


def test_frames_of_one_street_agree_once_moved() -> None:
    pairs = SimulatedStreetPairs(SimulatedStreetPairsConfig(count=3, seed=2, turn_deg=180.0))
    pair = pairs.pair(1)
    assert 0.5 < pair.overlap < 0.98
    way = float(pair.target_from_source.translation.norm())
    assert 1.9 < way < 12.1
    assert pair.source.features is not None and len(pair.source.points) > 90000
    tall = pair.source.points[pair.source.points[:, 2] > -1.2].double()  # the ground fits anywhere
    target = pair.target.points.double().numpy()
    moved = pair.target_from_source.apply(tall).numpy()
    assert overlap(moved, target, 0.15) > 1.4 * overlap(tall.numpy(), target, 0.15)
    with pytest.raises(IndexError):
        pairs.pair(3)


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (car, (3.2, 1.4, 1.3), (5.0, 1.95, 1.9)),
        (van, (4.2, 1.6, 1.8), (5.9, 2.2, 2.6)),
        (truck, (5.5, 2.3, 2.7), (12.5, 2.8, 3.8)),
        (pedestrian, (0.2, 0.4, 1.0), (1.4, 0.8, 2.1)),
        (cyclist, (1.5, 0.4, 1.4), (2.1, 0.8, 2.1)),
    ],
)
def test_road_users_have_their_size(make, low, high) -> None:
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(12):
        solid = make(rng)
        assert np.isfinite(solid.corners).all() and 30 < len(solid.corners) < 2500
        sizes.append(np.ptp(solid.corners, axis=(0, 1)))
    assert (np.min(sizes, axis=0) >= low).all() and (np.max(sizes, axis=0) <= high).all()
    assert len(np.unique(np.round(sizes, 6), axis=0)) > 6


def test_road_geometry() -> None:
    road = Road.sample(np.random.default_rng(3), -20.0, 90.0, 4.0, 2.0)
    bent = dataclasses.replace(road, curvature=1 / 100, crossing=None)
    x, y, heading = bent.locate(np.array([0.0, 50.0]), np.array([2.0, 0.0]))
    assert np.allclose([x[0], y[0], heading[0]], [0, 2, 0])
    assert np.allclose([x[1], y[1], heading[1]], [100 * np.sin(0.5), 100 * (1 - np.cos(0.5)), 0.5])
    step = bent.place(10.0, 4.04)[2] - bent.place(10.0, 3.99)[2]
    assert step == pytest.approx(KERB, abs=0.02)


def test_actors_move_along_the_street_and_never_meet() -> None:
    street = sample_street(np.random.default_rng(8), StreetConfig(driving=12.0, cyclists=8.0), -40.0, 90.0)
    start, later = objects_at(street, 0.0, 0.0), objects_at(street, 2.0, 20.0)
    assert {s.kind for s in start} <= set(KINDS) and len(start) > 8
    places = {s.center for s in start}
    assert any(s.center not in places for s in later) and any(s.center in places for s in later)


def test_command_writes_what_the_dataset_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sim"
    arguments = ["simulate", "lidar", "--out", str(out), "--seed", "5", "--in-view", "--quiet", "--count"]
    assert main([*arguments, "5"]) == 0
    label = out / "training" / "label_2" / "000001.txt"
    before = label.read_text()
    stamp = (out / "training" / "velodyne" / "000000.bin").stat().st_mtime_ns
    label.unlink()  # as if the run had been stopped there
    assert main([*arguments, "6", "--json"]) == 0
    assert '"written": 2, "kept": 4' in capsys.readouterr().out
    assert label.read_text() == before
    assert (out / "training" / "velodyne" / "000000.bin").stat().st_mtime_ns == stamp
    assert (out / "ImageSets" / "val.txt").read_text() == "000004\n"
    frames = SimulatedStreets(SimulatedStreetsConfig(count=6, seed=5, images=True))
    read = KittiObjectDataset(out, "trainval", images=(2,), in_view=True)
    assert len(read) == 6
    for i in (5,):
        a, b = frames[i], read[i]
        # Points at the border of the image may fall on either side after rounding.
        assert abs(len(a.cloud.points) - len(b.cloud.points)) < 5
        assert a.objects.types == b.objects.types
        assert torch.allclose(a.boxes.centers, b.boxes.centers, atol=0.01)
        assert torch.allclose(a.plane, b.plane, atol=1e-5)
        assert torch.equal(a.image_left.rgb, b.image_left.rgb)
    results = tmp_path / "results"
    for i in range(6):
        objects = read[i].objects
        keep = objects.select(np.array([t != DONT_CARE for t in objects.types]))
        scored = dataclasses.replace(keep, scores=np.linspace(0.9, 0.5, len(keep)))
        write_objects(results / f"{i:06d}.txt", scored)
    assert evaluate_kitti_object(out, results).frames == 6


def test_command_refuses_other_settings_and_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sim"
    assert main(["simulate", "lidar", "--out", str(out), "--count", "1", "--in-view", "--no-images", "--quiet"]) == 0
    assert (
        main(["simulate", "lidar", "--out", str(out), "--count", "1", "--in-view", "--no-images", "--seed", "1"]) == 2
    )
    assert "other settings" in capsys.readouterr().err
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    assert main(["simulate", "lidar", "--out", str(photos), "--count", "1"]) == 2
    assert "no simulation" in capsys.readouterr().err
    assert [p.name for p in photos.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"step": 0.0}, {"frames_per_street": 0}])
def test_settings_without_sense(wrong: dict) -> None:
    with pytest.raises(UsageError, match="simulated streets need"):
        SimulatedStreets(SimulatedStreetsConfig(**wrong))
