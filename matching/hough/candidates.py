"""Candidate motions of putative matches: votes of compatible triplets, their peaks, each fitted to its matches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from vision3d.matching.hough.compatibility import compatible
from vision3d.matching.hough.consensus import Pose, residuals, sharpen, truncated_score
from vision3d.matching.hough.triplets import draw_triplets, triplet_poses
from vision3d.matching.hough.voting import HoughSpace, peaks, vote

EDGE_TOLERANCE = 1.0  # voxels; edges of matches that may differ
SHORTEST_EDGE = 6.0  # voxels
LOWEST_HEIGHT = 2.0  # voxels; thinner triangles do not fix a rotation
TRANSLATION_BIN = 1.4  # voxels
APART = 3.0  # bins between two peaks
INLIER = 1.5  # voxels between matched points that a motion brings together


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A motion (1 from 0), the height of its peak, and the truncated score of all matches under it."""

    pose: Pose
    votes: float
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """A Hough space and the sizes of its bins: radians, and the points' unit."""

    space: HoughSpace
    rotation_bin: float
    translation_bin: float


def cast_votes(
    points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], voxel: float, *, triplets: int, seed: int
) -> Votes | None:
    """The motions of compatible triplets as votes; None where no three matches are compatible.

    points0[i] and points1[i] are matched, each cloud about its own centre: translations then are small, and a turn
    moves points by at most the clouds' radius, which gives the rotation's bins their size.
    """
    bits = compatible(points0, points1, EDGE_TOLERANCE * voxel, SHORTEST_EDGE * voxel)
    drawn, strength = draw_triplets(bits, triplets, seed)
    rotations, translations, heights = triplet_poses(points0, points1, drawn)
    keep = heights > LOWEST_HEIGHT * voxel
    if not keep.any():
        return None
    translation_bin = TRANSLATION_BIN * voxel
    radius = np.sqrt(min((points0**2).sum(1).mean(), (points1**2).sum(1).mean()))
    rotation_bin = float(np.clip(translation_bin / radius, 0.01, 0.2))
    rotvecs = Rotation.from_matrix(rotations[keep]).as_rotvec()
    return Votes(
        vote(rotvecs, translations[keep], strength[keep], rotation_bin, translation_bin), rotation_bin, translation_bin
    )


def candidates(
    points0: Float[np.ndarray, "n 3"],
    points1: Float[np.ndarray, "n 3"],
    voxel: float,
    *,
    triplets: int,
    most: int,
    seed: int,
    rank: Callable[[HoughSpace], Float[np.ndarray, " m"]] | None = None,
) -> list[Candidate]:
    """At most `most` distinct motions, best score first; none where no three matches are compatible.

    Points as in `cast_votes`. rank: what the peaks of the Hough space are sought in; None: its smoothed votes.
    """
    votes = cast_votes(points0, points1, voxel, triplets=triplets, seed=seed)
    if votes is None:
        return []
    space = votes.space if rank is None else replace(votes.space, smooth=rank(votes.space))
    found, heights = peaks(space, most, APART * votes.rotation_bin, APART * votes.translation_bin)
    out = []
    for peak, height in zip(found, heights, strict=True):
        pose = (Rotation.from_rotvec(peak[:3]).as_matrix(), peak[3:])
        pose = sharpen(points0, points1, sharpen(points0, points1, pose, 3 * voxel), 2 * voxel)
        score = truncated_score(residuals(points0, points1, pose), INLIER * voxel)
        out.append(Candidate(pose, float(height), score))
    return sorted(out, key=lambda c: -c.score)
