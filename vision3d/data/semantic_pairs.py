"""Pairs of pictures of different things of one category with the same named points marked in both.

J. Min et al., "SPair-71k: A Large-scale Benchmark for Semantic Correspondence", arXiv 1908.10543, section 3.
Files count pixels from the centre of the top-left one; here that centre is (0.5, 0.5), so 0.5 has been added to points
and boxes. Distances, and with them PCK, are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import Vision3DError

PIXEL_CENTRE = 0.5  # ours minus the coordinates of files that count from (0, 0)
MATLAB_CENTRE = -0.5  # and of files that count from (1, 1)


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How different the two views are: 0 easy to 2 hard (viewpoint, scale); 0 none, 1 first, 2 second, 3 both
    (truncation, occlusion)."""

    viewpoint: int
    scale: int
    truncation: int
    occlusion: int


@dataclass(frozen=True, slots=True)
class SemanticPair:
    """Two pictures and the keypoints seen in both.

    image0, image1: files. size0, size1: (width, height) px. box0, box1: x1, y1, x2, y2 px, as annotated (they may
    stick out of the picture: thresholds are shares of their sides, so nothing is clipped). points0, points1: px of the
    originals, row by row the same part. keypoint_ids: the part's number, one per row. difficulty: None where the data
    set does not say.
    """

    pair_id: str
    category: str
    image0: Path
    image1: Path
    size0: tuple[int, int]
    size1: tuple[int, int]
    box0: tuple[float, float, float, float]
    box1: tuple[float, float, float, float]
    points0: Float[Tensor, "n 2"]
    points1: Float[Tensor, "n 2"]
    keypoint_ids: tuple[str, ...]
    difficulty: Difficulty | None = None


@dataclass(frozen=True, slots=True)
class SemanticImage:
    """One picture with all its keypoints: points [k 2] px, zero where not visible; visible [k]; their ids."""

    image: Path
    category: str
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    points: Float[Tensor, "k 2"]
    visible: Bool[Tensor, " k"]
    keypoint_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PairSplit:
    """The pairs of a split in its order; left_out: ids of those without common keypoints; overhanging: how many
    target boxes stick out of their picture (kept as annotated); synthetic: whether the folder says that it is."""

    pairs: tuple[SemanticPair, ...]
    left_out: tuple[str, ...]
    overhanging: int
    synthetic: bool


def pair_split(pairs: Sequence[SemanticPair], synthetic: bool = False) -> PairSplit:
    """Sorts out the pairs without common keypoints and counts the target boxes that stick out."""
    kept = tuple(pair for pair in pairs if len(pair.points0))
    overhanging = 0
    for pair in kept:
        x1, y1, x2, y2 = (v - PIXEL_CENTRE for v in pair.box1)
        overhanging += x1 < 0 or y1 < 0 or x2 > pair.size1[0] or y2 > pair.size1[1]
    return PairSplit(kept, tuple(pair.pair_id for pair in pairs if not len(pair.points0)), overhanging, synthetic)


def checked_box(
    values: Sequence[float], size: tuple[int, int], where: object, shift: float = PIXEL_CENTRE
) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a file plus `shift`, our coordinates minus the file's; where: what errors call it.

    Raises:
        ValueError: not four numbers. Vision3DError: the box is empty or lies outside the picture of `size` px.
    """
    x1, y1, x2, y2 = (float(v) for v in values)
    shown = [x1, y1, x2, y2]
    if not all(math.isfinite(v) for v in shown) or x2 <= x1 or y2 <= y1:
        raise Vision3DError(f"{where}: the box {shown} is empty")
    if x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0:
        raise Vision3DError(f"{where}: the box {shown} lies outside the image of {size[0]}x{size[1]} px")
    return x1 + shift, y1 + shift, x2 + shift, y2 + shift
