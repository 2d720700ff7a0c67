"""Pairs of pictures of different things of one category with the same named points marked in both.

J. Min et al., "SPair-71k: A Large-scale Benchmark for Semantic Correspondence", arXiv 1908.10543, section 3.
Files count pixels from the centre of the top-left one; here that centre is (0.5, 0.5), so 0.5 has been added to points
and boxes. Distances, and with them PCK, are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

PIXEL_CENTRE = 0.5  # ours minus the files' coordinates


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
