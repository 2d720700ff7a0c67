"""Iterated closest points between clouds that nearly fit, to point or to plane.

P. Besl and N. McKay, "A method for registration of 3-D shapes", PAMI 1992; Y. Chen and G. Medioni, "Object modelling by
registration of multiple range images", 1992 (distance to the target's tangent planes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial import cKDTree
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.similarity import fit_similarity

_MIN_PAIRS = 6  # fewer closest pairs determine no pose


@dataclass(frozen=True, slots=True)
class IcpResult:
    """The pose; fitness: fraction of the source's points with a target point within the distance; rmse over them."""

    target_from_source: RigidTransform
    fitness: float
    rmse: float


def icp(
    source: Float[Tensor, "n 3"],
    target: Float[Tensor, "m 3"],
    start: RigidTransform,
    max_distance: float,
    *,
    target_normals: Float[Tensor, "m 3"] | None = None,
    steps: int = 200,
) -> IcpResult:
    """target_from_source from a start that is right to about `max_distance`, the distance within which points pair.

    With target_normals the distance to the tangent planes is made least, else that to the points. It ends when the
    fitness and the rmse change by less than a millionth, or after `steps`.

    Raises:
        ValueError: fewer than 6 points pair, or they determine no pose.
    """
    if max_distance <= 0:
        raise ValueError(f"max_distance is positive, got {max_distance:g}")
    points, goal = source.double(), target.double().contiguous()
    normals = None if target_normals is None else target_normals.double()
    tree = cKDTree(goal.numpy())
    pose = RigidTransform(start.rotation.double(), start.translation.double())
    last = (0.0, 0.0)
    for step in range(steps + 1):
        moved = pose.apply(points)
        distance, index = tree.query(moved.numpy(), distance_upper_bound=max_distance)
        near = np.isfinite(distance)
        if near.sum() < _MIN_PAIRS:
            raise ValueError(f"only {int(near.sum())} points have another cloud's point within {max_distance:g}")
        now = float(near.mean()), float(np.sqrt((distance[near] ** 2).mean()))
        if step == steps or max(abs(a - b) for a, b in zip(now, last, strict=True)) < 1e-6:
            break
        last = now
        here, there = moved[near], goal[index[near]]
        pose = (
            _to_points(here, there) @ pose if normals is None else _to_planes(here, there, normals[index[near]]) @ pose
        )
    return IcpResult(pose, *now)


def point_normals(points: Float[Tensor, "n 3"], neighbours: int = 20) -> Float64[Tensor, "n 3"]:
    """Unit normals, of either sign, of the planes through each point's nearest neighbours.

    Raises:
        ValueError: fewer points than neighbours.
    """
    at = points.double().numpy()
    if len(at) < neighbours:
        raise ValueError(f"{len(at)} points have no {neighbours} neighbours")
    _, index = cKDTree(at).query(at, k=neighbours)
    around = at[index] - at[index].mean(1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
    return torch.from_numpy(np.ascontiguousarray(vectors[:, :, 0]))


def _to_points(here: Float64[Tensor, "k 3"], there: Float64[Tensor, "k 3"]) -> RigidTransform:
    found = fit_similarity(here, there, with_scale=False)
    return RigidTransform(found.rotation, found.translation)


def _to_planes(
    here: Float64[Tensor, "k 3"], there: Float64[Tensor, "k 3"], normals: Float64[Tensor, "k 3"]
) -> RigidTransform:
    rows = torch.cat([normals, torch.linalg.cross(here, normals)], dim=1)
    system = rows.mT @ rows
    if float(torch.linalg.cond(system)) > 1e12:
        raise ValueError("the surfaces leave some motion free: the pose is not determined")
    return se3_exp(torch.linalg.solve(system, rows.mT @ ((there - here) * normals).sum(1)))
