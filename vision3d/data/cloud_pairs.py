"""A pair of point clouds and how the one lies in the other's frame: the sample of registration."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from vision3d.core import PointCloud, RigidTransform


@dataclass(frozen=True, slots=True)
class CloudPair:
    """Two clouds in metres, each in its own frame, and the true pose.

    name: unique in its data set, path-like. scene: the group it is averaged in.
    information: 6x6 that weighs (translation, quaternion xyz) of an error in the target's frame, as 3DMatch's rule does
    with gt.info; None where nothing says it. neighbours: the clouds follow each other in the sequence, and 3DMatch's
    RMSE rule leaves the pair out. overlap: fraction of the clouds that they share, None where unknown.
    """

    name: str
    scene: str
    source: PointCloud
    target: PointCloud
    target_from_source: RigidTransform
    information: Float64[Tensor, "6 6"] | None = None
    neighbours: bool = False
    overlap: float | None = None
