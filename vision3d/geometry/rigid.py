"""SE(3): exponential and logarithm of rigid motions.

J. Sola et al., "A micro Lie theory for state estimation in robotics", 2018, appendix D. The six numbers are
(translation part rho, rotation vector), and the tangent vector acts from the left: exp(xi) @ b_from_a moves frame b.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.geometry.rotation import exp_coefficients, rotation_exp, rotation_log, skew


def se3_exp(xi: Float[Tensor, "*b 6"]) -> RigidTransform:
    """Rigid transform of (rho, rotation vector in rad); rho in the transform's unit."""
    rho, rotvec = xi[..., :3], xi[..., 3:]
    _, b, c = exp_coefficients((rotvec * rotvec).sum(-1))
    k = skew(rotvec)
    eye = torch.eye(3, dtype=xi.dtype, device=xi.device)
    jacobian = eye + b[..., None, None] * k + c[..., None, None] * (k @ k)
    return RigidTransform(rotation_exp(rotvec), (jacobian @ rho[..., None])[..., 0])


def se3_log(transform: RigidTransform) -> Float[Tensor, "*b 6"]:
    """(rho, rotation vector) with se3_exp of it giving the transform; rotation up to pi."""
    rotvec = rotation_log(transform.rotation)
    squared = (rotvec * rotvec).sum(-1)
    a, b, _ = exp_coefficients(squared)
    small = squared < 0.05
    s = torch.where(small, squared, torch.zeros_like(squared))
    series = 1 / 12 + s / 720 + s**2 / 30240 + s**3 / 1209600 + s**4 / 47900160
    closed = (1 - a / (2 * b)) / torch.where(small, torch.ones_like(squared), squared)
    d = torch.where(small, series, closed)
    k = skew(rotvec)
    eye = torch.eye(3, dtype=rotvec.dtype, device=rotvec.device)
    inverse_jacobian = eye - 0.5 * k + d[..., None, None] * (k @ k)
    rho = (inverse_jacobian @ transform.translation[..., None])[..., 0]
    return torch.cat([rho, rotvec], dim=-1)
