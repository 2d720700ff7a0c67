"""A machine annotator: a trained matcher carries labelled keypoints to pictures that no label pairs them with.

J. Kim et al., "Match me if you can: Semi-Supervised Semantic Correspondence Learning with Unpaired Images", ACCV 2024.
Kept are points that come back to where they started and, of these, the share that the annotator is surest of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.data.semantic_pairs import SemanticPair
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.transfer import peak, sample, similarities
from vision3d.train.semantic_sources import Picture, pictures_of


@dataclass(frozen=True, kw_only=True)
class AnnotatorConfig:
    """Which machine labels are kept."""

    pairs: int = 2000
    """pairs of pictures that are annotated, at most, the same number of each category"""
    within: float = 1.5
    """cells from which a point carried there and back may be away from its start"""
    share: float = 1.0
    """of the points that come back, those the annotator is surest of"""

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.within < 0 or not 0 < self.share <= 1:
            raise ValueError(
                "the annotator needs pairs >= 1, within >= 0 and share above 0 and up to 1, "
                f"got {self.pairs}, {self.within:g}, {self.share:g}"
            )


def unlabelled_pairs(
    labelled: Sequence[SemanticPair], pictures: Sequence[Picture], count: int, seed: int
) -> list[SemanticPair]:
    """Pairs of a picture that has labels with another one of its category, none of them labelled as a pair.

    At most `count`, drawn at random, the same number of each category. points1 are those of image 0: not known yet.
    """
    known: dict[Path, dict[str, Tensor]] = {}
    for pair in labelled:
        for file, points in ((pair.image0, pair.points0), (pair.image1, pair.points1)):
            known.setdefault(file, {}).update(zip(pair.keypoint_ids, points, strict=True))
    taken = {(pair.image0, pair.image1) for pair in labelled} | {(pair.image1, pair.image0) for pair in labelled}
    sources = pictures_of(labelled)
    categories = sorted({source.category for source in sources})
    out = []
    for number, category in enumerate(categories):
        choices = [
            (source, target)
            for source in sources
            for target in pictures
            if source.category == target.category == category
            and source.file != target.file
            and (source.file, target.file) not in taken
        ]
        rows = np.random.default_rng((seed, number)).permutation(len(choices))[: max(1, count // len(categories))]
        for row in sorted(rows.tolist()):
            source, target = choices[row]
            ids = tuple(sorted(known[source.file]))
            points = torch.stack([known[source.file][key] for key in ids])
            out.append(_pair(source, target, ids, points))
    return out


def annotate(
    pairs: Sequence[SemanticPair], describe: Callable[[Path, tuple[int, int]], DenseFeatures], config: AnnotatorConfig
) -> list[SemanticPair]:
    """The pairs with points1 from the annotator, without the points that it is not sure of; pairs that lose all their
    points are left out. describe: the annotator's features of a picture of (width, height) px."""
    found = [carry_and_return(describe(p.image0, p.size0), describe(p.image1, p.size1), p.points0) for p in pairs]
    back = [apart <= config.within for _, apart, _ in found]
    sure = torch.cat([s[keep] for (_, _, s), keep in zip(found, back, strict=True)]) if found else torch.zeros(0)
    if not len(sure):
        return []
    limit = sure.quantile(1 - config.share)
    out = []
    for pair, (points1, _, surety), keep in zip(pairs, found, back, strict=True):
        keep = keep & (surety >= limit)
        if keep.any():
            ids = tuple(key for key, k in zip(pair.keypoint_ids, keep.tolist(), strict=True) if k)
            out.append(replace(pair, keypoint_ids=ids, points0=pair.points0[keep], points1=points1[keep]))
    return out


def carry_and_return(
    source: DenseFeatures, target: DenseFeatures, points: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Where the points lie in the target (px of its original), how many cells they are away when carried back (along
    the axis where it is more), and the cosine with which they were found."""
    cells = source.to_cells(points)
    scores = similarities(sample(source.grid, cells), target.grid)
    there = peak(scores)
    back = peak(similarities(sample(target.grid, there), source.grid))
    apart = (back - cells).abs().amax(dim=1)
    limit = points.new_tensor(target.image_size)
    return torch.minimum(target.to_pixels(there).clamp(min=0), limit), apart, scores.flatten(1).amax(dim=1)


def _pair(source: Picture, target: Picture, ids: tuple[str, ...], points: Tensor) -> SemanticPair:
    box0, box1 = ((0.0, 0.0, float(picture.size[0]), float(picture.size[1])) for picture in (source, target))
    name = f"{source.file.stem}-{target.file.stem}:{source.category}"
    files, sizes = (source.file, target.file), (source.size, target.size)
    return SemanticPair(name, source.category, *files, *sizes, box0, box1, points, points, ids)
