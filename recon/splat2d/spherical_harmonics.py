"""Real spherical harmonics up to degree 3 as colours seen from a direction (order and signs of 3D Gaussian splatting).

Band l holds m = -l ... l; signs carry the Condon-Shortley factor, as in Kerbl et al., SIGGRAPH 2023, and its viewers.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Normalisation of each basis polynomial: sqrt((2l+1)/4pi (l-m)!/(l+m)!), with sqrt(2) for m != 0, times the factor
# that its Legendre polynomial brings.
_C0 = math.sqrt(1 / math.pi) / 2
_C1 = math.sqrt(3 / math.pi) / 2
_C2_PRODUCT = math.sqrt(15 / math.pi) / 2
_C2_ZONAL = math.sqrt(5 / math.pi) / 4
_C2_DIFFERENCE = math.sqrt(15 / math.pi) / 4
_C3_CUBE = math.sqrt(35 / (2 * math.pi)) / 4
_C3_PRODUCT = math.sqrt(105 / math.pi) / 2
_C3_FLAT = math.sqrt(21 / (2 * math.pi)) / 4
_C3_ZONAL = math.sqrt(7 / math.pi) / 4
_C3_DIFFERENCE = math.sqrt(105 / math.pi) / 4

COUNTS = (1, 4, 9, 16)


def sh_basis(directions: Float[Tensor, "n 3"], count: int) -> Float[Tensor, "n count"]:
    """The first `count` (1, 4, 9 or 16) basis functions at unit directions."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, _C0)]
    if count > 1:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if count > 4:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            _C2_PRODUCT * x * y,
            -_C2_PRODUCT * y * z,
            _C2_ZONAL * (2 * zz - xx - yy),
            -_C2_PRODUCT * x * z,
            _C2_DIFFERENCE * (xx - yy),
        ]
    if count > 9:
        values += [
            -_C3_CUBE * y * (3 * xx - yy),
            _C3_PRODUCT * x * y * z,
            -_C3_FLAT * y * (4 * zz - xx - yy),
            _C3_ZONAL * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3_FLAT * x * (4 * zz - xx - yy),
            _C3_DIFFERENCE * z * (xx - yy),
            -_C3_CUBE * x * (xx - 3 * yy),
        ]
    return torch.stack(values, dim=-1)


def evaluate_sh(sh: Float[Tensor, "n k 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Colours 0.5 + sum(sh * basis) seen along `directions` (from the camera to the surfel, any length but zero).

    Not clamped: `render_surfels` cuts colours below 0, as viewers do. ValueError unless k is 1, 4, 9 or 16.
    """
    count = sh.shape[1]
    if count not in COUNTS:
        raise ValueError(f"spherical harmonics have {' or '.join(map(str, COUNTS))} coefficients, got {count}")
    if count == 1:
        return 0.5 + _C0 * sh[:, 0]
    basis = sh_basis(torch.nn.functional.normalize(directions, dim=-1, eps=1e-30), count)
    return 0.5 + torch.einsum("nk,nkc->nc", basis, sh)
