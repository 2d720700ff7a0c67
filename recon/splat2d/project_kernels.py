"""Numba kernels of `project_surfels` and of its gradient, worked out by hand: one pass over the surfels each.

With k = n.p, s = z / k and the rows A = tv x p and B = p x tu, the coefficients are a = s A / (su f), b = s B / (sv f)
and w = s n / f. Surfels stand in fixed blocks; what all share (pose, intrinsics) is summed per block, in float64, and
then over blocks: the same for any number of threads.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.recon.splat2d.project import EDGE_ON, LOW_PASS, MAX_DEPTHS, MIN_ALPHA, MIN_PX, OUTSIDE
from vision3d.recon.splat2d.sh_kernels import sh_basis_into, sh_direction_gradient
from vision3d.recon.splat2d.tile_memory import ROOT
from vision3d.recon.splat2d.tiles import pixel_box

BLOCKS = 64
SHARED = 16  # rotation 9, translation 3, intrinsics 4
GEOMETRY = 26

_ONE = np.float32(1)
_TWO = np.float32(2)
_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_EDGE_ON = np.float32(EDGE_ON)
_MIN_PX = np.float32(MIN_PX)
_MAX_DEPTHS = np.float32(MAX_DEPTHS)
_WIDE = np.float32(OUTSIDE) * ROOT
_PER_ROOT = _ONE / ROOT
_MIN_ALPHA = np.float32(MIN_ALPHA)
_LOW_PASS = np.float32(LOW_PASS)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _place(mean, quat, scale, r, t, k, g):  # pragma: no cover (compiled)
    """g: p 0-2, unit quaternion 3-6, its length before 7, tu 8-10, tv 11-13, n 14-16, n.p 17, 1 unless edge on 18,
    scales 19-20, 1 where they are within their limits 21-22, s = z / n.p 23, sign that turns n to the camera 24."""
    for i in range(3):
        g[i] = r[i, 0] * mean[0] + r[i, 1] * mean[1] + r[i, 2] * mean[2] + t[i]
    largest = max(max(abs(quat[0]), abs(quat[1])), max(abs(quat[2]), abs(quat[3])))
    w, x, y, z, length = _ONE, _ZERO, _ZERO, _ZERO, _ZERO
    if largest > 0:
        w, x, y, z = quat[0] / largest, quat[1] / largest, quat[2] / largest, quat[3] / largest
        norm = np.sqrt(w * w + x * x + y * y + z * z)
        w, x, y, z, length = w / norm, x / norm, y / norm, z / norm, norm * largest
    g[3], g[4], g[5], g[6], g[7] = w, x, y, z, length
    q00, q01, q02 = _ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y)
    q10, q11, q12 = _TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x)
    q20, q21, q22 = _TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y)
    for i in range(3):
        g[8 + i] = r[i, 0] * q00 + r[i, 1] * q10 + r[i, 2] * q20
        g[11 + i] = r[i, 0] * q01 + r[i, 1] * q11 + r[i, 2] * q21
        g[14 + i] = r[i, 0] * q02 + r[i, 1] * q12 + r[i, 2] * q22
    distance = np.sqrt(g[0] * g[0] + g[1] * g[1] + g[2] * g[2])
    plane = g[14] * g[0] + g[15] * g[1] + g[16] * g[2]
    flat = abs(plane) > _EDGE_ON * distance
    g[17] = plane if flat else distance
    g[18] = _ONE if flat else _ZERO
    low = _MIN_PX * g[2] / max(k[0], k[1])
    high = max(_MAX_DEPTHS * distance, low)
    for i in range(2):
        g[19 + i] = min(max(scale[i], low), high)
        g[21 + i] = _ONE if low <= scale[i] <= high else _ZERO
    g[23] = g[2] / g[17]
    g[24] = -_ONE if plane > 0 else _ONE  # turns the normal to the camera


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _bound(g, k, opacity, row, bounds):  # pragma: no cover (compiled)
    """See `project._bounds`."""
    c2 = _TWO * np.log(max(opacity / _MIN_ALPHA, _ONE))
    z = g[2]
    disk = np.sqrt(c2 / _LOW_PASS)
    a0, a1 = g[10] * g[19] / z, g[13] * g[20] / z
    t33 = c2 * (a0 * a0 + a1 * a1) - _ONE
    for axis in range(2):
        ray = g[axis] / z
        b0 = k[axis] * (g[8 + axis] - ray * g[10]) * g[19] / z
        b1 = k[axis] * (g[11 + axis] - ray * g[13]) * g[20] / z
        low, high = _ZERO, _ZERO
        if g[18] > 0:
            if t33 < np.float32(-1e-4):
                t13, t11 = c2 * (b0 * a0 + b1 * a1), c2 * (b0 * b0 + b1 * b1)
                root = np.sqrt(max(t13 * t13 - t11 * t33, _ZERO))
                low, high = (t13 + root) / t33, (t13 - root) / t33
            else:
                low, high = np.float32(-1e9), np.float32(1e9)
        low, high = min(low, -disk), max(high, disk)
        margin = np.float32(0.01) + np.float32(1e-3) * (high - low)
        bounds[2 * axis] = row[axis] + low - margin
        bounds[2 * axis + 1] = row[axis] + high + margin


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def project_forward(
    means, quats, scales, opacities, sh, r, t, k, center, near, width, height, rows, boxes
):  # pragma: no cover (compiled)
    """Writes rows [n 16] and boxes [n 4] of pixels, see `project_numba.Projected`."""
    n, count = len(means), sh.shape[1]
    for block in numba.prange(BLOCKS):
        g, basis, direction = np.empty(GEOMETRY, np.float32), np.empty(16, np.float32), np.empty(4, np.float32)
        bounds = np.empty(4, np.float32)
        for i in range(n * block // BLOCKS, n * (block + 1) // BLOCKS):
            row, box = rows[i], boxes[i]
            _place(means[i], quats[i], scales[i], r, t, k, g)
            if not (g[2] > near and opacities[i] >= _MIN_ALPHA):
                row[:] = _ZERO
                box[0], box[1], box[2], box[3] = 0, -1, 0, -1
                continue
            row[0] = k[0] * g[0] / g[2] + k[2]
            row[1] = k[1] * g[1] / g[2] + k[3]
            if g[18] > 0:
                s = g[23]
                to_u, to_v = ROOT * s / g[19], ROOT * s / g[20]
                row[2] = (g[12] * g[2] - g[13] * g[1]) * to_u / k[0]
                row[3] = (g[13] * g[0] - g[11] * g[2]) * to_u / k[1]
                row[4] = (g[1] * g[10] - g[2] * g[9]) * to_v / k[0]
                row[5] = (g[2] * g[8] - g[0] * g[10]) * to_v / k[1]
                row[6] = g[14] * s / k[0]
                row[7] = g[15] * s / k[1]
            else:
                row[2], row[3], row[4], row[5], row[6], row[7] = _WIDE, _ZERO, _ZERO, _WIDE, _ZERO, _ZERO
            row[8] = g[2]
            row[9] = np.log2(opacities[i])
            sh_basis_into(means[i], center, count, direction, basis)
            for c in range(3):
                color = _HALF
                for m in range(count):
                    color += basis[m] * sh[i, m, c]
                row[10 + c] = max(color, _ZERO)
                row[13 + c] = g[24] * g[14 + c]
            _bound(g, k, opacities[i], row, bounds)
            pixel_box(bounds, width, height, box)


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def take_rows(rows, boxes, order, table, table_boxes):  # pragma: no cover (compiled)
    """table[i] = rows[order[i]] and likewise boxes: reading out of order is cheaper than writing."""
    for i in numba.prange(len(order)):
        s = np.uint64(order[i])
        for k in range(16):
            table[i, k] = rows[s, k]
        for k in range(4):
            table_boxes[i, k] = boxes[s, k]


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def project_backward(
    means,
    quats,
    scales,
    opacities,
    sh,
    r,
    t,
    k,
    center,
    near,
    rows,
    up,
    ranks,
    d_means,
    d_quats,
    d_scales,
    d_opacities,
    d_sh,
    shared,
):  # pragma: no cover (compiled)
    """From the gradients up [n 16] of the coefficients, at the surfels' ranks (of ln opacity for the opacity); shared
    [BLOCKS 16] gets sums for rotation, translation, intrinsics."""
    n, count = len(means), sh.shape[1]
    for block in numba.prange(BLOCKS):
        g, basis, direction = np.empty(GEOMETRY, np.float32), np.empty(16, np.float32), np.empty(4, np.float32)
        weights, d_direction = np.empty(16, np.float32), np.empty(3, np.float32)
        d_p, d_axes = np.empty(3, np.float32), np.empty((3, 3), np.float32)  # d_axes: of tu, tv, n
        d_q, total = np.empty((3, 3), np.float32), shared[block]
        for i in range(n * block // BLOCKS, n * (block + 1) // BLOCKS):
            _place(means[i], quats[i], scales[i], r, t, k, g)
            d_scales[i, 0], d_scales[i, 1] = _ZERO, _ZERO
            if not (g[2] > near and opacities[i] >= _MIN_ALPHA):
                d_opacities[i] = _ZERO
                d_means[i, :] = _ZERO
                d_quats[i, :] = _ZERO
                for m in range(count):
                    d_sh[i, m, 0], d_sh[i, m, 1], d_sh[i, m, 2] = _ZERO, _ZERO, _ZERO
                continue
            row, u = rows[i], up[ranks[i]]
            d_axes[:] = _ZERO
            z = g[2]
            d_p[0] = u[0] * k[0] / z
            d_p[1] = u[1] * k[1] / z
            d_p[2] = u[8] - (u[0] * k[0] * g[0] + u[1] * k[1] * g[1]) / (z * z)
            total[12] += u[0] * g[0] / z
            total[13] += u[1] * g[1] / z
            total[14] += u[0]
            total[15] += u[1]
            if g[18] > 0:
                s, plane = g[23], g[17]
                along_a = (u[2] * row[2] + u[3] * row[3]) * _PER_ROOT
                along_b = (u[4] * row[4] + u[5] * row[5]) * _PER_ROOT
                along_w = u[6] * row[6] + u[7] * row[7]
                total[12] -= ((u[2] * row[2] + u[4] * row[4]) * _PER_ROOT + u[6] * row[6]) / k[0]
                total[13] -= ((u[3] * row[3] + u[5] * row[5]) * _PER_ROOT + u[7] * row[7]) / k[1]
                if g[21] > 0:
                    d_scales[i, 0] = -along_a / g[19]
                if g[22] > 0:
                    d_scales[i, 1] = -along_b / g[20]
                along = along_a + along_b + along_w  # the gradient of s, times s
                d_p[2] += along / z
                d_plane = -along / plane
                a0, a1 = u[2] * s / (g[19] * k[0]), u[3] * s / (g[19] * k[1])
                b0, b1 = u[4] * s / (g[20] * k[0]), u[5] * s / (g[20] * k[1])
                d_axes[2, 0] = u[6] * s / k[0]
                d_axes[2, 1] = u[7] * s / k[1]
                # A = tv x p: its gradient goes to tv as p x a, to p as a x tv; B = p x tu likewise.
                d_axes[1, 0] = -g[2] * a1
                d_axes[1, 1] = g[2] * a0
                d_axes[1, 2] = g[0] * a1 - g[1] * a0
                d_p[0] += a1 * g[13]
                d_p[1] += -a0 * g[13]
                d_p[2] += a0 * g[12] - a1 * g[11]
                d_axes[0, 0] = b1 * g[2]
                d_axes[0, 1] = -b0 * g[2]
                d_axes[0, 2] = b0 * g[1] - b1 * g[0]
                d_p[0] += -g[10] * b1
                d_p[1] += g[10] * b0
                d_p[2] += g[8] * b1 - g[9] * b0
                for c in range(3):
                    d_axes[2, c] += d_plane * g[c]
                    d_p[c] += d_plane * g[14 + c]
            for c in range(3):
                d_axes[2, c] += g[24] * u[13 + c]
            d_opacities[i] = u[9] / opacities[i]
            # Colour: to the coefficients and, through the direction, to the mean and the camera's centre.
            sh_basis_into(means[i], center, count, direction, basis)
            u0 = u[10] if row[10] > 0 else _ZERO
            u1 = u[11] if row[11] > 0 else _ZERO
            u2 = u[12] if row[12] > 0 else _ZERO
            for m in range(count):
                d_sh[i, m, 0] = basis[m] * u0
                d_sh[i, m, 1] = basis[m] * u1
                d_sh[i, m, 2] = basis[m] * u2
                weights[m] = sh[i, m, 0] * u0 + sh[i, m, 1] * u1 + sh[i, m, 2] * u2
            sh_direction_gradient(weights, count, direction, d_direction)
            for a in range(3):
                turned = r[a, 0] * d_direction[0] + r[a, 1] * d_direction[1] + r[a, 2] * d_direction[2]
                for b in range(3):  # centre = -rotation^T translation
                    total[3 * a + b] += d_p[a] * means[i, b] + t[a] * d_direction[b]
                total[9 + a] += d_p[a] + turned
                d_means[i, a] = r[0, a] * d_p[0] + r[1, a] * d_p[1] + r[2, a] * d_p[2] + d_direction[a]
            # Axes = rotation @ quaternion's matrix.
            w, x, y, v = g[3], g[4], g[5], g[6]
            for b in range(3):
                for c in range(3):
                    d_q[b, c] = r[0, b] * d_axes[c, 0] + r[1, b] * d_axes[c, 1] + r[2, b] * d_axes[c, 2]
            _rotation_gradient(w, x, y, v, d_axes, total)
            _quaternion_gradient(w, x, y, v, g[7], d_q, d_quats[i])


@numba.njit(cache=True, nogil=True, fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _rotation_gradient(w, x, y, z, d_axes, total):  # pragma: no cover (compiled)
    """Adds d_axes (transposed) times the transposed matrix of the quaternion to total [9]."""
    q = (
        (_ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y)),
        (_TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x)),
        (_TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y)),
    )
    for a in range(3):
        for b in range(3):
            total[3 * a + b] += d_axes[0, a] * q[b][0] + d_axes[1, a] * q[b][1] + d_axes[2, a] * q[b][2]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _quaternion_gradient(w, x, y, z, length, m, out):  # pragma: no cover (compiled)
    """out [4], from the gradient m of the matrix of a quaternion that was divided by its length."""
    if length == 0:
        out[0], out[1], out[2], out[3] = _ZERO, _ZERO, _ZERO, _ZERO
        return
    d_w = z * (m[1, 0] - m[0, 1]) + y * (m[0, 2] - m[2, 0]) + x * (m[2, 1] - m[1, 2])
    d_x = y * (m[0, 1] + m[1, 0]) + z * (m[0, 2] + m[2, 0]) + w * (m[2, 1] - m[1, 2]) - _TWO * x * (m[1, 1] + m[2, 2])
    d_y = x * (m[0, 1] + m[1, 0]) + z * (m[1, 2] + m[2, 1]) + w * (m[0, 2] - m[2, 0]) - _TWO * y * (m[0, 0] + m[2, 2])
    d_z = x * (m[0, 2] + m[2, 0]) + y * (m[1, 2] + m[2, 1]) + w * (m[1, 0] - m[0, 1]) - _TWO * z * (m[0, 0] + m[1, 1])
    along = w * d_w + x * d_x + y * d_y + z * d_z
    factor = _TWO / length
    out[0] = (d_w - w * along) * factor
    out[1] = (d_x - x * along) * factor
    out[2] = (d_y - y * along) * factor
    out[3] = (d_z - z * along) * factor
