"""Registers a point cloud to another by Hough voting over compatible triplets of matches; no learned weights needed.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, sections 3 and 4.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Correspondences, PointCloud, RigidTransform
from vision3d.matching.hough.candidates import INLIER, Candidate, candidates
from vision3d.matching.hough.consensus import Pose, residuals
from vision3d.matching.hough.feature_matches import either, mutual, nearest_features
from vision3d.matching.hough.features import Described, describe, describe_with
from vision3d.matching.hough.grid import auto_voxel
from vision3d.matching.hough.joint import refine
from vision3d.matching.hough.learned import LearnedFeatures
from vision3d.matching.hough.likeness import fit, probe
from vision3d.matching.hough.registration import Evidence, RegisterConfig, Registration
from vision3d.matching.hough.surface import align, constraint, surface
from vision3d.matching.hough.verdict import MOST_SCALES, judge
from vision3d.matching.hough.vote_network import VoteNetwork, rank_bins

__all__ = ["Evidence", "RegisterConfig", "Registration", "register", "register_features"]

LEAST_POINTS = 40  # after thinning
STRAY = 100.0  # times the distance from the median within which nine tenths of the points lie
LARGEST = 1e100  # coordinates from here on count as infinite
ALIGNED = 700  # points that align a candidate


def register(
    source: PointCloud,
    target: PointCloud,
    config: RegisterConfig | None = None,
    *,
    features: LearnedFeatures | None = None,
    votes: VoteNetwork | None = None,
) -> Registration:
    """target_from_source of two clouds of any scale and frame, with a verdict.

    Points with NaN or infinite coordinates, and those further from the median along an axis than a hundred times nine
    tenths of the others, are dropped and counted. features: instead of FPFH; give `config.voxel` the
    size they were trained with. votes: a network that the peaks are sought by, instead of the smoothed votes.

    Raises:
        ValueError: more than half of a cloud's points are NaN or infinite.
    """
    config = config or RegisterConfig()
    start = time.perf_counter()
    points0, points1 = (_without_strays(_finite(cloud.points)) for cloud in (source, target))
    dropped = len(source.points) + len(target.points) - len(points0) - len(points1)
    if not len(points0) or not len(points1):
        return _nothing("a cloud has no points", {}, {"dropped": dropped})
    extents = [float(np.quantile(np.abs(p - np.median(p, 0)).max(1), 0.9)) for p in (points0[::7], points1[::7])]
    if min(extents) <= 0 or max(extents) > MOST_SCALES * min(extents):
        sizes = f"{2 * extents[0]:.3g} and {2 * extents[1]:.3g}"
        return _nothing(f"the clouds' extents are {sizes}: are both in one unit?", {}, {"dropped": dropped})
    voxel = config.voxel or auto_voxel(points0, points1)
    if features is None:
        described0, described1 = describe(points0, voxel), describe(points1, voxel)
    else:
        described0, described1 = (_learned(features, points, voxel) for points in (points0, points1))
    seconds = time.perf_counter() - start
    return _register(described0, described1, voxel, config, dropped, {"features": seconds}, votes)


def _learned(features: LearnedFeatures, points: Float[np.ndarray, "n 3"], voxel: float) -> Described:
    thinned, values = features.describe(torch.from_numpy(points), voxel)
    return describe_with(thinned.double().numpy(), values.numpy(), voxel)


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
    if not len(source_points) or not len(target_points):
        return _nothing("a cloud has no points", {}, {})
    voxel = config.voxel or auto_voxel(source_points.double().numpy(), target_points.double().numpy())
    described0 = describe_with(source_points.double().numpy(), source_features.float().numpy(), voxel)
    described1 = describe_with(target_points.double().numpy(), target_features.float().numpy(), voxel)
    return _register(described0, described1, voxel, config, 0, {"normals": time.perf_counter() - start})


def _register(
    source: Described,
    target: Described,
    voxel: float,
    config: RegisterConfig,
    dropped: int,
    timings: dict[str, float],
    votes: VoteNetwork | None = None,
) -> Registration:
    clock = _Clock(timings)
    rng = np.random.default_rng(config.seed)
    facts: dict[str, Any] = {
        "voxel": voxel,
        "source_points": len(source.points),
        "target_points": len(target.points),
        "dropped": dropped,
    }
    few = min(len(source.points), len(target.points))
    if few < LEAST_POINTS:
        return _nothing(
            f"too few points: {few} voxels of {voxel:g} hold any, {LEAST_POINTS} are needed", timings, facts
        )
    rows0, rows1 = (np.sort(rng.permutation(len(c.points))[: config.max_matched]) for c in (source, target))
    directions = nearest_features(source.features[rows0], target.features[rows1])
    agreed, loose = mutual(*directions), either(*directions)
    matched0, matched1 = source.points[rows0[agreed[:, 0]]], target.points[rows1[agreed[:, 1]]]
    facts["matches"] = len(agreed)
    clock.stage("matching")
    rank = None if votes is None else partial(rank_bins, votes.eval())
    found = candidates(
        matched0, matched1, voxel, triplets=config.triplets, most=config.peaks, seed=config.seed, rank=rank
    )
    clock.stage("voting")
    if not found:
        return _nothing("no three matches agree on lengths", timings, facts)
    surfaces = (
        surface(source.points, source.normals, 2 * voxel),
        surface(target.points, target.normals, 2 * voxel),
    )
    probes = probe(source, target, rng), probe(target, source, rng)
    some = np.sort(rng.permutation(len(source.points))[:ALIGNED])
    ranked: list[tuple[float, Pose, Candidate]] = []
    for candidate in distinct(found, voxel):
        pose = align(source.points[some], source.normals[some], surfaces[1], candidate.pose, (2 * voxel,), rounds=6)
        ranked.append((fit(*probes, source, target, surfaces, pose).likeness, pose, candidate))
    ranked.sort(key=lambda r: -r[0])
    best, pose, winner = ranked[0]
    clock.stage("ranking")
    loose0, loose1 = source.points[rows0[loose[:, 0]]], target.points[rows1[loose[:, 1]]]
    fine = refine(source.points, source.normals, surfaces[1], loose0, loose1, pose, voxel)
    clock.stage("refinement")
    fitted = fit(*probes, source, target, surfaces, fine)
    apart = 8 * voxel / max(float(np.sqrt((source.points**2).sum(1).mean())), voxel)
    second = max((s for s, other, _ in ranked if _distinct(other, pose, apart, 6 * voxel)), default=0.0)
    ratio = min(max(best, fitted.likeness) / max(second, 1e-3), 1000.0)
    good = residuals(matched0, matched1, fine) < INLIER * voxel
    held = constraint(source.points, source.normals, surfaces[1], fine, voxel)
    registered, ambiguous, reason = judge(fitted, ratio, int(good.sum()), held)
    clock.stage("verdict")
    return Registration(
        registered=registered,
        target_from_source=_in_frames(fine if config.refine else pose, source, target),
        coarse=_in_frames(pose, source, target),
        inliers=Correspondences(
            torch.from_numpy(matched0[good] + source.center),
            torch.from_numpy(matched1[good] + target.center),
            torch.ones(int(good.sum()), dtype=torch.float64),
        ),
        evidence=Evidence(
            reason=reason,
            **facts,
            match_inliers=int(good.sum()),
            inlier_ratio=float(good.mean()),
            votes=winner.votes,
            likeness=fitted.likeness,
            second_likeness=second,
            likeness_ratio=ratio,
            contradictions=fitted.contradictions,
            opposed=fitted.opposed,
            overlap_source=fitted.overlap0,
            overlap_target=fitted.overlap1,
            residual=fitted.residual,
            constraint=held,
            ambiguous=ambiguous,
        ),
        timings=timings,
    )


def distinct(found: list[Candidate], voxel: float) -> list[Candidate]:
    """Without those that moved to the same place as a better one (a tenth of a voxel, 0.01 rad)."""
    out: list[Candidate] = []
    for candidate in found:
        if all(_distinct(candidate.pose, other.pose, 0.01, 0.1 * voxel) for other in out):
            out.append(candidate)
    return out


def _distinct(pose0: Pose, pose1: Pose, angle: float, length: float) -> bool:
    chord = float(np.linalg.norm(pose0[0] - pose1[0])) / np.sqrt(8)  # the sine of half the angle
    return bool(2 * np.arcsin(min(1.0, chord)) > angle or np.linalg.norm(pose0[1] - pose1[1]) > length)


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
    table = np.where(np.abs(table) < LARGEST, table, np.nan)
    if np.isfinite(table).all():
        whole: np.ndarray = np.ascontiguousarray(table)
        return whole
    valid = np.isfinite(table).all(1)
    if valid.mean() < 0.5:
        raise ValueError(f"{int((~valid).sum())} of {len(table)} points are NaN or infinite")
    out: np.ndarray = np.ascontiguousarray(table[valid])
    return out


def _without_strays(points: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """Without single points far outside, from which no voxel and no centre could be taken."""
    if not len(points):
        return points
    away = np.abs(points - np.median(points, axis=0)).max(axis=1)
    extent = np.quantile(away, 0.9)
    return np.ascontiguousarray(points[away <= STRAY * extent]) if extent > 0 else points


def _nothing(reason: str, timings: dict[str, float], facts: dict[str, Any]) -> Registration:
    """A result without any pose."""
    none = RigidTransform.identity()
    return Registration(
        registered=False,
        target_from_source=none,
        coarse=none,
        inliers=Correspondences.empty(3),
        evidence=Evidence(reason=reason, **facts),
        timings=timings,
    )
