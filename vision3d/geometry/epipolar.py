"""Two-view geometry: essential and fundamental matrix, epipolar distances, cheirality, pose from an essential matrix.

R. Hartley and A. Zisserman, "Multiple View Geometry", 2nd edition, chapters 9 and 11. x1^T F x0 = 0, lines l1 = F x0.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.geometry.rotation import skew


def essential_from_pose(cam1_from_cam0: RigidTransform) -> Float[Tensor, "*b 3 3"]:
    """E = [t]x R with |t| = 1, for normalised coordinates (x/z, y/z). Zero translation gives zero."""
    t = cam1_from_cam0.translation
    length = torch.linalg.vector_norm(t, dim=-1, keepdim=True)
    return skew(t / torch.where(length > 0, length, torch.ones_like(length))) @ cam1_from_cam0.rotation


def fundamental_from_pose(
    cam1_from_cam0: RigidTransform, k0: Float[Tensor, "*b 3 3"], k1: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b 3 3"]:
    """F = K1^-T E K0^-1 for px without distortion."""
    inverse0: Tensor = torch.linalg.inv(k0)
    inverse1: Tensor = torch.linalg.inv(k1)
    return inverse1.mT @ essential_from_pose(cam1_from_cam0) @ inverse0


def epipolar_distances(
    points0: Float[Tensor, "*b n 2"], points1: Float[Tensor, "*b n 2"], fundamental: Float[Tensor, "*b 3 3"]
) -> tuple[Float[Tensor, "*b n"], Float[Tensor, "*b n"]]:
    """Distance of each point to its match's epipolar line, in image 0 and in image 1 (px for F, normalised for E)."""
    lines0, lines1, residual = _lines(points0, points1, fundamental)
    return residual / _norm2(lines0), residual / _norm2(lines1)


def symmetric_epipolar_distance(
    points0: Float[Tensor, "*b n 2"], points1: Float[Tensor, "*b n 2"], fundamental: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b n"]:
    """Mean of the two distances of `epipolar_distances`."""
    distance0, distance1 = epipolar_distances(points0, points1, fundamental)
    return (distance0 + distance1) / 2


def sampson_distance(
    points0: Float[Tensor, "*b n 2"], points1: Float[Tensor, "*b n 2"], fundamental: Float[Tensor, "*b 3 3"]
) -> Float[Tensor, "*b n"]:
    """First-order distance (not squared) to the nearest pair of points that fits F exactly (H&Z 11.4.3), px for F."""
    lines0, lines1, residual = _lines(points0, points1, fundamental)
    return residual / (lines0[..., :2].square().sum(-1) + lines1[..., :2].square().sum(-1)).sqrt()


def decompose_essential(essential: Float[Tensor, "*b 3 3"]) -> RigidTransform:
    """The four poses cam1_from_cam0 of an essential matrix, |t| = 1 (H&Z result 9.19): a last batch dimension of 4."""
    u, _, vt = torch.linalg.svd(essential)
    u = u * torch.linalg.det(u)[..., None, None]
    vt = vt * torch.linalg.det(vt)[..., None, None]
    w = essential.new_tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    r0, r1, t = u @ w @ vt, u @ w.mT @ vt, u[..., 2]
    return RigidTransform(torch.stack([r0, r0, r1, r1], dim=-3), torch.stack([t, -t, t, -t], dim=-2))


def depths(
    cam1_from_cam0: RigidTransform, rays0: Float[Tensor, "*b n 2"], rays1: Float[Tensor, "*b n 2"]
) -> tuple[Float[Tensor, "*b n"], Float[Tensor, "*b n"]]:
    """z of the midpoint of each pair of rays in camera 0 and in camera 1 (rays in normalised coordinates).

    Solves z1 x1 = z0 R x0 + t in least squares; parallel rays give values without meaning, of either sign or NaN.
    """
    x0 = torch.nn.functional.pad(rays0, (0, 1), value=1.0) @ cam1_from_cam0.rotation.mT
    x1 = torch.nn.functional.pad(rays1, (0, 1), value=1.0)
    t = cam1_from_cam0.translation[..., None, :].expand_as(x0)
    a, b, c = (x0 * x0).sum(-1), (x0 * x1).sum(-1), (x1 * x1).sum(-1)
    d, e = (x0 * t).sum(-1), (x1 * t).sum(-1)
    determinant = a * c - b * b
    return (b * e - c * d) / determinant, (a * e - b * d) / determinant


def in_front(
    cam1_from_cam0: RigidTransform, rays0: Float[Tensor, "*b n 2"], rays1: Float[Tensor, "*b n 2"]
) -> Bool[Tensor, "*b n"]:
    """Cheirality: whether the triangulated point lies in front of both cameras (rays in normalised coordinates)."""
    z0, z1 = depths(cam1_from_cam0, rays0, rays1)
    return (z0 > 0) & (z1 > 0)


def pose_from_essential(
    essential: Float[Tensor, "3 3"], rays0: Float[Tensor, "n 2"], rays1: Float[Tensor, "n 2"]
) -> tuple[RigidTransform, Bool[Tensor, " n"]]:
    """Of the four poses the one with most points in front of both cameras, and which points those are.

    Raises:
        ValueError: no point is in front of both cameras for any of the four.
    """
    poses = decompose_essential(essential)
    front = in_front(poses, rays0.expand(4, -1, -1), rays1.expand(4, -1, -1))
    best = int(front.sum(-1).argmax())
    if not bool(front[best].any()):
        raise ValueError(f"none of {rays0.shape[0]} points lies in front of both cameras")
    return RigidTransform(poses.rotation[best], poses.translation[best]), front[best]


def _lines(
    points0: Float[Tensor, "*b n 2"], points1: Float[Tensor, "*b n 2"], fundamental: Float[Tensor, "*b 3 3"]
) -> tuple[Float[Tensor, "*b n 3"], Float[Tensor, "*b n 3"], Float[Tensor, "*b n"]]:
    """Epipolar lines in image 0 and image 1, and |x1^T F x0|."""
    x0 = torch.nn.functional.pad(points0, (0, 1), value=1.0)
    x1 = torch.nn.functional.pad(points1, (0, 1), value=1.0)
    lines1 = x0 @ fundamental.mT
    return x1 @ fundamental, lines1, (x1 * lines1).sum(-1).abs()


def _norm2(lines: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n"]:
    norm: Tensor = torch.linalg.vector_norm(lines[..., :2], dim=-1)
    return norm
