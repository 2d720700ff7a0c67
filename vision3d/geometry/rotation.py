"""SO(3): exponential and logarithm, quaternions (wxyz), angles. Stable near 0 and pi, differentiable there as well.

J. Sola et al., "A micro Lie theory for state estimation in robotics", 2018, appendix B.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_SERIES_BELOW = 0.05  # squared angle (rad^2) under which the Taylor series are exact to float64


def skew(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """The matrix of the cross product: skew(a) @ b = a x b."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    return rows.reshape(*vector.shape, 3)


def rotation_exp(rotvec: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a rotation vector (axis times angle, radians), Rodrigues' formula."""
    squared = (rotvec * rotvec).sum(-1)
    a, b, _ = exp_coefficients(squared)
    k = skew(rotvec)
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    return eye + a[..., None, None] * k + b[..., None, None] * (k @ k)


def rotation_log(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """Rotation vector (radians, length in [0, pi]) of a rotation matrix; at pi one of the two axes."""
    quaternion = quaternion_from_matrix(rotation)
    w, v = quaternion[..., 0], quaternion[..., 1:]
    squared = (v * v).sum(-1)
    small = squared < 1e-4
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    ratio = torch.where(small, torch.zeros_like(w), 2 * torch.atan2(sine, w) / sine)
    # 2 atan(s / w) / s around s = 0, where w is near 1.
    w_safe = torch.where(small, w, torch.ones_like(w))
    s2 = squared / (w_safe * w_safe)
    series = 2 / w_safe * (1 - s2 / 3 + s2 * s2 / 5 - s2**3 / 7)
    return v * torch.where(small, series, ratio)[..., None]


def quaternion_from_matrix(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternion (w, x, y, z) with w >= 0 of a rotation matrix (Shepperd's method: no branch loses digits)."""
    m = rotation.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    # Row i is 4 q_i q. The row with the largest q_i is far from zero.
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], dim=-1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], dim=-1),
            torch.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], dim=-1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], dim=-1),
        ],
        dim=-2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    quaternion = row / torch.linalg.vector_norm(row, dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_to_matrix(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a quaternion (w, x, y, z) of any length but zero."""
    unit = quaternion / torch.linalg.vector_norm(quaternion, dim=-1, keepdim=True)
    w, v = unit[..., :1, None], unit[..., 1:]
    k = skew(v)
    eye = torch.eye(3, dtype=quaternion.dtype, device=quaternion.device)
    rotation: Tensor = eye + (w * k + k @ k) * 2
    return rotation


def rotation_angle(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle of a rotation in [0, pi] rad, exact to rounding at both ends (arccos of the trace is not)."""
    axis = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        dim=-1,
    )
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(torch.linalg.vector_norm(axis, dim=-1), trace - 1)


def angle_between(rotation0: Float[Tensor, "*b 3 3"], rotation1: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle in [0, pi] rad of the rotation that leads from one to the other (geodesic distance)."""
    return rotation_angle(rotation0.mT @ rotation1)


def nearest_rotation(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation closest to a matrix in the Frobenius norm (orthogonal Procrustes)."""
    u, _, vt = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vt)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    rotation: Tensor = (u * flip[..., None, :]) @ vt
    return rotation


def exp_coefficients(
    squared: Float[Tensor, "*b"],
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3 from t^2, all smooth at 0."""
    small = squared < _SERIES_BELOW
    t2 = torch.where(small, torch.ones_like(squared), squared)
    t = t2.sqrt()
    s = torch.where(small, squared, torch.zeros_like(squared))
    half = torch.sin(t / 2)
    a = torch.where(small, _series(s, (6, 20, 42, 72)), torch.sin(t) / t)
    b = torch.where(small, _series(s, (12, 30, 56, 90)) / 2, 2 * half * half / t2)
    c = torch.where(small, _series(s, (20, 42, 72, 110)) / 6, (t - torch.sin(t)) / (t2 * t))
    return a, b, c


def _series(s: Float[Tensor, "*b"], divisors: tuple[int, ...]) -> Float[Tensor, "*b"]:
    """1 - s/d0 (1 - s/d1 (1 - ...))."""
    out = torch.ones_like(s)
    for divisor in reversed(divisors):
        out = 1 - s / divisor * out
    return out
