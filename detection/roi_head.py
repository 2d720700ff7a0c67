"""The second stage of Voxel R-CNN: proposals, pooled voxel features, a score and a better box for each; its losses.

Deng et al., "Voxel R-CNN", AAAI 2021, sections 3.3 and 3.4. Names of parameters are OpenPCDet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision3d.core import Boxes3D
from vision3d.detection import box_coder
from vision3d.detection.anchor_head import AnchorOutput, smooth_l1
from vision3d.detection.backbone import BackboneOutput
from vision3d.detection.grid import VoxelGrid
from vision3d.detection.roi_pool import VoxelPool, through
from vision3d.detection.roi_targets import RoiTargetConfig, at_origin, from_roi_frame, sample_rois, to_roi_frame
from vision3d.detection.suppression import SuppressionConfig, select_boxes

PROPOSALS_TRAIN = SuppressionConfig(min_score=0.0, max_overlap=0.8, candidates=9000, most=512)
PROPOSALS_TEST = SuppressionConfig(min_score=0.0, max_overlap=0.7, candidates=2048, most=100)


@dataclass(frozen=True, kw_only=True)
class RoiHeadConfig:
    """cells: of the grid in a proposal, per side. radii: m, for the backbone's stages 2 to 4. hidden: of the layers
    that proposals' features go through. train, test: which of the anchors' boxes become proposals."""

    cells: int = 6
    radii: tuple[float, float, float] = (0.4, 0.8, 1.6)
    channels: int = 32
    reach: int = 4
    samples: int = 16
    hidden: int = 256
    dropout: float = 0.3
    train: SuppressionConfig = PROPOSALS_TRAIN
    test: SuppressionConfig = PROPOSALS_TEST
    targets: RoiTargetConfig = field(default_factory=RoiTargetConfig)


@dataclass(frozen=True, slots=True)
class RoiLosses:
    """Mean over the proposals that count."""

    scores: Float[Tensor, ""]
    boxes: Float[Tensor, ""]
    corners: Float[Tensor, ""]


class RoiHead(nn.Module):
    """stage_channels: of the backbone's four stages."""

    def __init__(self, config: RoiHeadConfig, grid: VoxelGrid, stage_channels: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.roi_grid_pool_layers = nn.ModuleList(
            VoxelPool(inputs, config.channels, radius, config.reach, config.samples)
            for inputs, radius in zip(stage_channels[1:], config.radii, strict=True)
        )
        width = config.cells**3 * config.channels * len(config.radii)
        self.shared_fc_layer = _layers(width, config.hidden, config.dropout)
        self.cls_fc_layers = _layers(config.hidden, config.hidden, config.dropout)
        self.cls_pred_layer = nn.Linear(config.hidden, 1)
        self.reg_fc_layers = _layers(config.hidden, config.hidden, config.dropout)
        self.reg_pred_layer = nn.Linear(config.hidden, 7)
        for module in (self.shared_fc_layer, self.cls_fc_layers, self.reg_fc_layers):
            for layer in module:
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_normal_(layer.weight)
        for layer, spread in ((self.cls_pred_layer, 0.01), (self.reg_pred_layer, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def propose(self, out: AnchorOutput, config: SuppressionConfig) -> list[Boxes3D]:
        """The anchors' best boxes of each cloud; no gradients."""
        with torch.no_grad():
            scores, labels = out.classes.sigmoid().max(dim=-1)
            return [select_boxes(*rows, config) for rows in zip(out.boxes(), labels, scores, strict=True)]

    def forward(
        self, features: BackboneOutput, rois: Float[Tensor, "n 7"], batch: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 7"]]:
        """Score logits and residuals against the proposals in their own frames. batch: whose cloud each one is."""
        if not len(rois):
            return rois.new_zeros(0), rois.new_zeros(0, 7)
        points = grid_points(rois, self.config.cells)
        whose = batch[:, None].expand(points.shape[:2]).reshape(-1)
        pooled = [
            pool(features.stages[k], features.strides[k], self.grid, points.flatten(0, 1), whose)
            for k, pool in enumerate(self.roi_grid_pool_layers, 1)
        ]
        shared = through(self.shared_fc_layer, torch.cat(pooled, dim=1).reshape(len(rois), -1))
        logits = self.cls_pred_layer(through(self.cls_fc_layers, shared))[:, 0]
        return logits, self.reg_pred_layer(through(self.reg_fc_layers, shared))

    def detect(self, features: BackboneOutput, out: AnchorOutput, last: SuppressionConfig) -> list[Boxes3D]:
        """Refined and suppressed boxes of each cloud."""
        proposals = self.propose(out, self.config.test)
        counts = [len(p) for p in proposals]
        rows = torch.cat([box_coder.box_rows(p) for p in proposals])
        batch = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(rows.device)
        logits, codes = self(features, rows, batch)
        better = from_roi_frame(box_coder.decode(codes, at_origin(rows)), rows)
        parts = zip(torch.split(better, counts), torch.split(logits.sigmoid(), counts), strict=True)
        return [select_boxes(r, p.labels, s, last) for p, (r, s) in zip(proposals, parts, strict=True)]

    def losses(
        self,
        features: BackboneOutput,
        out: AnchorOutput,
        truth: Sequence[Boxes3D],
        generator: torch.Generator | None = None,
    ) -> RoiLosses:
        """On proposals drawn by the generator, against the true boxes of each cloud."""
        proposals = self.propose(out, self.config.train)
        drawn = [sample_rois(p, t, self.config.targets, generator) for p, t in zip(proposals, truth, strict=True)]
        rois, wanted, boxes, near = (
            torch.cat([getattr(d, name) for d in drawn]) for name in ("rois", "scores", "boxes", "near")
        )
        batch = torch.repeat_interleave(torch.arange(len(drawn)), torch.tensor([len(d.rois) for d in drawn]))
        logits, codes = self(features, rois, batch.to(rois.device))
        if not len(rois):
            none = logits.sum()
            return RoiLosses(none, none, none)
        scores = F.binary_cross_entropy_with_logits(logits, wanted)
        if not bool(near.any()):
            return RoiLosses(scores, codes.sum() * 0, codes.sum() * 0)
        rois, boxes, codes = rois[near], boxes[near], codes[near]
        local = at_origin(rois)
        targets = box_coder.encode(to_roi_frame(boxes, rois), local)
        found = from_roi_frame(box_coder.decode(codes, local), rois)
        return RoiLosses(scores, smooth_l1(codes - targets).sum(1).mean(), corner_loss(found, boxes).mean())


def grid_points(rois: Float[Tensor, "n 7"], cells: int) -> Float[Tensor, "n g 3"]:
    """Centres of cells x cells x cells parts of each box, m; x slowest, z fastest."""
    step = (torch.arange(cells, device=rois.device) + 0.5) / cells - 0.5
    unit = torch.cartesian_prod(step, step, step)
    local = unit[None] * rois[:, None, 3:6]
    c, s = rois[:, 6:7].cos(), rois[:, 6:7].sin()
    x, y, z = local.unbind(-1)
    return torch.stack([c * x - s * y, s * x + c * y, z], dim=-1) + rois[:, None, :3]


def corner_loss(found: Float[Tensor, "n 7"], truth: Float[Tensor, "n 7"]) -> Float[Tensor, " n"]:
    """Huber loss of the distance of the 8 corners, mean, to the true box or to the same turned by pi: the smaller one.

    Qi et al., "Frustum PointNets", CVPR 2018, equation 2.
    """
    turned = torch.cat([truth[:, :6], truth[:, 6:] + torch.pi], dim=1)
    mine, ahead, back = (grid_points(_double(rows), 2) for rows in (found, truth, turned))
    apart = torch.stack([(mine - ahead).norm(dim=2), (mine - back).norm(dim=2)])
    return F.huber_loss(apart, torch.zeros_like(apart), reduction="none").mean(2).amin(0)


def _double(rows: Tensor) -> Tensor:
    """Twice as large, so that the centres of the eighths are the corners."""
    return torch.cat([rows[:, :3], 2 * rows[:, 3:6], rows[:, 6:]], dim=1)


def _layers(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    first = [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*first, nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
