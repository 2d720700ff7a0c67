"""Pairs of a chosen overlap, cut out of pairs that overlap more.

Each cloud keeps what lies on its side of a plane; the planes are parallel, and moved apart or together until the pair
has the overlap asked for. Overlap is the larger of both clouds' fractions of points that have a point of the other
within 3.75 cm (3DMatch's 2.5 voxels of 1.5 cm), so neither cloud shares more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree

from vision3d.core import PointCloud, RigidTransform
from vision3d.data.cloud_pairs import CloudPair
from vision3d.geometry.rotation import quaternion_to_matrix

NEAR_M = 0.0375
_WITHIN = 0.015  # of the overlap that was asked for
_DIRECTIONS, _ROUNDS = 20, 4  # that are tried
_STEPS, _TOLERANCE = 40, 0.003  # of the bisection
_LEAST_POINTS = 1000
Masks = tuple[np.ndarray, np.ndarray]  # booleans, of the points of source and target


def crop_to_overlap(pair: CloudPair, overlap: float, seed: int) -> CloudPair:
    """The pair cut to an overlap in (0, 1), its source then turned and moved at random (up to 180 deg, 1 m).

    The direction of the cut and the motion follow the seed.

    Raises:
        ValueError: the pair overlaps less, or so little that a cut leaves under 1000 points.
    """
    if not 0 < overlap < 1:
        raise ValueError(f"an overlap lies between 0 and 1, got {overlap:g}")
    random = np.random.default_rng(seed)
    source = pair.target_from_source.apply(pair.source.points.double()).numpy()
    target = pair.target.points.double().numpy()
    shared = _has_near(source, target), _has_near(target, source)
    if max(shared[0].mean(), shared[1].mean()) < overlap:
        raise ValueError(f"{pair.name} overlaps by {max(s.mean() for s in shared):.0%}, less than {overlap:.0%}")
    for _ in range(_DIRECTIONS):
        direction = random.normal(size=3)
        direction /= np.linalg.norm(direction)
        found = _cut_to(source, target, shared, direction, overlap)
        if found is not None:
            break
    else:
        raise ValueError(f"{pair.name} could not be cut to an overlap of {overlap:.0%}")
    kept, near = found
    quaternion = torch.from_numpy(random.normal(size=4))
    motion = RigidTransform(
        quaternion_to_matrix(quaternion / quaternion.norm()), torch.from_numpy(random.uniform(-1, 1, 3))
    )
    return replace(
        pair,
        name=f"{pair.name}_{overlap * 100:g}percent_{seed}",
        scene=f"{pair.scene} cut to {overlap:.0%}",
        source=PointCloud(motion.apply(pair.source.points[torch.from_numpy(kept[0])].double()).float()),
        target=PointCloud(pair.target.points[torch.from_numpy(kept[1])]),
        target_from_source=pair.target_from_source @ motion.inverse(),
        information=_information(target[kept[1]][near[1]]),
        neighbours=False,
        overlap=float(max(near[0].mean(), near[1].mean())),
    )


class OverlapCrops(torch.utils.data.Dataset[CloudPair]):
    """Every pair cut to each overlap, with seeds counted on; pairs that overlap too little are left out."""

    def __init__(self, pairs: Sequence[CloudPair], overlaps: Sequence[float], seed: int = 0) -> None:
        self.samples = []
        for overlap in overlaps:
            for number, pair in enumerate(pairs):
                try:
                    self.samples.append(crop_to_overlap(pair, overlap, seed + number))
                except ValueError:
                    continue

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> CloudPair:
        return self.samples[index]


def _has_near(points: np.ndarray, others: np.ndarray) -> Bool[np.ndarray, " n"]:
    distance, _ = cKDTree(others).query(points, distance_upper_bound=NEAR_M)
    near: Bool[np.ndarray, " n"] = np.isfinite(distance)
    return near


def _cut_to(
    source: np.ndarray, target: np.ndarray, shared: Masks, direction: np.ndarray, overlap: float
) -> tuple[Masks, Masks] | None:
    """What either cloud keeps, and which of that has a near point of what the other keeps; None if it cannot be.

    `_cut` takes no notice of points that lost their partner on the other side of a plane: it is asked again.
    """
    along = source @ direction, target @ direction
    asked = overlap
    for _ in range(_ROUNDS):
        kept = _cut(along, shared, asked)
        if kept is None:
            return None
        near = _has_near(source[kept[0]], target[kept[1]]), _has_near(target[kept[1]], source[kept[0]])
        reached = float(max(near[0].mean(), near[1].mean()))
        if abs(reached - overlap) < _WITHIN:
            return kept, near
        asked *= overlap / max(reached, overlap / 4)
    return None


def _cut(along: tuple[np.ndarray, np.ndarray], shared: Masks, overlap: float) -> Masks | None:
    """What the source keeps below middle + half and the target above middle - half; a point is shared then if it was
    and lies between the planes."""
    middle = float(np.median(along[0][shared[0]]))
    reach = float(max(np.ptp(along[0]), np.ptp(along[1])))
    low, high = 0.0, reach
    for _ in range(_STEPS):
        half = (low + high) / 2
        kept = along[0] < middle + half, along[1] > middle - half
        if min(kept[0].sum(), kept[1].sum()) < _LEAST_POINTS:
            return None
        between = along[0] > middle - half, along[1] < middle + half
        fraction = max(float((s & b & k).sum() / k.sum()) for s, b, k in zip(shared, between, kept, strict=True))
        if abs(fraction - overlap) < _TOLERANCE:
            return kept
        low, high = (half, high) if fraction < overlap else (low, half)
    return None


def _information(points: Float64[np.ndarray, "n 3"]) -> torch.Tensor:
    """As the published gt.info: the sum of G^T G, G = [I, -[p]x] the derivative of a point by (t, rotation vector).

    The rule multiplies it with a quaternion's xyz, half a rotation vector, so that half of a rotation's error counts.
    """
    x, y, z = points.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    rows = np.stack([[one, zero, zero, zero, z, -y], [zero, one, zero, -z, zero, x], [zero, zero, one, y, -x, zero]])
    return torch.from_numpy(np.einsum("ian,ibn->ab", rows, rows))
