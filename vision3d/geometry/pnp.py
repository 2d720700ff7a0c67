"""Absolute pose from 2D-3D correspondences: LO-RANSAC over P3P and refinement, by poselib."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import poselib
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import Camera, RigidTransform


class NoPoseError(ValueError):
    """No pose fits enough of the correspondences."""


@dataclass(frozen=True, slots=True)
class AbsolutePose:
    """cam_from_world (float64) and which correspondences fit it."""

    cam_from_world: RigidTransform
    inliers: Bool[Tensor, " n"]


def absolute_pose(
    pixels: Float[Tensor, "n 2"],
    points: Float[Tensor, "n 3"],
    camera: Camera,
    max_error: float = 4.0,
    min_inliers: int = 6,
    max_iterations: int = 10_000,
    seed: int = 0,
) -> AbsolutePose:
    """Pose of a camera that sees world `points` at `pixels` (px of its photo).

    Args:
        max_error: px within which a point fits.
        min_inliers: fewer give NoPoseError.

    Raises:
        NoPoseError: fewer than max(4, min_inliers) correspondences, or no pose that so many fit.
    """
    n = pixels.shape[0]
    if n < max(4, min_inliers):
        raise NoPoseError(f"a pose needs {max(4, min_inliers)} correspondences, got {n}")
    pose, info = poselib.estimate_absolute_pose(
        pixels.detach().double().cpu().numpy(),
        points.detach().double().cpu().numpy(),
        {
            "model": camera.model,
            "width": camera.width,
            "height": camera.height,
            "params": list(camera.colmap_params()),
        },
        {"max_reproj_error": max_error, "max_iterations": max_iterations, "seed": seed},
        {},
    )
    inliers = torch.from_numpy(np.array(info["inliers"], dtype=bool).reshape(n))
    if int(inliers.sum()) < min_inliers:
        raise NoPoseError(f"no pose fits {min_inliers} of {n} correspondences within {max_error:g} px")
    transform = RigidTransform(
        torch.from_numpy(np.array(pose.R, dtype=np.float64)), torch.from_numpy(np.array(pose.t, dtype=np.float64))
    )
    return AbsolutePose(transform, inliers)
