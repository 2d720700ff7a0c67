"""64-bit keys of sites that add up: key(site + offset) = key(site) + key(offset), modulo 2^64.

While the number of grid sites is below 2^63 the key is the site's number, and equal keys mean equal sites. Beyond, the
factors are random odd numbers: keys then tell sites apart almost always, and whoever compares keys compares sites too.
"""

from __future__ import annotations

import math

import numpy as np

# Odd numbers without structure (splitmix64's and murmur3's constants), one for the batch and one per dimension.
MIXING = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
    0xFF51AFD7ED558CCD,
    0xC4CEB9FE1A85EC53,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
)


def fits(extents: tuple[int, ...]) -> bool:
    """Whether every site has a number of its own below 2^63."""
    return math.prod(extents) < 2**63


def factors(extents: tuple[int, ...]) -> np.ndarray:
    """What to multiply each column of indices by, uint64."""
    if not fits(extents):
        return np.array(MIXING[: len(extents)], np.uint64)
    strides = [math.prod(extents[i + 1 :]) for i in range(len(extents))]
    return np.array(strides, np.uint64)
