"""Overlap of rotated rectangles and boxes: closed forms, limits, the slow twin, and suppression; the box type."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vision3d.core import Boxes3D, RigidTransform
from vision3d.geometry.boxes_overlap import iou_3d, iou_bev, nms_bev
from vision3d.geometry.rotated_rectangles import (
    corners,
    intersection_areas,
    intersection_areas_slow,
    overlaps,
    suppress,
)

UNIT = np.array([[0.0, 0, 1, 1, 0]])


def _area(a, b) -> float:
    fast = intersection_areas(np.array([a], np.float64), np.array([b], np.float64))
    back = intersection_areas(np.array([b], np.float64), np.array([a], np.float64))
    assert fast[0, 0] == pytest.approx(back[0, 0], abs=1e-12)
    return float(fast[0, 0])


def _boxes(rows, scores=None, labels=None, frame="lidar") -> Boxes3D:
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
    label = torch.zeros(len(table), dtype=torch.int64) if labels is None else torch.tensor(labels)
    score = None if scores is None else torch.tensor(scores, dtype=torch.float64)
    return Boxes3D(table[:, :3], table[:, 3:6], table[:, 6], label, score, frame)


@pytest.mark.parametrize(
    ("a", "b", "area"),
    [
        ((0, 0, 1, 1, 0), (0, 0, 1, 1, math.pi / 4), 2 * math.sqrt(2) - 2),  # a regular octagon
        ((0, 0, 4, 2, 0.3), (0, 0, 4, 2, 0.3), 8),
        ((0, 0, 4, 2, 0.3), (0, 0, 4, 2, 0.3 + math.pi), 8),
        ((0, 0, 4, 2, 0), (0, 0, 4, 2, math.pi / 2), 4),
        ((0, 0, 4, 2, 0), (1, 0.5, 4, 2, 0), 3 * 1.5),
        ((0, 0, 4, 4, 0), (0.5, 0.5, 1, 1, 0.7), 1),  # one within the other
        ((0, 0, 2, 2, 0), (2, 0, 2, 2, 0), 0),  # a common side
        ((0, 0, 2, 2, 0), (2, 2, 2, 2, 0), 0),  # a common corner
        ((0, 0, 2, 2, 0), (1 + math.sqrt(2), 0, 2, 2, math.pi / 4), 0),  # a corner on a side
        ((0, 0, 2, 2, 0), (math.sqrt(2), 0, 2, 2, math.pi / 4), 1),  # its quarter beyond the side
        ((0, 0, 2, 2, 0), (9, 0, 2, 2, 1), 0),
        ((0, 0, 100, 0.01, 0), (0, 0, 100, 0.01, math.pi / 2), 1e-4),
        ((0, 0, 1e-6, 1e-6, 0.1), (0, 0, 1, 1, 0.9), 1e-12),
    ],
)
def test_closed_forms(a, b, area) -> None:
    assert _area(a, b) == pytest.approx(area, abs=1e-12, rel=1e-9)


def test_yaw_turns_x_towards_y() -> None:
    """A long box at 45 degrees covers a small one up right, not one down right."""
    long = (0, 0, 10, 1, math.pi / 4)
    assert _area(long, (2, 2, 0.1, 0.1, 0)) == pytest.approx(0.01)
    assert _area(long, (2, -2, 0.1, 0.1, 0)) == 0
    assert corners(np.array([[1.0, 2, 4, 2, math.pi / 2]]))[0] == pytest.approx(
        np.array([[0, 4], [0, 0], [2, 0], [2, 4]]), abs=1e-12
    )


@pytest.mark.parametrize("bad", [(0, 0, 0, 1, 0), (0, 0, 1, 0, 0), (0, 0, -1, 1, 0), (0, 0, -1, -1, 0)])
def test_degenerate_rectangles_overlap_with_nothing(bad) -> None:
    assert _area(bad, (0, 0, 2, 2, 0)) == 0
    assert overlaps(np.array([bad], np.float64), np.array([bad], np.float64)).tolist() == [[0]]


def test_twin_on_random_rectangles() -> None:
    rng = np.random.default_rng(0)
    a, b = (
        np.concatenate([rng.normal(size=(60, 2)), rng.uniform(0.1, 4, (60, 2)), rng.uniform(-7, 7, (60, 1))], axis=1)
        for _ in range(2)
    )
    b[:20, 4] = a[:20, 4] + np.pi / 2 * rng.integers(0, 4, 20)  # parallel sides
    b[20:30] = a[20:30]
    fast, slow = intersection_areas(a, b), intersection_areas_slow(a, b)
    assert (fast > 0).mean() > 0.5
    np.testing.assert_allclose(fast, slow, atol=1e-9)
    shared = overlaps(a, b)
    assert shared.max() <= 1
    np.testing.assert_allclose(np.diag(shared)[20:30], 1, atol=1e-12)


@pytest.mark.parametrize("offset", [1e3, 1e6, -1e6])
def test_far_from_the_origin(offset) -> None:
    """Coordinates at 1e6 m are exact to 1e-10 m, and so nearly are the areas."""
    rng = np.random.default_rng(1)
    a = np.concatenate([rng.normal(size=(20, 2)), rng.uniform(0.5, 4, (20, 2)), rng.uniform(-3, 3, (20, 1))], axis=1)
    moved = a.copy()
    moved[:, :2] += (offset, 3 * offset)
    np.testing.assert_allclose(intersection_areas(moved, moved), intersection_areas(a, a), atol=1e-8)


@given(st.floats(-10, 10), st.floats(0.1, 5), st.floats(0.1, 5), st.floats(-1, 1), st.floats(-1, 1), st.floats(-4, 4))
def test_laws(yaw, length, width, x, y, other) -> None:
    """An intersection is symmetric, at most the smaller rectangle, and the same after turning both."""
    a, b = (0, 0, length, width, yaw), (x, y, 1.0, 2.0, other)
    area = _area(a, b)
    assert 0 <= area <= min(length * width, 2.0) + 1e-12
    c, s = math.cos(0.7), math.sin(0.7)
    turned = _area((0, 0, length, width, yaw + 0.7), (c * x - s * y, s * x + c * y, 1.0, 2.0, other + 0.7))
    assert turned == pytest.approx(area, abs=1e-9)


def test_boxes_from_above_and_in_space() -> None:
    a = _boxes([[0, 0, 0, 4, 2, 1, 0.3]])
    b = _boxes([[0, 0, 0.5, 4, 2, 1, 0.3], [0, 0, 1, 4, 2, 1, 0.3], [0, 0, 0, 4, 2, 2, 0.3], [50, 0, 0, 4, 2, 1, 0]])
    assert iou_bev(a, b)[0].tolist() == pytest.approx([1, 1, 1, 0])
    assert iou_3d(a, b)[0].tolist() == pytest.approx([1 / 3, 0, 0.5, 0])
    assert iou_3d(b, b).diagonal().tolist() == pytest.approx([1] * 4)
    assert iou_3d(a, Boxes3D.empty()).shape == (1, 0)
    with pytest.raises(ValueError, match="frames"):
        iou_bev(a, _boxes([[0, 0, 0, 1, 1, 1, 0]], frame="world"))
    narrow = Boxes3D(a.centers.float(), a.sizes.float(), a.yaw.float(), a.labels)
    assert iou_bev(narrow, narrow).dtype == torch.float32


def test_suppression() -> None:
    rows = [[0, 0, 0, 4, 2, 1, 0], [0.5, 0, 0, 4, 2, 1, 0], [1, 0, 0, 4, 2, 1, 0], [20, 0, 0, 4, 2, 1, 0]]
    boxes = _boxes(rows, [0.5, 0.9, 0.5, 0.1], [0, 0, 0, 0])
    # IoU of neighbours 7/9, of the outer two 3/5: the middle one removes both
    assert nms_bev(boxes, 0.7).tolist() == [1, 3]
    assert nms_bev(boxes, 0.8).tolist() == [1, 0, 2, 3]
    assert nms_bev(boxes, 0.8, limit=2).tolist() == [1, 0]
    chain = _boxes(rows, [0.9, 0.5, 0.4, 0.1], [0, 0, 0, 0])
    assert nms_bev(chain, 0.7).tolist() == [0, 2, 3]  # what is removed removes nothing
    classes = _boxes(rows, [0.5, 0.9, 0.5, 0.1], [0, 1, 0, 0])
    assert nms_bev(classes, 0.5).tolist() == [1, 0, 3]
    assert nms_bev(classes, 0.5, per_class=False).tolist() == [1, 3]
    assert nms_bev(Boxes3D.empty(scored=True), 0.5).tolist() == []
    with pytest.raises(ValueError, match="scores"):
        nms_bev(_boxes(rows), 0.5)
    assert suppress(np.zeros((0, 5)), np.zeros(0, np.int64), 0.5).tolist() == []


def test_suppression_against_a_loop() -> None:
    rng = np.random.default_rng(2)
    a = np.concatenate([rng.uniform(0, 12, (80, 2)), rng.uniform(1, 4, (80, 2)), rng.uniform(-3, 3, (80, 1))], axis=1)
    order = rng.permutation(80)
    shared = overlaps(a, a)
    kept: list[int] = []
    for i in order.tolist():
        if all(shared[i, j] <= 0.2 for j in kept):
            kept.append(i)
    assert suppress(a, order, 0.2).tolist() == kept
    assert 10 < len(kept) < 70


def test_corners_and_points_inside() -> None:
    box = _boxes([[1, 2, 3, 4, 2, 1, math.pi / 2], [0, 0, 0, 2, 2, 2, math.pi / 4]])
    assert box.corners()[0, 0].tolist() == pytest.approx([0, 4, 2.5])
    assert box.corners()[0, 7].tolist() == pytest.approx([2, 4, 3.5])
    points = torch.tensor([[1, 3.9, 3.4], [1, 4.1, 3], [0, 1.4, 0], [1, 1, 0], [1, 2, 3.6]], dtype=torch.float64)
    assert box.contains(points).tolist() == [[True, False, False, False, False], [False, False, True, False, False]]


def test_transformed_boxes_hold_the_same_points() -> None:
    angle = 0.8
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    b_from_a = RigidTransform(turn, torch.tensor([3.0, -4, 1], dtype=torch.float64))
    boxes = _boxes([[1, 2, 3, 4, 2, 1, 0.5]])
    moved = boxes.transformed(b_from_a, "world")
    assert moved.frame == "world"
    torch.testing.assert_close(moved.corners(), b_from_a.apply(boxes.corners()))
    fall = RigidTransform(torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), torch.zeros(3))
    with pytest.raises(ValueError, match="upright"):
        boxes.transformed(fall, "camera")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": torch.tensor([[1.0, 0, 1]])}, "size"),
        ({"sizes": torch.tensor([[1.0, -2, 1]])}, "size"),
        ({"centers": torch.tensor([[math.nan, 0, 0]])}, "centers of box 0 is not finite"),
        ({"yaw": torch.tensor([math.inf])}, "yaw"),
        ({"scores": torch.tensor([math.nan])}, "scores"),
        ({"labels": torch.tensor([-1])}, "labels"),
    ],
)
def test_bad_boxes(change, message) -> None:
    good = {
        "centers": torch.zeros(1, 3), "sizes": torch.ones(1, 3), "yaw": torch.zeros(1), "labels": torch.zeros(1).long()
    }  # fmt: skip
    assert len(Boxes3D(**good)) == 1
    with pytest.raises(ValueError, match=message):
        Boxes3D(**(good | change))
