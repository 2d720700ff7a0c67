"""Similarity alignment of point sets and of reconstructions (their world frame and scale are free).

S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.geometry.rotation import nearest_rotation

_MAX_TRIPLES = 600


@dataclass(frozen=True, slots=True)
class Similarity:
    """x_b = scale * rotation @ x_a + translation, for a variable named `b_from_a`."""

    scale: Float[Tensor, ""]
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]

    def apply(self, points: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        """Points in frame a to points in frame b."""
        return self.scale * points @ self.rotation.mT + self.translation

    def inverse(self) -> Similarity:
        """`a_from_b`."""
        rotation = self.rotation.mT
        return Similarity(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def move_pose(self, cam_from_a: RigidTransform) -> RigidTransform:
        """The pose in frame b of a camera posed in frame a; the unit of the camera frame becomes b's."""
        rotation = cam_from_a.rotation @ self.rotation.mT
        translation = self.scale * cam_from_a.translation - (rotation @ self.translation[..., None])[..., 0]
        return RigidTransform(rotation, translation)


def fit_similarity(
    points_in_a: Float[Tensor, "n 3"],
    points_in_b: Float[Tensor, "n 3"],
    weights: Float[Tensor, " n"] | None = None,
    with_scale: bool = True,
) -> Similarity:
    """b_from_a with the least weighted squared distance in b (Umeyama 1991).

    Raises:
        ValueError: fewer than 3 points, or all on a line or at a point: the rotation is then not determined (use
            `align_poses` for cameras on a line).
    """
    if points_in_a.shape[0] < 3:
        raise ValueError(f"a similarity needs 3 points or more, got {points_in_a.shape[0]}")
    weight = torch.ones_like(points_in_a[:, 0]) if weights is None else weights
    weight = (weight / weight.sum())[:, None]
    mean_a, mean_b = (weight * points_in_a).sum(0), (weight * points_in_b).sum(0)
    from_a, from_b = points_in_a - mean_a, points_in_b - mean_b
    u, s, vt = torch.linalg.svd((weight * from_b).mT @ from_a)
    if not bool(s[1] > 1e-9 * s[0]):
        raise ValueError("the points lie on a line or at a point: the rotation is not determined")
    sign = torch.ones_like(s)
    sign[2] = torch.linalg.det(u) * torch.linalg.det(vt)
    rotation = (u * sign) @ vt
    variance = (weight * from_a * from_a).sum()
    scale = (s * sign).sum() / variance if with_scale else torch.ones_like(variance)
    return Similarity(scale, rotation, mean_b - scale * rotation @ mean_a)


def fit_similarity_robust(
    points_in_a: Float[Tensor, "n 3"],
    points_in_b: Float[Tensor, "n 3"],
    generator: torch.Generator | None = None,
) -> tuple[Similarity, Bool[Tensor, " n"]]:
    """b_from_a that fits at least half of the points, and which points it fits (least median of squares).

    Tries all triples (600 random ones if there are more), takes the one with the smallest median residual
    (P. Rousseeuw, 1984) and refits to the points within 2.5 robust standard deviations.

    Raises:
        ValueError: fewer than 3 points, or no triple that is not on a line.
    """
    n = points_in_a.shape[0]
    if math.comb(n, 3) <= _MAX_TRIPLES:
        triples = list(itertools.combinations(range(n), 3))
    else:
        triples = [tuple(torch.randperm(n, generator=generator)[:3].tolist()) for _ in range(_MAX_TRIPLES)]
    best: tuple[float, Similarity] | None = None
    for triple in triples:
        index = torch.tensor(triple)
        try:
            candidate = fit_similarity(points_in_a[index], points_in_b[index])
        except ValueError:
            continue
        residual = torch.linalg.vector_norm(candidate.apply(points_in_a) - points_in_b, dim=1)
        # Three points always fit themselves: the median is over the half of all that must fit beyond them.
        middle = float(residual.sort().values[min(n - 1, max(3, n // 2))])
        if best is None or middle < best[0]:
            best = (middle, candidate)
    if best is None:
        raise ValueError(f"no similarity: {n} points, none three of them off a line")
    residual = torch.linalg.vector_norm(best[1].apply(points_in_a) - points_in_b, dim=1)
    spread = torch.linalg.vector_norm(points_in_b - points_in_b.mean(0), dim=1).max()
    inlier = residual <= max(2.5 * 1.4826 * best[0], float(1e-9 * spread))
    try:
        return fit_similarity(points_in_a[inlier], points_in_b[inlier]), inlier
    except ValueError:
        return best[1], inlier


def align_poses(cam_from_a: RigidTransform, cam_from_b: RigidTransform) -> Similarity:
    """b_from_a between two reconstructions of the same n >= 2 cameras (batched poses), from rotations and centres.

    The rotation is the mean over the cameras (L2 chordal, R. Hartley et al., "Rotation averaging", IJCV 2013), scale
    and translation the least squares over the centres. Unlike `fit_similarity` it works for two cameras and for cameras
    on a line.

    Raises:
        ValueError: fewer than 2 cameras, or all centres of a at one point.
    """
    centers_a, centers_b = cam_from_a.center(), cam_from_b.center()
    if centers_a.ndim != 2 or centers_a.shape[0] < 2:
        raise ValueError(f"aligning poses needs 2 cameras or more in one batch dimension, got {tuple(centers_a.shape)}")
    rotation = nearest_rotation((cam_from_b.rotation.mT @ cam_from_a.rotation).mean(0))
    from_a, from_b = centers_a - centers_a.mean(0), centers_b - centers_b.mean(0)
    variance = (from_a * from_a).sum()
    if not bool(variance > 0):
        raise ValueError("all camera centres are at one point: the scale is not determined")
    scale = ((from_a @ rotation.mT) * from_b).sum() / variance
    if not bool(scale > 0):  # the rotations and the centres contradict each other: sizes alone still give a scale
        scale = (from_b.square().sum() / variance).sqrt()
    return Similarity(scale, rotation, centers_b.mean(0) - scale * rotation @ centers_a.mean(0))
