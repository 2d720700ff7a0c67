"""How far a registration is from the truth, by the measures of the registration benchmarks.

RMSE by information matrix: S. Choi, Q.-Y. Zhou and V. Koltun, "Robust reconstruction of indoor scenes", CVPR 2015, as
the 3DMatch benchmark computes it. Rotation and translation error: as DGR (C. Choy et al., CVPR 2020) and PointDSC do.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.geometry.rotation import angle_between, quaternion_from_matrix


def rotation_error_deg(estimate: RigidTransform, truth: RigidTransform) -> float:
    """Angle of the rotation between both, degrees."""
    return math.degrees(float(angle_between(estimate.rotation.double(), truth.rotation.double())))


def translation_error(estimate: RigidTransform, truth: RigidTransform) -> float:
    """Distance of the two translations of target_from_source: of the two places of the source frame's origin."""
    return float((estimate.translation.double() - truth.translation.double()).norm())


def information_rmse(estimate: RigidTransform, truth: RigidTransform, information: Float64[Tensor, "6 6"]) -> float:
    """Approximate root mean square error in metres over the points that `information` was summed over.

    Both are target_from_source; with T = source_from_target, as gt.log has it, the error is that of inv(T_truth)
    T_estimate: e = (translation, quaternion xyz, w >= 0) and the result sqrt(e' I e / I[0, 0]).
    """
    error = truth @ RigidTransform(estimate.rotation.double(), estimate.translation.double()).inverse()
    e = torch.cat([error.translation, quaternion_from_matrix(error.rotation)[1:]])
    return math.sqrt(max(0.0, float(e @ information @ e / information[0, 0])))


def inlier_ratio(
    points0: Float[Tensor, "n 3"], points1: Float[Tensor, "n 3"], truth: RigidTransform, distance: float
) -> float:
    """Fraction of matches that the true pose brings within `distance`; 0 without matches."""
    if not len(points0):
        return 0.0
    moved = truth.apply(points0.double())
    return float(((moved - points1.double()).norm(dim=1) < distance).double().mean())
