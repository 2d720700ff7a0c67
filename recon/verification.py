"""Two-view verification: which matches of a pair agree with one epipolar geometry, and what kind it is.

Robust estimation by poselib's LO-RANSAC. A pair is accepted when its number of inliers cannot be chance: the
a-contrario test of Moisan and Stival, "A probabilistic criterion to detect rigid point matches", IJCV 2004, eq. 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import poselib
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import Camera, Correspondences, RigidTransform
from vision3d.geometry.false_alarms import epipolar_chance, log10_nfa

PairKind = Literal["calibrated", "uncalibrated", "planar", "panoramic", "identical", "rejected"]

REFERENCE_SIZE = 1024
"""Thresholds in px hold for photos of this longer side; larger photos get proportionally larger ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationConfig:
    """Settings of verify_pair. Errors are in px at REFERENCE_SIZE."""

    max_error_px: float = 2.0
    min_inliers: int = 15
    max_log10_nfa: float = -3.0
    planar_ratio: float = 0.85
    max_iterations: int = 20000
    confidence: float = 0.9999
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TwoViewGeometry:
    """Outcome of verifying one pair.

    kind: "calibrated" (essential matrix) or "uncalibrated" (fundamental matrix) for a general scene; "planar" when one
    homography explains nearly all inliers; "panoramic" when that homography is a rotation (no baseline); "identical"
    when nothing moves; "rejected". inliers: mask over the matches that came in, all False if rejected.
    cam1_from_cam0: relative pose with a translation of length 1, None unless both cameras are calibrated.
    fundamental: F with x1^T F x0 = 0 for px of the originals without distortion. log10_nfa: logarithm of the number of
    such pairs expected by chance, lower is better. reason: why it was rejected.
    """

    kind: PairKind
    inliers: Bool[Tensor, " n"]
    cam1_from_cam0: RigidTransform | None
    fundamental: Float[Tensor, "3 3"] | None
    log10_nfa: float
    reason: str | None

    @property
    def num_inliers(self) -> int:
        """Number of matches that agree."""
        return int(self.inliers.sum())


def working_scale(width: int, height: int) -> float:
    """px of a photo of this size per px at REFERENCE_SIZE, at least 1."""
    return max(1.0, max(width, height) / REFERENCE_SIZE)


def verify_pair(
    correspondences: Correspondences,
    camera0: Camera,
    camera1: Camera,
    config: VerificationConfig | None = None,
    *,
    calibrated: bool,
) -> TwoViewGeometry:
    """Finds the matches that agree with one rigid motion. `calibrated`: trust the cameras, or only their size."""
    config = config or VerificationConfig()
    n = len(correspondences)
    if n < max(8, config.min_inliers):
        return _rejected(n, f"only {n} matches")
    x0 = correspondences.points0.detach().cpu().double().numpy()
    x1 = correspondences.points1.detach().cpu().double().numpy()
    scale = math.sqrt(working_scale(camera0.width, camera0.height) * working_scale(camera1.width, camera1.height))
    threshold = config.max_error_px * scale
    ransac: dict[str, Any] = {
        "max_epipolar_error": threshold,
        "max_reproj_error": threshold,
        "max_iterations": config.max_iterations,
        "min_iterations": 100,
        "success_prob": config.confidence,
        "seed": config.seed,
    }
    pose: RigidTransform | None = None
    if calibrated:
        estimate, info = poselib.estimate_relative_pose(x0, x1, colmap_dict(camera0), colmap_dict(camera1), ransac, {})
        translation = np.asarray(estimate.t, dtype=np.float64)
        norm = float(np.linalg.norm(translation))
        pose = RigidTransform(
            torch.from_numpy(np.array(estimate.R, dtype=np.float64)),
            torch.from_numpy(translation / norm if norm > 0 else translation),
        )
        fundamental = fundamental_from_pose(pose, camera0, camera1).numpy()
        sample = 5
    else:
        fundamental, info = poselib.estimate_fundamental(x0, x1, ransac, {})
        fundamental = np.asarray(fundamental, dtype=np.float64)
        sample = 7
    inliers = np.asarray(info["inliers"], dtype=bool)
    count = int(inliers.sum())
    nfa = log10_nfa(n, count, sample, epipolar_chance(threshold, camera1.width, camera1.height))
    if count < config.min_inliers:
        return _rejected(n, f"only {count} of {n} matches agree with one camera motion")
    if nfa > config.max_log10_nfa:
        return _rejected(n, f"{count} of {n} matches agree, which can be chance")
    kind = _kind(x0[inliers], x1[inliers], camera0, camera1, ransac, config, calibrated)
    return TwoViewGeometry(kind, torch.from_numpy(inliers), pose, torch.from_numpy(fundamental), nfa, None)


def fundamental_from_pose(cam1_from_cam0: RigidTransform, camera0: Camera, camera1: Camera) -> Float[Tensor, "3 3"]:
    """F = K1^-T [t]x R K0^-1 (Hartley and Zisserman, eq. 9.2), distortion left out."""
    t = cam1_from_cam0.translation
    zero = torch.zeros((), dtype=t.dtype)
    cross = torch.stack(
        [torch.stack([zero, -t[2], t[1]]), torch.stack([t[2], zero, -t[0]]), torch.stack([-t[1], t[0], zero])]
    )
    k0_inv = torch.linalg.inv(camera0.matrix(t.dtype))
    k1_inv = torch.linalg.inv(camera1.matrix(t.dtype))
    fundamental: Tensor = k1_inv.mT @ cross @ cam1_from_cam0.rotation @ k0_inv
    return fundamental


def colmap_dict(camera: Camera) -> dict[str, Any]:
    """The camera as poselib's dictionary (COLMAP's model names and parameter order)."""
    return {
        "model": camera.model,
        "width": camera.width,
        "height": camera.height,
        "params": list(camera.colmap_params()),
    }


def _kind(
    x0: np.ndarray,
    x1: np.ndarray,
    camera0: Camera,
    camera1: Camera,
    ransac: dict[str, Any],
    config: VerificationConfig,
    calibrated: bool,
) -> PairKind:
    same_size = (camera0.width, camera0.height) == (camera1.width, camera1.height)
    if same_size and float(np.median(np.abs(x1 - x0).max(axis=1))) < 0.25 * float(ransac["max_reproj_error"]):
        return "identical"
    homography, info = poselib.estimate_homography(x0, x1, {**ransac, "max_iterations": 1000}, {})
    if float(np.mean(info["inliers"])) < config.planar_ratio:
        return "calibrated" if calibrated else "uncalibrated"
    # A rotation about the camera centre gives H = K1 R K0^-1; the guess of an unknown focal length is good enough to
    # tell it from a plane seen with parallax only when the cameras are calibrated.
    if calibrated:
        rotation = np.linalg.inv(camera1.matrix().numpy()) @ np.asarray(homography) @ camera0.matrix().numpy()
        singular = np.linalg.svd(rotation, compute_uv=False)
        if singular[0] / singular[2] < 1.02:
            return "panoramic"
    return "planar"


def _rejected(n: int, reason: str) -> TwoViewGeometry:
    return TwoViewGeometry("rejected", torch.zeros(n, dtype=torch.bool), None, None, math.inf, reason)
