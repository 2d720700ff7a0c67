"""Changes of labelled scans: points stay in their boxes, pasted objects hit nothing, all is a function of the seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.core import Boxes3D
from vision3d.data.kitti_object import KittiObjectDataset
from vision3d.detection.augment import AugmentConfig, augment, moved
from vision3d.detection.object_database import build_database, ground_heights, paste_objects
from vision3d.geometry.boxes_overlap import footprints
from vision3d.geometry.rotated_rectangles import intersection_areas


def scene(count: int = 4, seed: int = 0) -> tuple[torch.Tensor, Boxes3D]:
    """Boxes in a row, each with 30 points inside, and points all over."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.stack([torch.arange(count) * 10.0 + 8, torch.linspace(-6, 6, count), torch.full((count,), -1.0)], 1)
    sizes = torch.tensor([[4.0, 1.8, 1.6]]).repeat(count, 1)
    boxes = Boxes3D(centers, sizes, torch.linspace(0, 2, count), torch.arange(count) % 2)
    inside = []
    for i in range(count):
        local = (torch.rand(30, 3, generator=generator) - 0.5) * sizes[i] * 0.98
        c, s = math.cos(float(boxes.yaw[i])), math.sin(float(boxes.yaw[i]))
        turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        inside.append(local @ turn.T + centers[i])
    around = torch.rand(500, 3, generator=generator) * torch.tensor([60.0, 40, 2]) - torch.tensor([0, 20.0, 2])
    points = torch.cat([*inside, around[~boxes.contains(around).any(0)]])
    return torch.cat([points, torch.rand(len(points), 1, generator=generator)], 1), boxes


@pytest.mark.parametrize("mirrored", [False, True])
def test_points_stay_in_their_boxes(mirrored: bool) -> None:
    points, boxes = scene()
    changed = moved(points, boxes, mirrored, 0.7, 1.04)
    assert torch.equal(changed.boxes.contains(changed.points[:, :3]), boxes.contains(points[:, :3]))
    assert torch.equal(changed.points[:, 3], points[:, 3])
    back = changed.points[:, :3] @ torch.linalg.inv(changed.from_original).T
    torch.testing.assert_close(back, points[:, :3], atol=1e-4, rtol=1e-4)
    front = torch.stack([boxes.yaw.cos(), boxes.yaw.sin(), torch.zeros(4)], 1) @ changed.from_original.T
    torch.testing.assert_close(torch.atan2(front[:, 1], front[:, 0]).cos(), changed.boxes.yaw.cos(), atol=1e-5, rtol=0)


def test_a_sample_is_a_function_of_its_seed() -> None:
    points, boxes = scene()
    config = AugmentConfig(paste=(6, 6))
    database = build_database([scene(6, 1), scene(5, 2)], 5)
    one, same, other = (augment(points, boxes, config, np.random.default_rng(s), database).points for s in (3, 3, 4))
    assert (torch.equal(one, same) and one.shape != other.shape) or not torch.equal(one, other)


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    points, boxes = scene()
    config = AugmentConfig(flip=False, rotation_deg=0, scale=(1, 1))
    same = augment(points, boxes, config, np.random.default_rng(0))
    torch.testing.assert_close(same.points, points)
    torch.testing.assert_close(same.boxes.centers, boxes.centers)


def test_pasted_objects_hit_nothing_and_bring_their_points() -> None:
    points, boxes = scene()
    database = build_database([scene(12, 1)], 5)
    assert len(database) == 12 and all(len(database.points_of(i)) == 30 for i in range(12))
    rows, every = paste_objects(points, boxes, database, (7, 5), np.random.default_rng(0))
    assert len(boxes) < len(every) <= 12
    areas = intersection_areas(footprints(every), footprints(every))
    np.fill_diagonal(areas, 0)
    # the scene's own boxes may touch each other; pasted ones touch none
    assert not areas[len(boxes) :].any()
    assert (every.contains(rows[:, :3]).sum(1) == 30).all()
    assert int((every.labels == 0).sum()) <= 7 and int((every.labels == 1).sum()) <= 5


def test_enough_objects_already() -> None:
    points, boxes = scene()
    rows, every = paste_objects(points, boxes, build_database([scene(12, 1)], 5), (1, 0), np.random.default_rng(0))
    assert rows is points and every is boxes


def test_database_of_nothing() -> None:
    points, _ = scene()
    database = build_database([(points, Boxes3D.empty())], 5)
    rows, every = paste_objects(points, Boxes3D.empty(), database, (5,), np.random.default_rng(0))
    assert len(every) == 0 and rows is points
    assert len(build_database([scene()], 31)) == 0  # objects with fewer points


def test_pasted_objects_stand_on_the_ground(test_data: Path) -> None:
    frames = KittiObjectDataset(test_data / "kitti", classes=("Car",))
    calibration = frames[0].calibration
    points, boxes = scene(2)
    # 1.65 m below the camera, rising a little ahead
    plane = torch.tensor([0.0, -1.0, -0.02, 1.65], dtype=torch.float64)
    database = build_database([scene(12, 1)], 5)
    rows, every = paste_objects(points, boxes, database, (7, 7), np.random.default_rng(0), plane, calibration)
    pasted = every.select(torch.arange(2, len(every)))
    bottom = pasted.centers - torch.nn.functional.pad(pasted.sizes[:, 2:] / 2, (2, 0))
    rect = calibration.rect_from_velo.apply(bottom.double())
    torch.testing.assert_close(rect @ plane[:3] + plane[3], torch.zeros(len(pasted)).double(), atol=1e-4, rtol=0)
    assert (pasted.contains(rows[:, :3]).sum(1) == 30).all()
    torch.testing.assert_close(ground_heights(plane, calibration, pasted.centers), bottom[:, 2], atol=1e-4, rtol=0)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="not negative"):
        AugmentConfig(paste=(-1,))
    with pytest.raises(ValueError, match="positive factor"):
        AugmentConfig(scale=(1.1, 1.0))
