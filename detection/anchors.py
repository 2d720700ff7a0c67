"""Anchor boxes of each class on the grid seen from above, and which true box each one answers for.

Yan et al., "SECOND", Sensors 2018, section 3.4: two headings per place, overlap of boxes turned onto the axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.detection.grid import VoxelGrid

# OpenPCDet's quarter turn; its checkpoints are trained with it.
HEADINGS = (0.0, 1.57)
IGNORED, BACKGROUND = -1, 0


@dataclass(frozen=True, kw_only=True)
class AnchorClass:
    """size: length, width, height, m; bottom: height of the bottom face, m, in the LiDAR's frame.

    An anchor whose overlap with a true box of the class is at least `matched` answers for it, and so does the best
    anchor of each true box; below `unmatched` it is background, between them it does not count.
    """

    name: str
    size: tuple[float, float, float]
    bottom: float
    matched: float
    unmatched: float

    def __post_init__(self) -> None:
        if min(self.size) <= 0 or not 0 < self.unmatched <= self.matched <= 1:
            raise ValueError(f"sizes are positive and 0 < unmatched <= matched <= 1, got {self}")


CAR = AnchorClass(name="Car", size=(3.9, 1.6, 1.56), bottom=-1.78, matched=0.6, unmatched=0.45)
PEDESTRIAN = AnchorClass(name="Pedestrian", size=(0.8, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35)
CYCLIST = AnchorClass(name="Cyclist", size=(1.76, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35)


def make_anchors(classes: Sequence[AnchorClass], grid: VoxelGrid, cells: tuple[int, int]) -> Float[Tensor, "n 7"]:
    """Anchors on y x x cells: y slowest, then x, class, heading. The outermost lie on the grid's border."""
    y = torch.linspace(grid.low[1], grid.high[1], cells[0])
    x = torch.linspace(grid.low[0], grid.high[0], cells[1])
    kinds = [(*_rest(kind), heading) for kind in classes for heading in HEADINGS]
    rest = torch.tensor(kinds)
    ys, xs, ks = torch.meshgrid(torch.arange(cells[0]), torch.arange(cells[1]), torch.arange(len(rest)), indexing="ij")
    return torch.cat([x[xs][..., None], y[ys][..., None], rest[ks]], dim=-1).reshape(-1, 7)


def anchor_labels(count: int, classes: int) -> Int[Tensor, " n"]:
    """The class of each of `count` anchors of `make_anchors`."""
    return torch.arange(count) // len(HEADINGS) % classes


@dataclass(frozen=True, slots=True)
class Assignment:
    """labels: per anchor its class + 1, BACKGROUND or IGNORED. box: index of the true box, 0 where there is none."""

    labels: Int[Tensor, " n"]
    box: Int[Tensor, " n"]


def assign(
    anchors: Float[Tensor, "n 7"],
    classes: Sequence[AnchorClass],
    boxes: Float[Tensor, "m 7"],
    box_labels: Int[Tensor, " m"],
) -> Assignment:
    """Each anchor against the true boxes of its class."""
    labels = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    chosen = torch.zeros_like(labels)
    kinds = anchor_labels(len(anchors), len(classes)).to(anchors.device)
    for k, kind in enumerate(classes):
        mine = (box_labels == k).nonzero()[:, 0]
        if not len(mine):
            continue
        rows = (kinds == k).nonzero()[:, 0]
        overlap = axis_overlaps(anchors[rows], boxes[mine])
        best, box = overlap.max(dim=1)
        label = torch.where(best < kind.unmatched, BACKGROUND, IGNORED)
        label[best >= kind.matched] = k + 1
        top = overlap.amax(dim=0)
        forced = ((overlap == top) & (top > 0)).nonzero()
        label[forced[:, 0]] = k + 1
        box[forced[:, 0]] = torch.where(best[forced[:, 0]] >= kind.matched, box[forced[:, 0]], forced[:, 1])
        labels[rows], chosen[rows] = label, mine[box]
    return Assignment(labels, torch.where(labels > 0, chosen, 0))


def axis_overlaps(a: Float[Tensor, "n 7"], b: Float[Tensor, "m 7"]) -> Float[Tensor, "n m"]:
    """Intersection over union from above of boxes turned onto the nearest axis."""
    low_a, high_a = _on_axes(a)
    low_b, high_b = _on_axes(b)
    side = torch.minimum(high_a[:, None], high_b) - torch.maximum(low_a[:, None], low_b)
    shared = side.clamp(min=0).prod(-1)
    union = (high_a - low_a).prod(1)[:, None] + (high_b - low_b).prod(1) - shared
    return shared / union


def _on_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    turn = torch.remainder(rows[:, 6] + math.pi / 2, math.pi) - math.pi / 2
    across = (turn.abs() > math.pi / 4)[:, None]
    half = torch.where(across, rows[:, [4, 3]], rows[:, [3, 4]]) / 2
    return rows[:, :2] - half, rows[:, :2] + half


def _rest(kind: AnchorClass) -> tuple[float, float, float, float]:
    return (kind.bottom + kind.size[2] / 2, *kind.size)
