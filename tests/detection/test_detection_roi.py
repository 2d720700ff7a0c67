"""Voxel R-CNN's second stage: voxel query against its twin, frames of proposals, sampling, losses."""

from __future__ import annotations

import math

import pytest
import torch
from sparse_grids import random_tensor

from vision3d.core import Boxes3D, SparseTensor
from vision3d.detection import box_coder
from vision3d.detection.anchor_head import AnchorOutput
from vision3d.detection.backbone import BackboneOutput
from vision3d.detection.grid import VoxelGrid
from vision3d.detection.roi_head import RoiHead, RoiHeadConfig, corner_loss, grid_points
from vision3d.detection.roi_pool import VoxelPool, voxel_query, voxel_query_slow
from vision3d.detection.roi_targets import RoiTargetConfig, at_origin, from_roi_frame, sample_rois, to_roi_frame
from vision3d.detection.suppression import SuppressionConfig

GRID = VoxelGrid(low=(0.0, -4.0, -2.0), high=(8.0, 4.0, 2.0), size=(0.5, 0.5, 0.5))
HALF = (4, 8, 8)  # (z, y, x) after a stride of 2


def boxes(rows: list[list[float]], labels: list[int], scores: bool = False) -> Boxes3D:
    table = torch.tensor(rows).reshape(-1, 7)
    values = torch.linspace(0.9, 0.1, len(table)) if scores else None
    return Boxes3D(table[:, :3], table[:, 3:6], table[:, 6], torch.tensor(labels, dtype=torch.int64), values)


def query_points(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(n, 3, generator=generator) * torch.tensor([14.0, 14, 8]) - torch.tensor([3.0, 7, 4])
    return points, torch.randint(0, 2, (n,), generator=generator)


@pytest.mark.parametrize(("radius", "reach", "samples"), [(1.5, 4, 16), (3.0, 1, 16), (4.0, 4, 3)])
def test_query_equals_twin(radius: float, reach: int, samples: int) -> None:
    x = random_tensor(HALF, 60, 4, dtype=torch.float32)  # rows in any order
    points, batch = query_points(80)
    args = (x, (2, 2, 2), GRID, points, batch, radius, reach, samples)
    fast, slow = voxel_query(*args), voxel_query_slow(*args)
    assert torch.equal(fast, slow)
    assert bool((fast[:, 0] < 0).any()) and bool((fast[:, 1] != fast[:, 0]).any())


def test_query_finds_what_is_near() -> None:
    x = SparseTensor(torch.zeros(2, 4), torch.tensor([[0, 2, 4, 4], [1, 2, 4, 4]]).int(), HALF, 2)
    center = GRID.centers(x.indices[:1], (2, 2, 2))
    near = voxel_query(x, (2, 2, 2), GRID, center + 0.1, torch.tensor([1]), 1.0, 4, 3)
    assert near.tolist() == [[1, 1, 1]]


def test_pool_of_nothing() -> None:
    pool = VoxelPool(4, 8, 1.0).train()
    empty = SparseTensor(torch.zeros(0, 4), torch.zeros(0, 4).int(), HALF, 1)
    points = torch.rand(5, 3)
    out = pool(empty, (2, 2, 2), GRID, points, torch.zeros(5, dtype=torch.int64))
    assert out.shape == (5, 8) and bool(torch.isfinite(out).all())
    assert pool(empty, (2, 2, 2), GRID, points[:0], torch.zeros(0, dtype=torch.int64)).shape == (0, 8)


def test_pool_takes_the_strongest_voxel() -> None:
    x = random_tensor(HALF, 100, 4, dtype=torch.float32)
    pool = VoxelPool(4, 8, 2.5, samples=16).eval()
    points, batch = query_points(20)
    out = pool(x, (2, 2, 2), GRID, points, batch)
    near = voxel_query_slow(x, (2, 2, 2), GRID, points, batch, 2.5, 4, 16)
    centers = GRID.centers(x.indices, (2, 2, 2))
    for q in range(20):
        rows = near[q][near[q] >= 0]
        if len(rows):
            each = pool.mlps_in[0](x.features[rows]) + pool.mlps_pos[0](centers[rows] - points[q])
        else:
            each = pool.mlps_pos[0](torch.zeros(1, 3))
        torch.testing.assert_close(out[q], pool.mlps_out[0](each.relu().amax(0, keepdim=True))[0])


def test_grid_points_of_a_turned_box() -> None:
    rows = torch.tensor([[1.0, 2, 3, 4, 2, 1, math.pi / 2]])
    points = grid_points(rows, 2)
    assert points.shape == (1, 8, 3)
    # x index slowest, z fastest: the first is rear, right, low; rear of a box that looks along +y is at lower y
    torch.testing.assert_close(points[0, 0], torch.tensor([1.5, 1.0, 2.75]))
    torch.testing.assert_close(points[0, 1], torch.tensor([1.5, 1.0, 3.25]))
    torch.testing.assert_close(points[0, 7], torch.tensor([0.5, 3.0, 3.25]))


def test_roi_frame_and_back() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, rois = torch.randn(2, 40, 7, generator=generator)
    truth[:, 3:6], rois[:, 3:6] = truth[:, 3:6].abs() + 0.1, rois[:, 3:6].abs() + 0.1
    local = to_roi_frame(truth, rois)
    assert bool((local[:, 6].abs() <= math.pi / 2 + 1e-6).all())
    back = from_roi_frame(local, rois)
    torch.testing.assert_close(back[:, :6], truth[:, :6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((2 * (back[:, 6] - truth[:, 6])).cos(), torch.ones(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(to_roi_frame(rois, rois)[:, [0, 1, 2, 6]], torch.zeros(40, 4), atol=1e-6, rtol=0)
    assert not bool(at_origin(rois)[:, [0, 1, 2, 6]].any())


def test_sampling_by_overlap() -> None:
    truth = boxes([[4.0, 0, 0, 4, 2, 1.5, 0.3]], [0])
    near = [[4.0 + 0.01 * i, 0, 0, 4, 2, 1.5, 0.3] for i in range(20)]
    hard = [[5.2, 0.2, 0, 4, 2, 1.5, 0.3]] * 20
    easy = [[30.0 + i, 0, 0, 4, 2, 1.5, 0] for i in range(20)]
    rois = boxes(near + hard + easy, [0] * 60, scores=True)
    config = RoiTargetConfig(count=16)
    drawn = sample_rois(rois, truth, config, torch.Generator().manual_seed(0))
    assert len(drawn.rois) == 16 and int(drawn.near.sum()) == 8
    assert int((drawn.scores == 0).sum()) == 2 and bool((drawn.scores[drawn.near] > 0.9).all())
    again = sample_rois(rois, truth, config, torch.Generator().manual_seed(0))
    assert torch.equal(again.rois, drawn.rois)
    other = sample_rois(boxes(near, [1] * 20, scores=True), truth, config)  # of another class: background
    assert int(other.near.sum()) == 1  # the true box itself
    empty = sample_rois(rois, Boxes3D.empty(), config)
    assert not bool(empty.near.any()) and not bool(empty.scores.any()) and len(empty.rois) <= 16


def test_corner_loss() -> None:
    truth = torch.tensor([[4.0, 0, 0, 4, 2, 1.5, 0.3]])
    turned = truth.clone()
    turned[0, 6] += math.pi
    moved = truth.clone()
    moved[0, 0] += 3.0
    assert float(corner_loss(truth, truth)) == pytest.approx(0, abs=1e-6)
    assert float(corner_loss(turned, truth)) == pytest.approx(0, abs=1e-6)
    assert float(corner_loss(moved, truth)) == pytest.approx(3 - 0.5)


def head_and_features() -> tuple[RoiHead, BackboneOutput, AnchorOutput]:
    config = RoiHeadConfig(
        cells=2, channels=4, hidden=8, targets=RoiTargetConfig(count=8), test=SuppressionConfig(min_score=0.0, most=6)
    )
    head = RoiHead(config, GRID, (4, 4, 4, 4))
    stages = tuple(random_tensor(HALF, 80, 4, dtype=torch.float32, seed=i) for i in range(4))
    strides = ((2, 2, 2),) * 4
    generator = torch.Generator().manual_seed(0)
    anchors = torch.tensor([[1.0 + (i % 6), -3 + (i // 6), 0, 3.9, 1.6, 1.5, 0] for i in range(36)])
    out = AnchorOutput(
        torch.randn(2, 36, 1, generator=generator),
        0.1 * torch.randn(2, 36, 7, generator=generator),
        torch.randn(2, 36, 2, generator=generator),
        anchors,
    )
    return head, BackboneOutput(torch.zeros(2, 4, 1, 1), stages, strides, ()), out


def test_head_learns_and_detects() -> None:
    head, features, out = head_and_features()
    truth = [boxes([[4.0, 0, 0, 3.9, 1.6, 1.5, 0.1]], [0]), Boxes3D.empty()]
    loss = head.losses(features, out, truth, torch.Generator().manual_seed(0))
    (loss.scores + loss.boxes + loss.corners).backward()
    without = [n for n, p in head.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert not without
    found = head.eval().detect(features, out, SuppressionConfig(min_score=0.0, max_overlap=0.1))
    assert len(found) == 2 and all(0 < len(b) <= 6 for b in found)


def test_untrained_head_keeps_proposals() -> None:
    """The last layer begins near 0, so boxes begin as the proposals."""
    head, features, out = head_and_features()
    proposals = head.eval().propose(out, head.config.test)
    rows = box_coder.box_rows(proposals[0])
    logits, codes = head(features, rows, torch.zeros(len(rows), dtype=torch.int64))
    better = from_roi_frame(box_coder.decode(codes, at_origin(rows)), rows)
    torch.testing.assert_close(better, rows, atol=0.05, rtol=0)
    assert logits.shape == (len(rows),)


def test_no_proposals() -> None:
    head, features, _ = head_and_features()
    logits, codes = head(features, torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64))
    assert logits.shape == (0,) and codes.shape == (0, 7)
