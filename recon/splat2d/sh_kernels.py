"""Numba twins of `spherical_harmonics.sh_basis` and of its gradient with respect to the direction."""

from __future__ import annotations

import math
from typing import no_type_check

import numba
import numpy as np

_C0 = np.float32(math.sqrt(1 / math.pi) / 2)
_C1 = np.float32(math.sqrt(3 / math.pi) / 2)
_P = np.float32(math.sqrt(15 / math.pi) / 2)
_Z2 = np.float32(math.sqrt(5 / math.pi) / 4)
_D2 = np.float32(math.sqrt(15 / math.pi) / 4)
_Q = np.float32(math.sqrt(35 / (2 * math.pi)) / 4)
_R = np.float32(math.sqrt(105 / math.pi) / 2)
_F = np.float32(math.sqrt(21 / (2 * math.pi)) / 4)
_Z3 = np.float32(math.sqrt(7 / math.pi) / 4)
_D3 = np.float32(math.sqrt(105 / math.pi) / 4)
_2 = np.float32(2)
_3 = np.float32(3)
_4 = np.float32(4)
_6 = np.float32(6)
_8 = np.float32(8)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def sh_basis_into(mean, center, count, direction, basis):  # pragma: no cover (compiled)
    """Unit vector from the camera's centre to a mean (and their distance), and the basis functions there."""
    x, y, z = mean[0] - center[0], mean[1] - center[1], mean[2] - center[2]
    length = np.sqrt(x * x + y * y + z * z)
    scale = np.float32(1) / length if length > 0 else np.float32(0)
    x, y, z = x * scale, y * scale, z * scale
    direction[0], direction[1], direction[2], direction[3] = x, y, z, scale
    basis[0] = _C0
    if count > 1:
        basis[1], basis[2], basis[3] = -_C1 * y, _C1 * z, -_C1 * x
    if count > 4:
        xx, yy, zz = x * x, y * y, z * z
        basis[4], basis[5], basis[6] = _P * x * y, -_P * y * z, _Z2 * (_2 * zz - xx - yy)
        basis[7], basis[8] = -_P * x * z, _D2 * (xx - yy)
        if count > 9:
            basis[9], basis[10], basis[11] = -_Q * y * (_3 * xx - yy), _R * x * y * z, -_F * y * (_4 * zz - xx - yy)
            basis[12], basis[13] = _Z3 * z * (_2 * zz - _3 * xx - _3 * yy), -_F * x * (_4 * zz - xx - yy)
            basis[14], basis[15] = _D3 * z * (xx - yy), -_Q * x * (xx - _3 * yy)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def sh_direction_gradient(v, count, direction, out):  # pragma: no cover (compiled)
    """Gradient of sum(v * basis) with respect to the mean."""
    x, y, z, scale = direction[0], direction[1], direction[2], direction[3]
    gx = gy = gz = np.float32(0)
    if count > 1:
        gx, gy, gz = -_C1 * v[3], -_C1 * v[1], _C1 * v[2]
    if count > 4:
        gx += _P * (y * v[4] - z * v[7]) - _2 * _Z2 * x * v[6] + _2 * _D2 * x * v[8]
        gy += _P * (x * v[4] - z * v[5]) - _2 * _Z2 * y * v[6] - _2 * _D2 * y * v[8]
        gz += _4 * _Z2 * z * v[6] - _P * (y * v[5] + x * v[7])
    if count > 9:
        xx, yy, zz = x * x, y * y, z * z
        gx += _R * y * z * v[10] - _6 * _Q * x * y * v[9] - _3 * _Q * (xx - yy) * v[15]
        gx += _2 * _F * x * y * v[11] - _F * (_4 * zz - _3 * xx - yy) * v[13]
        gx += _2 * _D3 * x * z * v[14] - _6 * _Z3 * x * z * v[12]
        gy += _R * x * z * v[10] - _3 * _Q * (xx - yy) * v[9] + _6 * _Q * x * y * v[15]
        gy += _2 * _F * x * y * v[13] - _F * (_4 * zz - xx - _3 * yy) * v[11]
        gy -= _2 * _D3 * y * z * v[14] + _6 * _Z3 * y * z * v[12]
        gz += _R * x * y * v[10] - _8 * _F * z * (y * v[11] + x * v[13])
        gz += _Z3 * (_6 * zz - _3 * xx - _3 * yy) * v[12] + _D3 * (xx - yy) * v[14]
    along = gx * x + gy * y + gz * z
    out[0] = (gx - along * x) * scale
    out[1] = (gy - along * y) * scale
    out[2] = (gz - along * z) * scale
