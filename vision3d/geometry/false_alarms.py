"""How many models would agree with so many matches by chance: the a-contrario test of rigid point matches.

Moisan and Stival, "A probabilistic criterion to detect rigid point matches between two images and estimate the
fundamental matrix", IJCV 2004, eq. 12. It supposes that matches are independent, which those of learned matchers are
not: thresholds need a margin.
"""

from __future__ import annotations

import math


def log10_nfa(n: int, inliers: int, sample: int, chance: float) -> float:
    """log10 of the expected number of models, among all through `sample` of n matches, with as many inliers by chance.

    chance: the probability that a random match agrees with a model. Infinite where nothing but the sample agrees.
    """
    if inliers <= sample:
        return math.inf
    return (
        math.log10(max(n - sample, 1))
        + _log10_binomial(n, inliers)
        + _log10_binomial(inliers, sample)
        + (inliers - sample) * math.log10(min(1.0, max(chance, 1e-12)))
    )


def epipolar_chance(threshold_px: float, width: int, height: int) -> float:
    """Probability that a random point of an image lies within the threshold of a line: the longest possible band."""
    return min(1.0, 2 * threshold_px * math.hypot(width, height) / (width * height))


def _log10_binomial(n: int, k: int) -> float:
    return (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(10)
