"""Do two photos show the same thing? Robust two-view geometry and the number of agreeing matches expected by chance.

The a-contrario test of Moisan and Stival, "A probabilistic criterion to detect rigid point matches", IJCV 2004: under
the hypothesis that matches are independent and uniform, NFA is how often k of n of them agree this well with the best
fundamental matrix or homography. Neighbouring matches are not independent (semi-dense matchers err in whole patches),
so one match per cell of either photo is counted. Geometry by poselib's LO-RANSAC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import poselib
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import Correspondences
from vision3d.geometry.false_alarms import epipolar_chance, log10_nfa

CELLS = 32  # along the longer side; matches that share a cell count once
REFERENCE_SIZE = 1024  # px; thresholds hold for photos of this longer side and grow with larger ones


@dataclass(frozen=True, slots=True)
class Agreement:
    """The geometry that explains most matches: fundamental matrix (x1^T F x0 = 0) or homography (x1 ~ H x0, H22 = 1).

    matrix is in px of the originals, None where there are too few matches; threshold_px as used; log10_nfa: logarithm
    of the number of false alarms, lower is better, infinite where nothing agrees; independent: agreeing matches that
    were counted for it (one a cell).
    """

    model: Literal["fundamental", "homography", "none"]
    matrix: Float[Tensor, "3 3"] | None
    inliers: Bool[Tensor, " n"]
    threshold_px: float
    log10_nfa: float
    independent: int

    @property
    def num_inliers(self) -> int:
        """Number of matches that agree."""
        return int(self.inliers.sum())


def agreement(
    matches: Correspondences,
    size0: tuple[int, int],
    size1: tuple[int, int],
    *,
    threshold_px: float = 2.0,
    iterations: int = 10_000,
    seed: int = 0,
) -> Agreement:
    """The better of fundamental matrix and homography by NFA; sizes are (width, height) px of the originals.

    threshold_px: error up to which a match agrees, for photos of REFERENCE_SIZE; larger photos scale it up.
    """
    n = len(matches)
    threshold = threshold_px * math.sqrt(math.prod(max(1.0, max(size) / REFERENCE_SIZE) for size in (size0, size1)))
    best = Agreement("none", None, torch.zeros(n, dtype=torch.bool), threshold, math.inf, 0)
    if n < 8:
        return best
    x0 = matches.points0.detach().cpu().double().numpy()
    x1 = matches.points1.detach().cpu().double().numpy()
    options = {
        "max_epipolar_error": threshold,
        "max_reproj_error": threshold,
        "max_iterations": iterations,
        "min_iterations": 200,
        "success_prob": 0.9999,
        "seed": seed,
    }
    alone = one_per_cell(x0, x1, matches.scores.detach().cpu().numpy(), size0, size1)
    matrix, info = poselib.estimate_fundamental(x0, x1, options, {})
    best = _better(best, "fundamental", matrix, info["inliers"], alone, size1, threshold)
    matrix, info = poselib.estimate_homography(x0, x1, options, {})
    return _better(best, "homography", matrix, info["inliers"], alone, size1, threshold)


def one_per_cell(
    x0: Float[np.ndarray, "n 2"],
    x1: Float[np.ndarray, "n 2"],
    scores: Float[np.ndarray, " n"],
    size0: tuple[int, int],
    size1: tuple[int, int],
) -> Bool[np.ndarray, " n"]:
    """The best-scored matches such that no two share a cell in photo 0 or in photo 1; see CELLS."""
    kept = np.argsort(-scores, kind="stable")
    for points, size in ((x0, size0), (x1, size1)):
        cell = np.floor(points[kept] * (CELLS / max(size))).astype(np.int64)
        _, first = np.unique(cell[:, 0] * 4 * CELLS + cell[:, 1], return_index=True)
        kept = kept[np.sort(first)]
    mask = np.zeros(len(x0), dtype=bool)
    mask[kept] = True
    return mask


def _better(
    best: Agreement,
    model: Literal["fundamental", "homography"],
    matrix: np.ndarray,
    inliers: object,
    alone: Bool[np.ndarray, " n"],
    size: tuple[int, int],
    threshold: float,
) -> Agreement:
    mask = torch.from_numpy(np.asarray(inliers, dtype=bool))
    width, height = size
    if model == "fundamental":
        sample, chance = 7, epipolar_chance(threshold, width, height)
    else:
        sample, chance = 4, math.pi * threshold**2 / (width * height)
    counted = int(mask.numpy()[alone].sum())
    nfa = log10_nfa(int(alone.sum()), counted, sample, chance)
    if nfa >= best.log10_nfa:
        return best
    scaled = np.array(matrix, dtype=np.float64)
    scaled /= scaled[2, 2] if model == "homography" else np.linalg.norm(scaled)
    return Agreement(model, torch.from_numpy(scaled), mask, threshold, nfa, counted)
