"""Whether a found motion is to be believed: overlap both ways, agreement of matches against chance, free directions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vision3d.geometry.false_alarms import log10_nfa
from vision3d.matching.hough.candidates import INLIER
from vision3d.matching.hough.consensus import Pose, residuals
from vision3d.matching.hough.grid import thin
from vision3d.matching.hough.surface import Surface, nearest

MOST_FALSE_ALARMS = -6.0  # log10


def overlap(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], pose: Pose, target: Surface, threshold: float
) -> tuple[float, float]:
    """Fraction of the moved points within `threshold` of the surface with normals within 30 degrees, and their RMS
    distance to it along its normals."""
    index, distance = nearest(points, pose, target)
    on = (index >= 0) & (distance <= threshold)
    at = index[on]
    n = target.normals[at]
    on_normals = np.abs(((normals[on] @ pose[0].T) * n).sum(1)) > 0.866
    off = ((points[on] @ pose[0].T + pose[1] - target.grid.points[at]) * n).sum(1)[on_normals]
    fraction = float(on_normals.sum()) / max(len(points), 1)
    return fraction, float(np.sqrt((off**2).mean())) if len(off) else 0.0


def chance_agreement(
    points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], pose: Pose, voxel: float
) -> float:
    """log10 of the number of poses with as many agreeing matches by chance (see geometry/false_alarms.py).

    Neighbouring matches are not independent: one match for each cell of 4 voxels counts. The chance that a wrong match
    agrees is that of pairing points at random, under this very pose.
    """
    moved = points0 @ pose[0].T + pose[1]
    good = np.linalg.norm(moved - points1, axis=1) < INLIER * voxel
    if good.sum() < 4:
        return 0.0
    cell = 4 * voxel
    inliers = min(len(thin(points0[good], cell)), len(thin(points1[good], cell)))
    total = max(len(thin(points0, cell)), inliers)
    squared = ((moved[good][:, None] - points1[None]) ** 2).sum(-1)
    chance = float((squared < (INLIER * voxel) ** 2).mean())
    return min(log10_nfa(total, inliers, 3, chance), 0.0)
