"""Registers a point cloud to another by Hough voting over compatible triplets of matches, without learned weights.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, sections 3 and 4.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Correspondences, PointCloud, RigidTransform
from vision3d.matching.hough.candidates import INLIER, candidates
from vision3d.matching.hough.consensus import Pose, residuals
from vision3d.matching.hough.features import Described, describe, describe_with, mutual_matches
from vision3d.matching.hough.registration import Evidence, RegisterConfig, Registration
from vision3d.matching.hough.surface import align, surface
from vision3d.matching.hough.verdict import MOST_FALSE_ALARMS, chance_agreement, overlap

__all__ = ["Evidence", "RegisterConfig", "Registration", "register", "register_features"]


def register(source: PointCloud, target: PointCloud, config: RegisterConfig | None = None) -> Registration:
    """target_from_source of two clouds of any scale and frame, with a verdict.

    Points with NaN or infinite coordinates are dropped and counted.

    Raises:
        ValueError: more than half of a cloud's points are NaN or infinite.
    """
    config = config or RegisterConfig()
    start = time.perf_counter()
    points0, points1 = _finite(source.points), _finite(target.points)
    dropped = len(source.points) + len(target.points) - len(points0) - len(points1)
    voxel = config.voxel or 0.05
    described0, described1 = describe(points0, voxel), describe(points1, voxel)
    seconds = time.perf_counter() - start
    return _register(described0, described1, voxel, config, dropped, {"features": seconds})


def register_features(
    source_points: Float[Tensor, "n 3"],
    source_features: Float[Tensor, "n c"],
    target_points: Float[Tensor, "m 3"],
    target_features: Float[Tensor, "m c"],
    config: RegisterConfig | None = None,
) -> Registration:
    """`register` from points that already have features (thinned to about `config.voxel`, one feature a point).

    Features are compared by Euclidean distance. Points and features must be finite.
    """
    config = config or RegisterConfig()
    start = time.perf_counter()
    voxel = config.voxel or 0.05
    described0 = describe_with(source_points.double().numpy(), source_features.float().numpy(), voxel)
    described1 = describe_with(target_points.double().numpy(), target_features.float().numpy(), voxel)
    return _register(described0, described1, voxel, config, 0, {"normals": time.perf_counter() - start})


def _register(
    source: Described, target: Described, voxel: float, config: RegisterConfig, dropped: int, timings: dict[str, float]
) -> Registration:
    clock = _Clock(timings)
    indices, _ = mutual_matches(source.features, target.features)
    matched0, matched1 = source.points[indices[:, 0]], target.points[indices[:, 1]]
    clock.stage("matching")
    found = candidates(matched0, matched1, voxel, triplets=config.triplets, most=config.peaks, seed=config.seed)
    clock.stage("voting")
    if not found:
        return _nothing("no three matches agree on lengths", timings)
    coarse = pose = found[0].pose
    surface0 = surface(source.points, source.normals, 2 * voxel)
    surface1 = surface(target.points, target.normals, 2 * voxel)
    if config.refine:
        pose = align(source.points, source.normals, surface1, pose, (2 * voxel, 1.0 * voxel))
    clock.stage("refinement")
    forward, residual = overlap(source.points, source.normals, pose, surface1, voxel)
    inverse = (pose[0].T, -pose[0].T @ pose[1])
    backward, _ = overlap(target.points, target.normals, inverse, surface0, voxel)
    surprise = chance_agreement(matched0, matched1, pose, voxel)
    good = residuals(matched0, matched1, pose) < INLIER * voxel
    second = found[1].votes if len(found) > 1 else 0.0
    clock.stage("verdict")
    registered = surprise < MOST_FALSE_ALARMS
    inliers = Correspondences(
        torch.from_numpy(matched0[good] + source.center),
        torch.from_numpy(matched1[good] + target.center),
        torch.ones(int(good.sum()), dtype=torch.float64),
    )
    return Registration(
        registered=registered,
        target_from_source=_in_frames(pose, source, target),
        coarse=_in_frames(coarse, source, target),
        inliers=inliers,
        evidence=Evidence(
            reason="the matches agree on one motion" if registered else "as many matches agree by chance",
            voxel=voxel,
            source_points=len(source.points),
            target_points=len(target.points),
            dropped=dropped,
            matches=len(indices),
            match_inliers=int(good.sum()),
            inlier_ratio=float(good.mean()),
            votes=found[0].votes,
            second_votes=second,
            peak_ratio=found[0].votes / second if second else 1.0,
            overlap_source=forward,
            overlap_target=backward,
            residual=residual,
            log10_false_alarms=surprise,
        ),
        timings=timings,
    )


class _Clock:
    """Adds the seconds since the last stage to a dict."""

    def __init__(self, timings: dict[str, float]) -> None:
        self.timings, self.last = timings, time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.timings[name] = self.timings.get(name, 0.0) + now - self.last
        self.last = now


def _in_frames(pose: Pose, source: Described, target: Described) -> RigidTransform:
    """The pose between centred clouds as one between the clouds as given."""
    rotation, translation = pose
    return RigidTransform(
        torch.from_numpy(rotation.copy()), torch.from_numpy(translation + target.center - rotation @ source.center)
    )


def _finite(points: Float[Tensor, "n 3"]) -> np.ndarray:
    table = points.detach().cpu().double().numpy()
    valid = np.isfinite(table).all(1)
    if len(table) and valid.mean() < 0.5:
        raise ValueError(f"{int((~valid).sum())} of {len(table)} points are NaN or infinite")
    out: np.ndarray = np.ascontiguousarray(table[valid])
    return out


def _nothing(reason: str, timings: dict[str, float]) -> Registration:
    """A result without any pose."""
    none = RigidTransform.identity()
    return Registration(
        registered=False,
        target_from_source=none,
        coarse=none,
        inliers=Correspondences.empty(3),
        evidence=Evidence(reason=reason),
        timings=timings,
    )
