"""Which proposals the second stage learns from, and what it should say about them.

Deng et al., "Voxel R-CNN", AAAI 2021, section 3.4 (128 of each cloud, half of them near a true box; the score is the
overlap, Jiang et al., "IoU-Net", ECCV 2018); true boxes in the proposal's own frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.core import Boxes3D
from vision3d.detection import box_coder
from vision3d.geometry.boxes_overlap import iou_3d


@dataclass(frozen=True, kw_only=True)
class RoiTargetConfig:
    """count: proposals per cloud; near_share: at most this share of them overlaps a true box by `near` or more.

    hard_share: of the others, so many overlap one by `easy` or more where there are such. Scores grow from 0 at an
    overlap of `score_from` to 1 at `score_to`. All overlaps are in 3D, with true boxes of the same class.
    """

    count: int = 128
    near_share: float = 0.5
    near: float = 0.55
    easy: float = 0.1
    hard_share: float = 0.8
    score_from: float = 0.25
    score_to: float = 0.75


@dataclass(frozen=True, slots=True)
class RoiTargets:
    """Of the sampled proposals: rows, wanted scores in [0, 1], true boxes (any where there is none), and which are
    near enough to learn the box from."""

    rois: Float[Tensor, "n 7"]
    scores: Float[Tensor, " n"]
    boxes: Float[Tensor, "n 7"]
    near: Bool[Tensor, " n"]


def sample_rois(
    rois: Boxes3D, truth: Boxes3D, config: RoiTargetConfig, generator: torch.Generator | None = None
) -> RoiTargets:
    """At most config.count of the proposals, drawn by the generator; the true boxes are among the candidates."""
    same = rois.frame == truth.frame
    if not same:
        raise ValueError(f"proposals are in {rois.frame!r}, true boxes in {truth.frame!r}")
    rows = torch.cat([box_coder.box_rows(rois), box_coder.box_rows(truth).to(rois.centers)])
    labels = torch.cat([rois.labels, truth.labels.to(rois.labels)])
    every = box_coder.boxes_of(rows, labels, rows.new_zeros(len(rows)))
    if len(truth) and len(rows):
        overlaps = iou_3d(every, truth)
        overlaps = torch.where(labels[:, None] == truth.labels.to(labels)[None], overlaps, 0.0)
        best, box = overlaps.max(dim=1)
        boxes = box_coder.box_rows(truth).to(rows)[box]
    else:
        best, boxes = rows.new_zeros(len(rows)), rows
    kept = _draw(best, config, generator)
    best, boxes = best[kept], boxes[kept]
    scores = ((best - config.score_from) / (config.score_to - config.score_from)).clamp(0, 1)
    return RoiTargets(rows[kept], scores, boxes, best >= config.near)


def to_roi_frame(boxes: Float[Tensor, "n 7"], rois: Float[Tensor, "n 7"]) -> Float[Tensor, "n 7"]:
    """Boxes seen from proposals: centre and yaw relative to them. Yaw is taken modulo pi into [-pi/2, pi/2)."""
    offset = boxes[:, :3] - rois[:, :3]
    yaw = torch.remainder(boxes[:, 6] - rois[:, 6] + math.pi / 2, math.pi) - math.pi / 2
    return torch.cat([_turn(offset, -rois[:, 6]), boxes[:, 3:6], yaw[:, None]], dim=1)


def from_roi_frame(boxes: Float[Tensor, "n 7"], rois: Float[Tensor, "n 7"]) -> Float[Tensor, "n 7"]:
    """The way back, but for the half turn that `to_roi_frame` may have taken away."""
    center = _turn(boxes[:, :3], rois[:, 6]) + rois[:, :3]
    return torch.cat([center, boxes[:, 3:6], boxes[:, 6:] + rois[:, 6:]], dim=1)


def at_origin(rois: Float[Tensor, "n 7"]) -> Float[Tensor, "n 7"]:
    """The proposals in their own frames: anchors for the box coder."""
    return torch.cat([torch.zeros_like(rois[:, :3]), rois[:, 3:6], torch.zeros_like(rois[:, :1])], dim=1)


def _turn(points: Tensor, angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    x, y, z = points.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y, z], dim=-1)


def _draw(best: Tensor, config: RoiTargetConfig, generator: torch.Generator | None) -> Int[Tensor, " k"]:
    def some(mask: Tensor, most: int) -> Tensor:
        rows = mask.nonzero()[:, 0].cpu()
        return rows[torch.randperm(len(rows), generator=generator)[: max(0, most)]]

    near = some(best >= config.near, round(config.count * config.near_share))
    rest = config.count - len(near)
    hard_mask, easy_mask = (best < config.near) & (best >= config.easy), best < config.easy
    hard = some(hard_mask, max(round(rest * config.hard_share), rest - int(easy_mask.sum())))
    easy = some(easy_mask, rest - len(hard))
    return torch.cat([near, hard, easy]).to(best.device)
