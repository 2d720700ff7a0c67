"""Hardest-contrastive loss of point features: matched ones near, the nearest wrong one of each far.

C. Choy et al., "Fully Convolutional Geometric Features", ICCV 2019, section 3.2.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

POSITIVE_MARGIN = 0.1
NEGATIVE_MARGIN = 1.4


def hardest_contrastive(
    features0: Float[Tensor, "n c"],
    features1: Float[Tensor, "m c"],
    points0: Float[Tensor, "n 3"],
    points1: Float[Tensor, "m 3"],
    matches: Int[Tensor, "k 2"],
    candidates0: Int[Tensor, " a"],
    candidates1: Int[Tensor, " b"],
    safe_radius: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The positive and the negative term; their sum is the loss.

    matches: rows whose points coincide. For each match (i, j), the hardest negative of i is the candidate of cloud 1
    whose feature is nearest, points within `safe_radius` of point j left out; the same from j to cloud 0. points0 and
    points1 are each cloud's own, in one unit. Terms: mean of relu(|f - g| - 0.1)^2 over matches, and of
    relu(1.4 - |f - g|)^2 over hardest negatives, halved per side. A match without any candidate has no negative term.
    """
    own0, own1 = features0[matches[:, 0]], features1[matches[:, 1]]
    positive = (_distance(own0, own1) - POSITIVE_MARGIN).relu().square().mean()
    negative = _hardest(own0, features1, points1, matches[:, 1], candidates1, safe_radius)
    negative = negative + _hardest(own1, features0, points0, matches[:, 0], candidates0, safe_radius)
    return positive, negative / 2


def _hardest(
    own: Tensor, features: Tensor, points: Tensor, matched: Tensor, candidates: Tensor, radius: float
) -> Tensor:
    with torch.no_grad():
        apart = torch.cdist(points[matched], points[candidates]) > radius
        distance = torch.cdist(own, features[candidates]).masked_fill(~apart, torch.inf)
        nearest = distance.argmin(dim=1)
        valid = apart.any(dim=1)
    if not bool(valid.any()):
        return own.sum() * 0
    chosen = features[candidates[nearest[valid]]]
    return (NEGATIVE_MARGIN - _distance(own[valid], chosen)).relu().square().mean()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, with a gradient where both are equal."""
    return ((a - b).square().sum(dim=1) + 1e-12).sqrt()


def hardest_contrastive_slow(
    features0: Float[Tensor, "n c"],
    features1: Float[Tensor, "m c"],
    points0: Float[Tensor, "n 3"],
    points1: Float[Tensor, "m 3"],
    matches: Int[Tensor, "k 2"],
    candidates0: Int[Tensor, " a"],
    candidates1: Int[Tensor, " b"],
    safe_radius: float,
) -> tuple[float, float]:
    """`hardest_contrastive` in loops."""
    positive: list[float] = []
    sides: tuple[list[float], list[float]] = ([], [])
    for i, j in matches.tolist():
        positive.append(max(float((features0[i] - features1[j]).norm()) - POSITIVE_MARGIN, 0) ** 2)
        for side, own, features, points, at, candidates in (
            (sides[0], features0[i], features1, points1, j, candidates1),
            (sides[1], features1[j], features0, points0, i, candidates0),
        ):
            allowed = [c for c in candidates.tolist() if float((points[c] - points[at]).norm()) > safe_radius]
            if allowed:
                least = min(float((own - features[c]).norm()) for c in allowed)
                side.append(max(NEGATIVE_MARGIN - least, 0) ** 2)
    means = [sum(side) / len(side) if side else 0.0 for side in sides]
    return sum(positive) / len(positive), sum(means) / 2
