"""Robust estimators of two-view geometry, by name: PoseLib's LO-RANSAC, OpenCV's MAGSAC++ and RANSAC.

Estimator and threshold move a score as much as the matcher does, so every table names both. All three are random: a
seed shuffles the matches (and is PoseLib's own seed), so that a run is repeatable and several seeds show the spread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import poselib
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import RigidTransform

Points = Float[Tensor, "n 2"]
Matrix = Float[Tensor, "3 3"]
Pairs = tuple[np.ndarray, np.ndarray]

MAX_ITERATIONS = 10_000
CONFIDENCE = 0.9999
FAR = 1e9  # baselines up to which a point counts as in front of the cameras; OpenCV's 50 drops distant scenes
MINIMUM = {"homography": 4, "fundamental": 8, "relative_pose": 6}  # matches below which there is no estimate


@dataclass(frozen=True, slots=True)
class Estimator:
    """Three functions that return None where there are too few matches or no model.

    homography, fundamental: (points0, points1, threshold in px, seed) -> matrix from image 0 to image 1.
    relative_pose: (points0, points1, K0, K1, threshold in px, seed) -> cam1_from_cam0 with a unit translation.
    """

    title: str
    homography: Callable[[Points, Points, float, int], Matrix | None]
    fundamental: Callable[[Points, Points, float, int], Matrix | None]
    relative_pose: Callable[[Points, Points, Matrix, Matrix, float, int], RigidTransform | None]


def _poselib(confidence: float) -> Estimator:
    def options(name: str, threshold_px: float, seed: int) -> dict[str, object]:
        return {name: threshold_px, "max_iterations": MAX_ITERATIONS, "success_prob": confidence, "seed": seed}

    def homography(points0: Points, points1: Points, threshold_px: float, seed: int) -> Matrix | None:
        if len(points0) < MINIMUM["homography"]:
            return None
        pairs = _shuffled(points0, points1, seed)
        matrix, info = poselib.estimate_homography(*pairs, options("max_reproj_error", threshold_px, seed), {})
        return _matrix(matrix) if info["num_inliers"] >= MINIMUM["homography"] else None

    def fundamental(points0: Points, points1: Points, threshold_px: float, seed: int) -> Matrix | None:
        if len(points0) < MINIMUM["fundamental"]:
            return None
        pairs = _shuffled(points0, points1, seed)
        matrix, info = poselib.estimate_fundamental(*pairs, options("max_epipolar_error", threshold_px, seed), {})
        return _matrix(matrix) if info["num_inliers"] >= MINIMUM["fundamental"] else None

    def relative_pose(
        points0: Points, points1: Points, k0: Matrix, k1: Matrix, threshold_px: float, seed: int
    ) -> RigidTransform | None:
        if len(points0) < MINIMUM["relative_pose"]:
            return None
        pairs = _shuffled(points0, points1, seed)
        cameras = [
            {
                "model": "PINHOLE",
                "width": 1,
                "height": 1,
                "params": [float(k[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2))],
            }
            for k in (k0, k1)
        ]
        pose, info = poselib.estimate_relative_pose(
            *pairs, *cameras, options("max_epipolar_error", threshold_px, seed), {}
        )
        if info["num_inliers"] < MINIMUM["relative_pose"] or not np.isfinite(pose.Rt).all():
            return None
        return RigidTransform(torch.from_numpy(pose.R.copy()), torch.from_numpy(pose.t.copy()))

    return Estimator("PoseLib LO-RANSAC", homography, fundamental, relative_pose)


def _opencv(method: int, title: str, confidence: float) -> Estimator:
    def homography(points0: Points, points1: Points, threshold_px: float, seed: int) -> Matrix | None:
        if len(points0) < MINIMUM["homography"]:
            return None
        pairs = _shuffled(points0, points1, seed)
        try:
            matrix, _ = cv2.findHomography(*pairs, method, threshold_px, maxIters=MAX_ITERATIONS, confidence=confidence)
        except cv2.error:  # USAC raises on degenerate samples
            return None
        return _matrix(matrix)

    def fundamental(points0: Points, points1: Points, threshold_px: float, seed: int) -> Matrix | None:
        if len(points0) < MINIMUM["fundamental"]:
            return None
        pairs = _shuffled(points0, points1, seed)
        try:
            matrix, _ = cv2.findFundamentalMat(*pairs, method, threshold_px, confidence, MAX_ITERATIONS)
        except cv2.error:
            return None
        return _matrix(matrix)

    def relative_pose(
        points0: Points, points1: Points, k0: Matrix, k1: Matrix, threshold_px: float, seed: int
    ) -> RigidTransform | None:
        if len(points0) < MINIMUM["relative_pose"]:
            return None
        rays = _shuffled(_normalized(points0, k0), _normalized(points1, k1), seed)
        # The threshold in normalised coordinates: px over the mean of the four focal lengths.
        threshold = threshold_px / (float(k0[0, 0] + k0[1, 1] + k1[0, 0] + k1[1, 1]) / 4)
        eye = np.eye(3)
        try:
            matrix, mask = cv2.findEssentialMat(*rays, eye, method, confidence, threshold, MAX_ITERATIONS)
            if matrix is None or matrix.shape != (3, 3):
                return None
            in_front, rotation, translation, *_ = cv2.recoverPose(matrix, *rays, eye, distanceThresh=FAR, mask=mask)
        except cv2.error:
            return None
        if in_front == 0:
            return None
        return RigidTransform(torch.from_numpy(rotation), torch.from_numpy(translation[:, 0]))

    return Estimator(title, homography, fundamental, relative_pose)


def _shuffled(points0: Points, points1: Points, seed: int) -> Pairs:
    order = np.random.default_rng(seed).permutation(len(points0))
    first, second = (points.cpu().double().numpy()[order] for points in (points0, points1))
    return first, second


def _matrix(matrix: np.ndarray | None) -> Matrix | None:
    """None for no matrix, several stacked ones, and degenerate ones."""
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not np.abs(matrix).max() > 0:
        return None
    return torch.from_numpy(np.array(matrix, np.float64))


def _normalized(points: Points, k: Matrix) -> Points:
    return (points - k[:2, 2]) / torch.stack([k[0, 0], k[1, 1]])


def make_estimators(confidence: float = CONFIDENCE) -> dict[str, Estimator]:
    """The estimators by name, for a probability of having seen a sample without outliers."""
    return {
        "poselib": _poselib(confidence),
        "opencv-magsac": _opencv(cv2.USAC_MAGSAC, "OpenCV MAGSAC++", confidence),
        "opencv-ransac": _opencv(cv2.RANSAC, "OpenCV RANSAC", confidence),
    }


ESTIMATORS = make_estimators()
