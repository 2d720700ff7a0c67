"""Trains a head on a frozen backbone with keypoints of pairs: J. Zhang et al., "Telling Left from Right", CVPR 2024.

Section 4.2 there (bottlenecks on frozen features), 4.4 (mirror images); the loss is that of `head_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vision3d.data.collate import Batch, collate
from vision3d.data.semantic_pairs import SemanticPair
from vision3d.errors import UsageError
from vision3d.matching.semantic.head import BottleneckHead, HeadConfig
from vision3d.matching.semantic.head_loss import keypoint_cross_entropy
from vision3d.matching.semantic.trained_head import frozen_matcher
from vision3d.train.semantic_features import KeptFeatures, random_view
from vision3d.train.semantic_sources import SemanticSourceConfig, held_out_pairs, training_pairs
from vision3d.train.semantic_validation import held_out_pck
from vision3d.train.task import TrainingSet


@dataclass(frozen=True, kw_only=True)
class SemanticHeadConfig:
    """What is trained, on what."""

    source: SemanticSourceConfig
    backbone: str = "efficientnet-lite0"
    """a semantic matcher with frozen features, by its name in the catalogue"""
    size: int = 512
    """px of the square that pictures are squashed to"""
    keep: Path | None = None
    """folder that keeps the frozen features; null: memory"""
    windows: int = 0
    """windows of each picture to train on beside the whole; 0: the whole alone"""
    mirror: bool = True
    """train on mirror images of both pictures, too"""
    head: HeadConfig = field(default_factory=HeadConfig)
    temperature: float = 0.05
    """of the loss, on cosines"""
    sigma: float = 1.0
    """cells; how far the truth is smoothed"""
    seed: int = 0
    """of the views"""

    def __post_init__(self) -> None:
        if self.windows < 0 or not self.temperature > 0 or not self.sigma > 0:
            raise ValueError(
                "windows must not be negative, temperature and sigma must be above 0, "
                f"got {self.windows}, {self.temperature:g}, {self.sigma:g}"
            )


@dataclass(frozen=True, slots=True)
class HeadSample:
    """Two grids of frozen features [c h w], and the cells (column, row) [n 2] of the same parts in both."""

    grid0: Tensor
    grid1: Tensor
    cells0: Tensor
    cells1: Tensor


@dataclass(frozen=True)
class KeypointPairs:
    """Views of labelled pairs, drawn anew in every epoch."""

    pairs: Sequence[SemanticPair]
    features: KeptFeatures
    windows: int
    mirror: bool
    seed: int

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, epoch: int) -> HeadSample:
        """Both pictures mirrored or neither, so that the parts keep their meaning; each in a view of its own."""
        rng = np.random.default_rng((self.seed, epoch, index))
        pair = self.pairs[index]
        mirrored = self.mirror and bool(rng.integers(2))
        numbers = rng.integers(self.windows + 1, size=2)
        grids, cells = [], []
        for file, size, points, number in zip(
            (pair.image0, pair.image1), (pair.size0, pair.size1), (pair.points0, pair.points1), numbers, strict=True
        ):
            view = random_view(file, int(number), mirrored)
            grids.append(self.features(file, size, view))
            cells.append(view.to_cells(points, size, self.features.cells))
        return HeadSample(*grids, *cells)


class SemanticHead:
    """The task: cross-entropy on labelled pairs; validation by PCK of held-out pairs."""

    main_metric = "pck"
    collate = staticmethod(collate)

    def __init__(self, config: SemanticHeadConfig) -> None:
        self.config = config
        self.frozen = frozen_matcher(config.backbone, config.size)
        self.features = KeptFeatures(self.frozen.backbone, config.size, config.keep)
        self.model = BottleneckHead(self.frozen.backbone.channels, config.head)
        self.labelled = training_pairs(config.source)
        if not self.labelled:
            raise UsageError(f"{config.source.root} has no labelled pairs to train on")
        self.dataset: TrainingSet = self._views(self.labelled)
        self.held_out = held_out_pairs(config.source)

    def _views(self, pairs: Sequence[SemanticPair]) -> KeypointPairs:
        config = self.config
        return KeypointPairs(pairs, self.features, config.windows, config.mirror, config.seed)

    def losses(self, batch: Batch[HeadSample]) -> dict[str, Tensor]:
        """The mean over the keypoints of the batch that lie in both views."""
        grids = self.model(torch.cat([batch.grid0, batch.grid1]))
        terms = [
            keypoint_cross_entropy(
                grids[i],
                grids[len(batch) + i],
                batch[i].cells0,
                batch[i].cells1,
                temperature=self.config.temperature,
                sigma=self.config.sigma,
            )
            for i in range(len(batch))
        ]
        every = torch.cat(terms)
        return {"loss": every.sum() / (every > 0).sum().clamp(min=1)}

    def validate(self) -> dict[str, float]:
        """PCK@0.1 (box, original resolution) per image and per point in percent, by nearest neighbour."""
        device = next(self.model.parameters()).device
        return held_out_pck(
            self.held_out, lambda file, size: self.model(self.features(file, size)[None].to(device))[0].cpu()
        )


def build(config: SemanticHeadConfig) -> SemanticHead:
    """The task of these settings. UsageError for data that is not there."""
    return SemanticHead(config)
