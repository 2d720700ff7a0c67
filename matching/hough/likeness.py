"""How well a motion explains two clouds: overlap, likeness of the features where they overlap, contradictions.

Overlap alone favours laying one floor on another. What a point's features are like at the place where it lands is
compared with what they are like at random places: its rank among these is 0.5 on average where the motion is wrong,
about 0.25 where a wrong motion lays plane on plane, and 0.05 to 0.2 where it is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vision3d.matching.hough.consensus import Pose
from vision3d.matching.hough.features import Described
from vision3d.matching.hough.surface import Surface, nearest

NEUTRAL_RANK = 0.35  # points of a higher rank count against a motion
REFERENCES = 48  # random places that a point is compared with
SAMPLE = 1000  # points a cloud


@dataclass(frozen=True, slots=True)
class Fit:
    """Fractions of either cloud on the other's surface, likeness, contradictions (see `Evidence`), RMS distance.

    opposed: of the points on a surface, those whose normal points to its other side: normals point to the clouds'
    centres, so a floor that lies on another one upside down is opposed.
    """

    overlap0: float
    overlap1: float
    likeness: float
    contradictions: float
    residual: float
    opposed: float


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A sample of a cloud's points, and each point's feature distances (squared, sorted) to random other points."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    features: Float[np.ndarray, "n c"]
    references: Float[np.ndarray, "n r"]


def probe(cloud: Described, other: Described, rng: np.random.Generator) -> Probe:
    """Draws the sample of `cloud` and the random places of `other`."""
    rows = np.sort(rng.permutation(len(cloud.points))[:SAMPLE])
    features = np.ascontiguousarray(cloud.features[rows], np.float32)
    places = np.asarray(other.features[rng.integers(len(other.points), size=REFERENCES)], np.float32)
    squared = (features**2).sum(1)[:, None] + (places**2).sum(1)[None] - 2 * features @ places.T
    return Probe(cloud.points[rows], cloud.normals[rows], features, np.maximum(squared, 0))


def fit(
    probe0: Probe, probe1: Probe, cloud0: Described, cloud1: Described, surfaces: tuple[Surface, Surface], pose: Pose
) -> Fit:
    """Of a motion 1 from 0. Points are on a surface within half its reach, normals within 30 degrees of its own."""
    inverse = (pose[0].T, -pose[0].T @ pose[1])
    on0, rank0, near0, off0, back0 = _one_way(probe0, cloud1, surfaces[1], pose)
    on1, rank1, near1, off1, back1 = _one_way(probe1, cloud0, surfaces[0], inverse)
    count = len(probe0.points) + len(probe1.points)
    off = np.concatenate([off0, off1])
    return Fit(
        overlap0=on0 / len(probe0.points),
        overlap1=on1 / len(probe1.points),
        likeness=(NEUTRAL_RANK * (on0 + on1) - rank0 - rank1) / count,
        contradictions=(near0 + near1 - on0 - on1) / max(on0 + on1, 1),
        residual=float(np.sqrt((off**2).mean())) if len(off) else 0.0,
        opposed=(back0 + back1) / max(on0 + on1, 1),
    )


def _one_way(probe: Probe, other: Described, target: Surface, pose: Pose) -> tuple[int, float, int, np.ndarray, int]:
    """How many points are on the surface, the sum of their ranks, how many are near it, distances of those on it, and
    how many of these are opposed."""
    index, distance = nearest(probe.points, pose, target)
    near = index >= 0
    at = np.where(near, index, 0)
    cosine = np.einsum("ij,ij->i", probe.normals @ pose[0].T, target.normals[at])
    on = near & (distance <= target.reach / 2) & (np.abs(cosine) > 0.866)
    place = at[on]
    distances = ((probe.features[on] - other.features[target.grid.rows[place]]) ** 2).sum(1)
    ranks = (1 + (probe.references[on] < distances[:, None]).sum(1)) / (REFERENCES + 1)
    moved = probe.points[on] @ pose[0].T + pose[1]
    off = np.einsum("ij,ij->i", moved - target.grid.points[place], target.normals[place])
    return int(on.sum()), float(ranks.sum()), int(near.sum()), off, int((on & (cosine < 0)).sum())
