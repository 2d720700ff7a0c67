"""Errors of two-view geometry against annotated points, relative poses and disparity.

Corner error and epipolar distance are in vision3d.geometry (homography, epipolar).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.eval.poses import vector_angle
from vision3d.geometry.homography import apply_homography
from vision3d.geometry.rotation import angle_between


def transfer_error(
    homography: Float[Tensor, "3 3"], points0: Float[Tensor, "n 2"], points1: Float[Tensor, "n 2"]
) -> float:
    """Mean distance in px of image 1 of points of image 0, mapped by H_1_from_0, to their annotated matches.

    inf where a point is mapped to infinity.
    """
    error = float((apply_homography(homography, points0) - points1).norm(dim=1).mean())
    return error if math.isfinite(error) else math.inf


def two_view_pose_error_deg(estimate: RigidTransform, truth: RigidTransform) -> float:
    """max(rotation error, direction error) of cam1_from_cam0 in degrees; scales are free.

    The sign of the direction is ignored (min(e, 180 - e)), as in SuperGlue's, LoFTR's and glue-factory's evaluation.
    inf where the estimate has no translation.
    """
    if not bool(estimate.translation.norm() > 0):
        return math.inf
    direction = math.degrees(vector_angle(estimate.translation, truth.translation))
    rotation = math.degrees(float(angle_between(estimate.rotation, truth.rotation)))
    return max(rotation, min(direction, 180 - direction))


def disparity_errors(
    points0: Float[Tensor, "n 2"], points1: Float[Tensor, "n 2"], disparity: Float[Tensor, "h w"]
) -> Float[Tensor, " m"]:
    """Distance in px of each match of a rectified pair to the truth: image 0's (x, y) lies at (x - d, y) in image 1.

    disparity is read at the pixel that holds the point of image 0 (its centre is at +0.5); matches where it is not
    finite and positive (unknown) or that lie outside are left out.
    """
    height, width = disparity.shape
    column, row = points0.floor().long().unbind(dim=1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    d = torch.full_like(points0[:, 0], math.nan)
    d[inside] = disparity[row[inside], column[inside]].to(d.dtype)
    known = torch.isfinite(d) & (d > 0)
    expected = points0[known] - torch.stack([d[known], torch.zeros_like(d[known])], dim=1)
    error: Tensor = torch.linalg.vector_norm(points1[known] - expected, dim=1)
    return error
