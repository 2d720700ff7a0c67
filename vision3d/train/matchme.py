"""Match me if you can: trains a head with few labels and with those that an earlier head gave to unpaired pictures.

J. Kim et al., "Match me if you can: Semi-Supervised Semantic Correspondence Learning with Unpaired Images", ACCV 2024.
The annotator is a trained head (task semantic_head, or this task: then it is the next round).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from vision3d.data.semantic_pairs import SemanticPair
from vision3d.errors import UsageError
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.trained_head import HeadedBackbone, trained_head
from vision3d.train.semantic_annotator import AnnotatorConfig, annotate, unlabelled_pairs
from vision3d.train.semantic_head import HeadSample, KeypointPairs, SemanticHead, SemanticHeadConfig
from vision3d.train.semantic_sources import training_pictures

PICTURES = 256  # whose features are held while annotating; pairs of a category are neighbours


@dataclass(frozen=True, kw_only=True)
class MatchMeConfig(SemanticHeadConfig):
    """What is trained, on what, and who annotates."""

    annotator: Path
    """weights of a trained head, on the same backbone and size"""
    machine: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    machine_share: float = 0.7
    """of the samples, those with machine labels"""

    def __post_init__(self) -> None:
        SemanticHeadConfig.__post_init__(self)
        if not 0 < self.machine_share < 1:
            raise ValueError(f"machine_share lies between 0 and 1, got {self.machine_share:g}")


@dataclass(frozen=True)
class MixedPairs:
    """Labelled pairs, in the place of a share of which comes a machine-labelled pair, drawn anew in every epoch."""

    labelled: KeypointPairs
    machine: KeypointPairs
    share: float

    def __len__(self) -> int:
        return len(self.labelled)

    def sample(self, index: int, epoch: int) -> HeadSample:
        """See `KeypointPairs`."""
        rng = np.random.default_rng((self.labelled.seed, epoch, index, 1))
        if rng.random() < self.share:
            return self.machine.sample(int(rng.integers(len(self.machine))), epoch)
        return self.labelled.sample(index, epoch)


class MatchMe(SemanticHead):
    """The task: that of `SemanticHead`, with machine labels among the labels."""

    def __init__(self, config: MatchMeConfig) -> None:
        super().__init__(config)
        self.machine_pairs = self._annotate(config)
        if not self.machine_pairs:
            raise UsageError(f"{config.annotator} is sure of no point; raise machine.within or machine.share")
        self.dataset = MixedPairs(self._views(self.labelled), self._views(self.machine_pairs), config.machine_share)

    @torch.no_grad()
    def _annotate(self, config: MatchMeConfig) -> list[SemanticPair]:
        """What the annotator makes of pictures that are not labelled as pairs."""
        annotator = trained_head(config.annotator)
        backbone = annotator.backbone
        assert isinstance(backbone, HeadedBackbone)
        same = self.frozen.backbone.settings == backbone.backbone.settings and annotator.max_size == config.size
        if not same:
            raise UsageError(f"{config.annotator} was trained on another backbone or size than this head shall be")

        @functools.lru_cache(maxsize=PICTURES)
        def describe(file: Path, size: tuple[int, int]) -> DenseFeatures:
            return DenseFeatures(backbone.head(self.features(file, size)[None])[0], size)

        source = config.source
        pairs = unlabelled_pairs(self.labelled, training_pictures(source), config.machine.pairs, source.seed)
        return annotate(pairs, describe, config.machine)


def build(config: MatchMeConfig) -> MatchMe:
    """The task of these settings. UsageError for data or an annotator that is not there."""
    return MatchMe(config)
