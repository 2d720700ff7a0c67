"""Pairs with keypoints for training semantic matchers: which pairs, and which of them count as labelled.

SPair-71k, or a set in its layout. A share of each category's pairs may count as labelled, the rest as pictures
without labels: the setting of semi-supervised training (J. Kim et al., "Match me if you can", ACCV 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vision3d.data.semantic_pairs import SemanticPair
from vision3d.data.spair import read_spair


@dataclass(frozen=True, kw_only=True)
class SemanticSourceConfig:
    """Which pairs to train and validate on."""

    root: Path
    """SPair-71k's folder, or one in its layout"""
    layout: Literal["large", "small"] = "large"
    """list of pairs"""
    categories: tuple[str, ...] = ()
    """only these; all if empty"""
    labels: float = 1.0
    """share of each category's training pairs (at least one) whose keypoints are used"""
    held_out: int | None = None
    """pairs of val to validate on, spread evenly; null: all of them"""
    seed: int = 0
    """of the choice of the labelled pairs"""

    def __post_init__(self) -> None:
        if not 0 < self.labels <= 1:
            raise ValueError(f"labels is a share above 0 and up to 1, got {self.labels:g}")
        if self.held_out is not None and self.held_out < 0:
            raise ValueError(f"held_out must not be negative, got {self.held_out}")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a training set. size: (width, height) px as its annotation says."""

    file: Path
    category: str
    size: tuple[int, int]


def training_pairs(config: SemanticSourceConfig) -> tuple[SemanticPair, ...]:
    """The pairs of trn that count as labelled, in the order of the set. Errors as in `read_spair`."""
    pairs = read_spair(config.root, "trn", config.layout, config.categories).pairs
    if config.labels == 1:
        return pairs
    chosen: set[int] = set()
    for number, category in enumerate(sorted({pair.category for pair in pairs})):
        rows = [i for i, pair in enumerate(pairs) if pair.category == category]
        count = max(1, round(config.labels * len(rows)))
        chosen.update(np.random.default_rng((config.seed, number)).permutation(rows)[:count].tolist())
    return tuple(pairs[i] for i in sorted(chosen))


def held_out_pairs(config: SemanticSourceConfig) -> tuple[SemanticPair, ...]:
    """The pairs of val to validate on, always the same; those of one category are neighbours. Errors as above."""
    if config.held_out == 0:
        return ()
    pairs = read_spair(config.root, "val", config.layout).pairs
    if config.categories:
        pairs = tuple(pair for pair in pairs if pair.category in config.categories)
    count = len(pairs) if config.held_out is None else min(config.held_out, len(pairs))
    return tuple(pairs[i * len(pairs) // count] for i in range(count))


def training_pictures(config: SemanticSourceConfig) -> tuple[Picture, ...]:
    """Every picture of trn once, labelled or not, by category and file. Errors as above."""
    return pictures_of(read_spair(config.root, "trn", config.layout, config.categories).pairs)


def pictures_of(pairs: Sequence[SemanticPair]) -> tuple[Picture, ...]:
    """The pictures of these pairs, once each, by category and file."""
    found = {
        (pair.category, file, size)
        for pair in pairs
        for file, size in ((pair.image0, pair.size0), (pair.image1, pair.size1))
    }
    return tuple(Picture(file, category, size) for category, file, size in sorted(found))
