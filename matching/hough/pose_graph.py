"""Poses of many clouds from the motions of pairs: robust least squares over SE(3).

S. Choi et al., "Robust reconstruction of indoor scenes", CVPR 2015, section 3: wrong pairs lose their weight by a line
process; here in its closed form, the Geman-McClure kernel (M. Black and A. Rangarajan, IJCV 1996).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.geometry.rigid import se3_exp, se3_log
from vision3d.geometry.rotation import skew

ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Edge:
    """The motion `i_from_j` of a pair. strength: how much it counts, for example the number of points that overlap."""

    i: int
    j: int
    i_from_j: RigidTransform
    strength: float


@dataclass(frozen=True, slots=True)
class PoseGraph:
    """`first_from[k]` takes cloud k into the frame of the group's first cloud; None for clouds outside the group.

    group: the clouds that edges connect to the root. trust: of each edge, 1 if it fits the others, towards 0 if not.
    """

    first_from: list[RigidTransform | None]
    group: list[int]
    trust: list[float]


def solve_pose_graph(clouds: int, edges: list[Edge], radius: float, scale: float) -> PoseGraph:
    """Poses of the largest connected group (of equals, the one with the lowest numbers).

    radius: typical radius of a cloud, which weighs rotations against translations. scale: disagreement of an edge, in
    the clouds' unit, at which it counts a quarter.
    """
    group = _largest_group(clouds, edges)
    poses = _spanning_tree(clouds, edges, group[0])
    inside = [e for e in edges if poses[e.i] is not None]
    place = {cloud: k for k, cloud in enumerate(group)}
    unit = torch.tensor([1.0] * 3 + [radius] * 3, dtype=torch.float64)
    free = 6 * (len(group) - 1)
    for _ in range(ROUNDS if free else 0):
        normal, gradient = torch.zeros(free + 6, free + 6).double(), torch.zeros(free + 6).double()
        for edge in inside:
            error, jacobian = _error(edge, poses)
            weight = edge.strength * _trust(error * unit, scale)
            rows = jacobian * unit[:, None]
            for a, sign_a in ((place[edge.i], -1.0), (place[edge.j], 1.0)):
                at = slice(6 * a, 6 * a + 6)
                gradient[at] += sign_a * weight * rows.mT @ (error * unit)
                for b, sign_b in ((place[edge.i], -1.0), (place[edge.j], 1.0)):
                    normal[at, 6 * b : 6 * b + 6] += sign_a * sign_b * weight * rows.mT @ rows
        damping = 1e-9 * normal.diagonal().max() * torch.eye(free, dtype=torch.float64)
        step = -torch.linalg.solve(normal[6:, 6:] + damping, gradient[6:])
        for k, cloud in enumerate(group[1:]):
            pose = poses[cloud]
            assert pose is not None
            poses[cloud] = se3_exp(step[6 * k : 6 * k + 6]) @ pose
        if float(step.abs().max()) < 1e-10 * max(1.0, radius):
            break
    trust = [_trust(_error(e, poses)[0] * unit, scale) if poses[e.i] is not None else 0.0 for e in edges]
    return PoseGraph(poses, group, trust)


def _error(edge: Edge, poses: list[RigidTransform | None]) -> tuple[Float[Tensor, " 6"], Float[Tensor, "6 6"]]:
    """log(j_from_i(edge) @ i_from_first @ first_from_j), and its derivative by a motion of first_from_j from the left
    (minus that of first_from_i)."""
    first_from_i, first_from_j = poses[edge.i], poses[edge.j]
    assert first_from_i is not None and first_from_j is not None
    j_from_first = first_from_j.inverse()
    error = se3_log(edge.i_from_j.inverse() @ first_from_i.inverse() @ first_from_j)
    r, t = j_from_first.rotation, j_from_first.translation
    adjoint = torch.zeros(6, 6, dtype=torch.float64)
    adjoint[:3, :3], adjoint[3:, 3:], adjoint[:3, 3:] = r, r, skew(t) @ r
    return error, adjoint


def _trust(error: Float[Tensor, " 6"], scale: float) -> float:
    return float((1 / (1 + error.square().sum() / scale**2)) ** 2)


def _largest_group(clouds: int, edges: list[Edge]) -> list[int]:
    label = list(range(clouds))
    for edge in edges:
        a, b = sorted((label[edge.i], label[edge.j]))
        label = [a if x == b else x for x in label]
    best = max(range(clouds), key=lambda k: (label.count(k), -k))
    return [k for k in range(clouds) if label[k] == best]


def _spanning_tree(clouds: int, edges: list[Edge], root: int) -> list[RigidTransform | None]:
    """Starting poses along the strongest edges (Prim)."""
    poses: list[RigidTransform | None] = [None] * clouds
    poses[root] = RigidTransform.identity()
    while True:
        border = [e for e in edges if (poses[e.i] is None) != (poses[e.j] is None)]
        if not border:
            return poses
        edge = max(border, key=lambda e: e.strength)
        first_from_i, first_from_j = poses[edge.i], poses[edge.j]
        if first_from_i is not None:
            poses[edge.j] = first_from_i @ edge.i_from_j
        elif first_from_j is not None:
            poses[edge.i] = first_from_j @ edge.i_from_j.inverse()
