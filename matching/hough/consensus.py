"""Rigid motions from many matches: weighted least squares on those that a motion brings together, and their score.

W. Kabsch, "A solution for the best rotation to relate two sets of vectors", Acta Cryst. 1976.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Pose = tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]


def residuals(points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], pose: Pose) -> np.ndarray:
    """Distances between the moved points0 and points1."""
    out: np.ndarray = np.linalg.norm(points0 @ pose[0].T + pose[1] - points1, axis=1)
    return out


def truncated_score(distances: Float[np.ndarray, " n"], threshold: float) -> float:
    """Sum of 1 - (distance / threshold)^2 over the distances below the threshold."""
    return float(np.clip(1 - (distances / threshold) ** 2, 0, None).sum())


def kabsch(points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], weights: np.ndarray) -> Pose | None:
    """Rotation and translation 1 from 0 with the least weighted squares; None where the points lie on a line."""
    total = weights.sum()
    if total <= 0:
        return None
    mean0, mean1 = weights @ points0 / total, weights @ points1 / total
    u, s, vt = np.linalg.svd((weights[:, None] * (points1 - mean1)).T @ (points0 - mean0))
    if not s[1] > 1e-9 * s[0]:
        return None
    rotation = (u * np.array([1.0, 1.0, np.linalg.det(u) * np.linalg.det(vt)])) @ vt
    return rotation, mean1 - rotation @ mean0


def sharpen(
    points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], pose: Pose, threshold: float, rounds: int = 8
) -> Pose:
    """The pose fitted again and again to the matches it brings within `threshold`, weights falling to 0 there."""
    for _ in range(rounds):
        distance = residuals(points0, points1, pose)
        weights = np.clip(1 - (distance / threshold) ** 2, 0, None) ** 2
        if np.count_nonzero(weights) < 3:
            return pose
        fitted = kabsch(points0, points1, weights)
        if fitted is None:
            return pose
        still = np.abs(fitted[0] - pose[0]).max() < 1e-7 and np.abs(fitted[1] - pose[1]).max() < 1e-6 * threshold
        pose = fitted
        if still:
            break
    return pose
