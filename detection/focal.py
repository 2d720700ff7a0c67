"""Focal sparse convolution: importance is predicted, important sites spread, all are convolved; and its loss.

Chen et al., "Focal Sparse Convolutional Networks for 3D Object Detection", CVPR 2022, sections 3.2 (focal), 3.3 (with
images). The choice by share, the masks and the order of channels are those of the authors' code (see README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.core import Boxes3D, Sites, SparseTensor
from vision3d.detection.focal_sites import choose_important, spread
from vision3d.detection.grid import Steps, VoxelGrid
from vision3d.sparse import SparseBatchNorm, SparseReLU, SparseSequential, SubmanifoldConv
from vision3d.sparse.layers import SparseModule

ImageSampler = Callable[[Int[Tensor, "n 4"]], Float[Tensor, "n c"]]


@dataclass(frozen=True, kw_only=True)
class FocalConfig:
    """stages: which of the backbone's stages 1 to 3 end in a focal convolution. kernel_size: also of the spread.

    top_share: share of a grid's sites that are important; None: those whose importance is above `threshold`.
    threshold: least importance of a neighbour for the spread. weigh_features: every site's features times its own
    importance. weigh_asked: features of important sites times the mean of 1 and of the importances with which their
    neighbours asked for them; of both, the gradient teaches the importance. enlarge: channels of a convolution before
    the importance, 0 for none (64 where there are no images).
    """

    stages: tuple[int, ...] = (1, 2, 3)
    kernel_size: int = 3
    top_share: float | None = 0.5
    threshold: float = 0.5
    weigh_features: bool = False
    weigh_asked: bool = True
    enlarge: int = 0

    def __post_init__(self) -> None:
        if not set(self.stages) <= {1, 2, 3} or self.kernel_size % 2 == 0 or self.kernel_size < 3:
            raise ValueError(f"focal stages are among 1, 2, 3 and kernel sizes odd and above 1, got {self}")
        if not 0 < self.threshold < 1 or (self.top_share is not None and not 0 <= self.top_share <= 1):
            raise ValueError(f"threshold and top_share are shares, got {self.threshold} and {self.top_share}")

    def for_images(self) -> FocalConfig:
        """Those of the focal convolution that takes image features."""
        return replace(self, kernel_size=3, enlarge=0, weigh_features=False)


@dataclass(frozen=True, slots=True)
class Importance:
    """logits: of the input sites' own importance. stride: the sites' total stride (z, y, x)."""

    logits: Float[Tensor, " n"]
    sites: Sites
    stride: Steps


class FocalConv(SparseModule):
    """Submanifold convolution on the input sites and on those that important sites ask for; batch norm, ReLU.

    Args:
        image_channels: of image features beside the sites' own; they help to predict importance and are added to the
            convolution's result, so they must be as many as out_channels. 0: none.
    """

    def __init__(self, in_channels: int, out_channels: int, config: FocalConfig, image_channels: int = 0) -> None:
        super().__init__()
        if image_channels not in (0, out_channels):
            raise ValueError(f"{image_channels} image channels are added to {out_channels}: they must be as many")
        self.config = config
        self.image_channels = image_channels
        seen = config.enlarge or in_channels
        self.conv_enlarge: SparseSequential | None = None
        if config.enlarge:
            conv = SubmanifoldConv(3, in_channels, seen, 3, bias=False)
            norm = SparseBatchNorm(seen, eps=1e-3, momentum=0.01)
            self.conv_enlarge = SparseSequential(conv, norm, SparseReLU())
        self.conv_imp = SubmanifoldConv(3, image_channels + seen, config.kernel_size**3, 3)
        self.conv = SubmanifoldConv(3, in_channels, out_channels, config.kernel_size, bias=False)
        self.bn1 = SparseBatchNorm(out_channels, eps=1e-3, momentum=0.01)

    def forward(
        self, x: SparseTensor, stride: Steps, image: ImageSampler | None = None
    ) -> tuple[SparseTensor, Importance]:
        """Features on more sites, lexicographic, and the importance. image: features at (batch, z, y, x) of sites."""
        if (image is None) != (self.image_channels == 0):
            raise ValueError("image features go with a focal convolution that has image_channels")
        seen = self.conv_enlarge(x) if self.conv_enlarge is not None else x
        if image is not None:
            seen = seen.with_features(torch.cat([image(x.indices), seen.features], dim=1))
        logits = self.conv_imp(seen).features
        y = self.conv(self._spread(x, logits))
        if image is not None:
            y = y.with_features(y.features + image(y.indices))
        y = self.bn1(y)
        return y.with_features(y.features.relu()), Importance(logits[:, -1], x.sites, stride)

    def _spread(self, x: SparseTensor, logits: Tensor) -> SparseTensor:
        config = self.config
        own, neighbours = logits[:, -1].sigmoid(), logits[:, :-1].sigmoid()
        important = choose_important(own.detach(), x.indices, x.batch_size, config.top_share, config.threshold)
        plan = spread(x.sites, important, neighbours.detach() >= config.threshold, config.kernel_size)
        features = x.features * own[:, None] if config.weigh_features else x.features
        if config.weigh_asked:
            features = features * asked_weight(neighbours, important, plan.asked_row, plan.asked_by)[:, None]
        out = features.new_zeros(len(plan.sites), x.channels).index_copy(0, plan.row_of, features)
        return SparseTensor.at(plan.sites, out)


def asked_weight(
    neighbours: Float[Tensor, "n k"],
    important: Bool[Tensor, " n"],
    asked_row: Int[Tensor, " r"],
    asked_by: Int[Tensor, "r 2"],
) -> Float[Tensor, " n"]:
    """The mean of 1 and of the importances of all requests for an important site; 1 for the others."""
    heard = important[asked_row]
    rows = asked_row[heard]
    values = neighbours[asked_by[heard, 0], asked_by[heard, 1]]
    ones = torch.ones_like(neighbours[:, 0])
    total = ones.index_add(0, rows, values)
    return total / ones.index_add(0, rows, torch.ones_like(values))


def importance_loss(importances: Sequence[Importance], boxes: Sequence[Boxes3D], grid: VoxelGrid) -> Float[Tensor, ""]:
    """Focal loss (gamma 2) of the importance against "the voxel's centre lies in a true box", summed over blocks.

    boxes: of each grid of the batch, in the LiDAR's frame. Mean over the sites of a block; 0 where there are none.
    """
    total = torch.zeros(())
    for importance in importances:
        logits = importance.logits
        if not len(logits):
            continue
        inside = centers_in_boxes(importance.sites, importance.stride, boxes, grid)
        miss = F.binary_cross_entropy_with_logits(logits, inside.to(logits), reduction="none")
        wrong = torch.where(inside, -logits, logits).sigmoid()
        total = total.to(logits) + (wrong.square() * miss).mean()
    return total


def centers_in_boxes(sites: Sites, stride: Steps, boxes: Sequence[Boxes3D], grid: VoxelGrid) -> Bool[Tensor, " n"]:
    """Which sites' centres lie in a box of their grid of the batch."""
    centers = grid.centers(sites.indices, stride)
    inside = torch.zeros(len(centers), dtype=torch.bool, device=centers.device)
    for b, mine in enumerate(boxes):
        rows = (sites.indices[:, 0] == b).nonzero()[:, 0]
        if len(mine) and len(rows):
            inside[rows] = mine.contains(centers[rows]).any(0)
    return inside
