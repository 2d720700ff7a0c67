"""Anchors, assignment, the box coder, the anchor head's losses and what it decodes; suppression."""

from __future__ import annotations

import math

import pytest
import torch

from vision3d.core import Boxes3D
from vision3d.detection import box_coder
from vision3d.detection.anchor_head import AnchorHead, AnchorHeadConfig, AnchorOutput, sigmoid_focal
from vision3d.detection.anchors import (
    CAR,
    CYCLIST,
    PEDESTRIAN,
    AnchorClass,
    anchor_labels,
    assign,
    axis_overlaps,
    make_anchors,
)
from vision3d.detection.bev_backbone import BevBackbone, BevConfig
from vision3d.detection.grid import VoxelGrid
from vision3d.detection.suppression import SuppressionConfig, select_boxes
from vision3d.geometry.boxes_overlap import iou_bev, nms_bev

GRID = VoxelGrid(low=(0.0, -8.0, -3.0), high=(16.0, 8.0, 1.0), size=(0.5, 0.5, 0.5))


def random_rows(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(n, 7, generator=generator)
    low = torch.tensor([0, -8, -2, 0.5, 0.5, 0.5, -7])
    high = torch.tensor([16, 8, 0, 5, 3, 3, 7.0])
    return low + unit * (high - low)


def test_anchor_layout() -> None:
    anchors = make_anchors((CAR, PEDESTRIAN), GRID, (5, 9)).reshape(5, 9, 2, 2, 7)
    torch.testing.assert_close(anchors[1, 2, 0, 0], torch.tensor([4.0, -4, -1.78 + 0.78, 3.9, 1.6, 1.56, 0]))
    torch.testing.assert_close(anchors[4, 8, 1, 1], torch.tensor([16.0, 8, -0.6 + 0.865, 0.8, 0.6, 1.73, 1.57]))
    assert anchor_labels(8, 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_coder_round_trip() -> None:
    boxes, anchors = random_rows(50), random_rows(50, 1)
    torch.testing.assert_close(box_coder.decode(box_coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-4)


def test_decoding_stays_finite() -> None:
    rows = box_coder.decode(torch.full((1, 7), 1e4), random_rows(1))
    assert bool(torch.isfinite(rows).all()) and bool((rows[:, 3:6] > 0).all())
    assert bool((box_coder.decode(torch.full((1, 7), -1e4), random_rows(1))[:, 3:6] > 0).all())


def test_directions_undo_the_half_turn() -> None:
    yaw = torch.linspace(-7, 7, 101)
    half = yaw + math.pi * torch.arange(101).remainder(3)
    back = box_coder.turn_into_bin(half, box_coder.direction_bin(yaw))
    torch.testing.assert_close(back.cos(), yaw.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(back.sin(), yaw.sin(), atol=1e-5, rtol=0)


def test_assignment_by_hand() -> None:
    kind = AnchorClass(name="Car", size=(4.0, 2.0, 1.5), bottom=-1.0, matched=0.6, unmatched=0.45)
    anchors = torch.tensor([[x, 0, 0, 4.0, 2, 1.5, 0] for x in (0.0, 0.5, 1.5, 2.5, 100, 101.9)])
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, math.pi], [103.0, 0, 0, 4, 2, 1.5, 0.1]])
    found = assign(anchors, (kind,), boxes, torch.tensor([0, 0]))
    # overlaps with the first box 1, 7/9, 5/11, 3/13; the second is best seen by the last anchor, below the threshold
    assert found.labels.tolist() == [1, 1, -1, 0, 0, 1] and found.box.tolist() == [0, 0, 0, 0, 0, 1]


def test_assignment_keeps_classes_apart() -> None:
    anchors = make_anchors((CAR, PEDESTRIAN, CYCLIST), GRID, (33, 33))
    boxes = torch.tensor([[8.0, 0, -1, 3.9, 1.6, 1.56, 0.1], [4.0, 4, -1, 0.8, 0.6, 1.7, 1.5]])
    found = assign(anchors, (CAR, PEDESTRIAN, CYCLIST), boxes, torch.tensor([0, 1]))
    kinds = anchor_labels(len(anchors), 3)
    positive = found.labels > 0
    assert set(found.labels[positive].tolist()) == {1, 2}
    assert torch.equal(kinds[positive] + 1, found.labels[positive])
    assert torch.equal(found.box[positive], found.labels[positive] - 1)
    none = assign(anchors, (CAR, PEDESTRIAN, CYCLIST), boxes[:0], torch.zeros(0, dtype=torch.int64))
    assert not bool(none.labels.any())


def test_axis_overlap_snaps_to_the_nearest_axis() -> None:
    one = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0.2], [0.0, 0, 0, 4, 2, 1, 1.4], [0.0, 0, 0, 4, 2, 1, math.pi - 0.1]])
    got = axis_overlaps(one, one[:1])
    torch.testing.assert_close(got[:, 0], torch.tensor([1.0, 4 / 12, 1.0]))


def perfect_output(head: AnchorHead, truth: Boxes3D, cells: tuple[int, int]) -> AnchorOutput:
    """What the head should say about these boxes."""
    anchors = make_anchors(head.config.classes, GRID, cells)
    rows = box_coder.box_rows(truth)
    found = assign(anchors, head.config.classes, rows, truth.labels)
    classes = torch.full((len(anchors), len(head.config.classes)), -20.0)
    positive = (found.labels > 0).nonzero()[:, 0]
    classes[positive, found.labels[positive] - 1] = 20.0
    codes = torch.zeros(len(anchors), 7)
    codes[positive] = box_coder.encode(rows[found.box[positive]], anchors[positive])
    directions = torch.zeros(len(anchors), 2)
    directions[positive, box_coder.direction_bin(rows[found.box[positive], 6])] = 20.0
    return AnchorOutput(classes[None], codes[None], directions[None], anchors)


def truth_boxes() -> Boxes3D:
    rows = torch.tensor(
        [[6.0, 1, -1, 4.2, 1.7, 1.5, 2.9], [11.0, -5, -1, 3.7, 1.5, 1.6, -1.7], [3.0, -4, -0.9, 1, 0.7, 1.8, 4]]
    )
    return Boxes3D(rows[:, :3], rows[:, 3:6], rows[:, 6], torch.tensor([0, 0, 1]))


def test_perfect_predictions_cost_nothing_and_decode_to_the_truth() -> None:
    head = AnchorHead(AnchorHeadConfig(), GRID, 8)
    truth = truth_boxes()
    out = perfect_output(head, truth, (33, 33))
    loss = head.losses(out, [truth])
    for term in (loss.classes, loss.boxes, loss.directions):
        assert float(term.detach()) == pytest.approx(0, abs=1e-4)
    scores, labels = out.classes.sigmoid().max(-1)
    found = select_boxes(out.boxes()[0], labels[0], scores[0], SuppressionConfig())
    assert len(found) == 3
    order = [int((found.centers - center).norm(dim=1).argmin()) for center in truth.centers]
    torch.testing.assert_close(found.centers[order], truth.centers, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.sizes[order], truth.sizes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((found.yaw[order] - truth.yaw).cos(), torch.ones(3), atol=1e-5, rtol=0)
    assert found.labels[order].tolist() == [0, 0, 1]


def test_losses_know_what_is_wrong() -> None:
    head = AnchorHead(AnchorHeadConfig(), GRID, 8)
    truth = truth_boxes()
    good = perfect_output(head, truth, (33, 33))
    far = AnchorOutput(good.classes, good.codes + 0.3, good.directions, good.anchors)
    back = AnchorOutput(good.classes, good.codes, -good.directions, good.anchors)
    turned = AnchorOutput(
        good.classes, torch.cat([good.codes[..., :6], good.codes[..., 6:] + math.pi], -1), good.directions, good.anchors
    )
    missed = AnchorOutput(-good.classes, good.codes, good.directions, good.anchors)
    assert float(head.losses(far, [truth]).boxes) > 1
    assert float(head.losses(back, [truth]).directions) > 1
    assert float(head.losses(turned, [truth]).boxes) == pytest.approx(0, abs=1e-4)  # half a turn is the bins' affair
    assert float(head.losses(missed, [truth]).classes) > 10


def test_focal_loss_by_hand() -> None:
    logit = torch.tensor([0.7, 0.7])
    p = 1 / (1 + math.exp(-0.7))
    wanted = [-0.25 * (1 - p) ** 2 * math.log(p), -0.75 * p**2 * math.log(1 - p)]
    torch.testing.assert_close(sigmoid_focal(logit, torch.tensor([1.0, 0.0])), torch.tensor(wanted))


def test_no_true_boxes() -> None:
    head = AnchorHead(AnchorHeadConfig(), GRID, 8)
    loss = head.losses(head(torch.randn(2, 8, 4, 4)), [Boxes3D.empty(), Boxes3D.empty()])
    (loss.classes + loss.boxes + loss.directions).backward()
    assert head.conv_cls.weight.grad is not None and bool(torch.isfinite(head.conv_cls.weight.grad).all())


def test_head_equals_its_convolutions() -> None:
    """Rows are places (y, x), then anchors; classes vary fastest: the channels of the published layout."""
    head = AnchorHead(AnchorHeadConfig(), GRID, 8)
    x = torch.randn(2, 8, 3, 5)
    out = head(x)
    wanted = head.conv_cls(x).permute(0, 2, 3, 1).reshape(2, -1, 3)
    torch.testing.assert_close(out.classes, wanted)
    assert head.conv_cls.out_channels == 18 and head.conv_box.out_channels == 42
    assert head.conv_dir_cls.out_channels == 12 and out.anchors.shape == (3 * 5 * 6, 7)


def test_selection() -> None:
    rows = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]]).repeat(5, 1)
    rows[3:, 0] = 20
    rows[4, 1] = torch.nan
    scores = torch.tensor([0.5, 0.9, 0.05, 0.3, 0.8])
    labels = torch.tensor([0, 1, 0, 2, 0])
    found = select_boxes(rows, labels, scores, SuppressionConfig())
    assert found.labels.tolist() == [1, 2] and found.scores is not None
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.3]))
    assert len(select_boxes(rows, labels, scores, SuppressionConfig(most=1))) == 1
    assert len(select_boxes(rows[:0], labels[:0], scores[:0], SuppressionConfig())) == 0
    with pytest.raises(ValueError, match="counts are at least 1"):
        SuppressionConfig(most=0)


@pytest.mark.parametrize("limit", [None, 10])
def test_suppression_equals_a_loop(limit: int | None) -> None:
    rows = random_rows(300, 5)
    scores = torch.rand(300, generator=torch.Generator().manual_seed(1))
    boxes = box_coder.boxes_of(rows, torch.zeros(300, dtype=torch.int64), scores)
    overlap = iou_bev(boxes, boxes)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(float(overlap[j, i]) <= 0.2 for j in kept):
            kept.append(i)
    assert 20 < len(kept) < 280
    assert nms_bev(boxes, 0.2, limit=limit).tolist() == kept[:limit]


def test_bev_backbone_brings_blocks_together() -> None:
    net = BevBackbone(BevConfig(layers=(1, 2), channels=(4, 6), up_channels=(3, 5)), 7).eval()
    out = net(torch.randn(1, 7, 8, 12))
    assert out.shape == (1, 8, 8, 12) and net.out_channels == 8
    with pytest.raises(ValueError, match="as many as there are blocks"):
        BevConfig(layers=(1,))
