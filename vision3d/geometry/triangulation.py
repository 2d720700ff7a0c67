"""Triangulation from two or more views, its reprojection errors and angles.

R. Hartley and A. Zisserman, "Multiple View Geometry", 2nd edition, 12.2 (DLT). Rays are normalised coordinates
(x/z, y/z) as `Camera.unproject` gives them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import Camera, RigidTransform


def triangulate_dlt(
    cam_from_world: RigidTransform, rays: Float[Tensor, "*n v 2"], seen: Bool[Tensor, "*n v"] | None = None
) -> Float[Tensor, "*n 3"]:
    """Points in the world from v views each by the linear method.

    Args:
        cam_from_world: poses with batch dimensions that broadcast to [*n, v].
        rays: where each view sees the point, normalised coordinates.
        seen: which views count; a point seen less than twice comes out NaN.
    """
    matrix = torch.cat([cam_from_world.rotation, cam_from_world.translation[..., None]], dim=-1)
    rows = rays[..., None] * matrix[..., 2:, :] - matrix[..., :2, :]
    rows = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    if seen is not None:
        rows = torch.where(seen[..., None, None], rows, torch.zeros_like(rows))
    _, _, vt = torch.linalg.svd(rows.flatten(-3, -2), full_matrices=True)
    x = vt[..., 3, :]
    return _mark_unseen(x[..., :3] / x[..., 3:], seen)


def triangulate_midpoint(
    cam_from_world: RigidTransform, rays: Float[Tensor, "*n v 2"], seen: Bool[Tensor, "*n v"] | None = None
) -> Float[Tensor, "*n 3"]:
    """Points in the world nearest to their rays (least squares of the distances); arguments as `triangulate_dlt`.

    Parallel rays give values that are not finite or very far.
    """
    in_cam = torch.nn.functional.normalize(torch.nn.functional.pad(rays, (0, 1), value=1.0), dim=-1)
    direction = (cam_from_world.rotation.mT @ in_cam[..., None])[..., 0]
    eye = torch.eye(3, dtype=rays.dtype, device=rays.device)
    across = eye - direction[..., :, None] * direction[..., None, :]
    if seen is not None:
        across = torch.where(seen[..., None, None], across, torch.zeros_like(across))
    right = (across @ cam_from_world.center()[..., None]).sum(-3)
    solved, _ = torch.linalg.solve_ex(across.sum(-3), right)
    return _mark_unseen(solved[..., 0], seen)


def reprojection_errors(
    points: Float[Tensor, "n 3"], camera: Camera, cam_from_world: RigidTransform, pixels: Float[Tensor, "n 2"]
) -> Float[Tensor, " n"]:
    """Distance in px between the projected world points and where they were seen; inf behind the camera."""
    projected, front = camera.project(cam_from_world.apply(points))
    distance = torch.linalg.vector_norm(projected - pixels, dim=-1)
    return torch.where(front, distance, torch.full_like(distance, torch.inf))


def triangulation_angle(
    points: Float[Tensor, "*n 3"], center0: Float[Tensor, "*#n 3"], center1: Float[Tensor, "*#n 3"]
) -> Float[Tensor, "*n"]:
    """Angle in [0, pi] rad at each world point between the directions to two camera centres."""
    a, b = center0 - points, center1 - points
    return torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1), (a * b).sum(-1))


def _mark_unseen(points: Float[Tensor, "*n 3"], seen: Bool[Tensor, "*n v"] | None) -> Float[Tensor, "*n 3"]:
    if seen is None:
        return points
    return torch.where(seen.sum(-1, keepdim=True) >= 2, points, torch.full_like(points, torch.nan))
