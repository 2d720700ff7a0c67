"""How well a model explains the verified matches: a score that needs no ground truth.

A match is explained when its points lie within a threshold of each other's epipolar lines under the poses of the model
and in front of both cameras; it counts half when it needs twice that threshold. Wrong models (folded, with photos at a
look-alike place) leave whole pairs unexplained and have few points that three photos agree on, although their own
points have small reprojection errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vision3d.core import Camera, Correspondences, RigidTransform
from vision3d.recon.tracks import Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """max_error_px: Sampson distance at which a match counts as explained, working px; cap: matches beyond
    which a pair weighs no more (one huge pair must not outvote ten others); min_pair_share: below this share of
    explained matches a pair contradicts the model; good_*: what ends the search for a better model; fair_explained:
    what is enough when the search finds nothing better for a while; multi_view_weight: of the
    share of tracks over three photos or more that the model confirms in three."""

    max_error_px: float = 1.0
    cap: int = 200
    min_pair_share: float = 0.5
    good_explained: float = 0.9
    fair_explained: float = 0.7
    multi_view_weight: float = 0.1
    good_error_px: float = 1.0
    good_observations: int = 20


@dataclass(frozen=True, slots=True)
class ModelScore:
    """explained: weighted share of explained matches over all verified pairs (unregistered photos explain none).

    pair_share: explained share per pair, at twice the threshold; contradicting: pairs between registered photos that
    the model does not explain; error_px: mean reprojection error, working px; observations: fewest per registered
    photo; multi_view: share of the tracks over three photos or more that have a point seen in three; plausible: the
    intrinsics are those of a lens; value: what models are ranked by, higher is better.
    """

    explained: float
    registered: int
    photos: int
    error_px: float
    observations: int
    plausible: bool
    pair_share: Mapping[Pair, float]
    contradicting: tuple[Pair, ...]
    multi_view: float
    value: float

    def good(self, config: ScoreConfig) -> bool:
        """All photos registered and nothing suspicious: no further attempt is worth its time."""
        return (
            self.registered == self.photos
            and self.plausible
            and self.explained >= config.good_explained
            and self.error_px <= config.good_error_px
            and self.observations >= config.good_observations
        )

    def fair(self, config: ScoreConfig) -> bool:
        """Nearly all photos registered and most matches explained: look-alike pairs contradict right models too."""
        return self.registered >= 0.9 * self.photos and self.plausible and self.explained >= config.fair_explained


def model_score(
    poses: Mapping[str, RigidTransform],
    cameras: Mapping[str, Camera],
    pairs: Mapping[Pair, Correspondences],
    weights: Mapping[Pair, float],
    photos: int,
    error_px: float,
    observations: int,
    multi_view: float,
    config: ScoreConfig | None = None,
) -> ModelScore:
    """Scores poses (cam_from_world) and cameras by photo against verified matches; all px are working px.

    weights: importance per match of a pair (for example its squared inlier ratio).
    """
    config = config or ScoreConfig()
    shares: dict[Pair, float] = {}
    total = gained = 0.0
    for pair, matches in sorted(pairs.items()):
        a, b = pair
        weight = min(len(matches), config.cap) * weights.get(pair, 1.0)
        total += weight
        shares[pair] = 0.0
        if a in poses and b in poses and len(matches):
            error = epipolar_errors(poses[b] @ poses[a].inverse(), cameras[a], cameras[b], matches)
            shares[pair] = float((error < 2 * config.max_error_px).mean())
            gained += weight * (shares[pair] + float((error < config.max_error_px).mean())) / 2
    contradicting = tuple(
        pair for pair, s in shares.items() if s < config.min_pair_share and pair[0] in poses and pair[1] in poses
    )
    plausible = all(_plausible(cameras[name]) for name in poses)
    explained = gained / total if total else 0.0
    value = explained + config.multi_view_weight * multi_view
    value -= (0.0 if plausible else 0.2) + 0.1 * max(0.0, error_px - 1.0)
    return ModelScore(
        explained, len(poses), photos, error_px, observations, plausible, shares, contradicting, multi_view, value
    )


def epipolar_errors(
    cam1_from_cam0: RigidTransform, camera0: Camera, camera1: Camera, matches: Correspondences
) -> np.ndarray:
    """Sampson distance in px (mean focal length) per match; infinite where the point is behind a camera."""
    x0 = _homogeneous(camera0, matches.points0)
    x1 = _homogeneous(camera1, matches.points1)
    if (
        not (np.isfinite(x0).all() and np.isfinite(x1).all())
        or max(abs(x0).max(initial=0), abs(x1).max(initial=0)) > 1e6
    ):
        return np.full(len(x0), np.inf)  # distortion that cannot be undone
    rotation = cam1_from_cam0.rotation.double().numpy()
    t = cam1_from_cam0.translation.double().numpy()
    t = t / max(float(np.linalg.norm(t)), 1e-12)
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    essential = cross @ rotation
    line1, line0 = x0 @ essential.T, x1 @ essential
    residual = np.abs((line1 * x1).sum(axis=1))
    norm = np.sqrt(line1[:, 0] ** 2 + line1[:, 1] ** 2 + line0[:, 0] ** 2 + line0[:, 1] ** 2)
    focal = np.mean([camera0.focal, camera1.focal])
    error = residual / np.maximum(norm, 1e-12) * float(focal)
    # Depths of the midpoint: z0 * (R x0) + t = z1 * x1 in the least-squares sense.
    ray = x0 @ rotation.T
    a11, a12, a22 = (ray * ray).sum(axis=1), -(ray * x1).sum(axis=1), (x1 * x1).sum(axis=1)
    b0, b1 = -(ray @ t), x1 @ t
    det = a11 * a22 - a12 * a12
    front = (a22 * b0 - a12 * b1 > 0) & (a11 * b1 - a12 * b0 > 0)
    # Nearly parallel rays (two pixels of parallax) say nothing about depth.
    parallel = det < (2.0 / float(focal)) ** 2 * a11 * a22
    out: np.ndarray = np.where(front | parallel, error, np.inf)
    return out


def triangle_errors(rotations: Mapping[Pair, np.ndarray]) -> dict[tuple[str, str, str], float]:
    """Angle (degrees) of the rotation around each triplet of photos: 0 when the three relative rotations agree.

    rotations: cam1_from_cam0 per sorted pair.
    """
    names = sorted({name for pair in rotations for name in pair})
    out: dict[tuple[str, str, str], float] = {}
    for a, b, c in itertools.combinations(names, 3):
        if (a, b) in rotations and (b, c) in rotations and (a, c) in rotations:
            loop = rotations[a, c].T @ rotations[b, c] @ rotations[a, b]
            out[a, b, c] = float(np.degrees(np.arccos(np.clip((np.trace(loop) - 1) / 2, -1.0, 1.0))))
    return out


def _plausible(camera: Camera) -> bool:
    """Focal length of 0.3 to 8 longer sides, and distortion of less than 30 % at the corners."""
    radius2 = (camera.width**2 + camera.height**2) / 4 / camera.focal[0] ** 2
    bend = abs(camera.distortion[0]) * radius2 if camera.distortion else 0.0
    return 0.3 < camera.focal[0] / max(camera.width, camera.height) < 8 and bend < 0.3


def _homogeneous(camera: Camera, points: torch.Tensor) -> np.ndarray:
    xy = camera.unproject(points.double()).numpy()
    return np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
