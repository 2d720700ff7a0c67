"""Registers a point cloud to another by Hough voting over compatible triplets of matches, without learned weights.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, sections 3 and 4.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from vision3d.core import Correspondences, PointCloud, RigidTransform
from vision3d.matching.hough.registration import Evidence, RegisterConfig, Registration

__all__ = ["Evidence", "RegisterConfig", "Registration", "register", "register_features"]


def register(source: PointCloud, target: PointCloud, config: RegisterConfig | None = None) -> Registration:
    """target_from_source of two clouds of any scale and frame, with a verdict.

    Points with NaN or infinite coordinates are dropped and counted.

    Raises:
        ValueError: more than half of a cloud's points are NaN or infinite.
    """
    return _nothing("not there yet")


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
    return _nothing("not there yet")


def _nothing(reason: str) -> Registration:
    """A result without any pose."""
    none = RigidTransform.identity()
    return Registration(
        registered=False,
        target_from_source=none,
        coarse=none,
        inliers=Correspondences.empty(3),
        evidence=Evidence(reason=reason),
    )
