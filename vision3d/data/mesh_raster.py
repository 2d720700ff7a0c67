"""Which triangle each ray of a picture meets first, exactly, without clipping.

M. Olano and T. Greer, "Triangle scan conversion using 2D homogeneous coordinates", Graphics Hardware 1997: with the
corners of a triangle in the camera as columns of M, the ray d = (x, y, 1) meets its plane at barycentric coordinates
b = M^-1 d / sum(M^-1 d) and depth 1 / sum(M^-1 d). Edge functions of a shared edge are each other's exact negatives, so
no ray slips between two triangles.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float64, Int, Int32

_BAND = 16  # rows that one task fills


def first_hits(
    corners: Float64[np.ndarray, "m 3 3"], intrinsics: tuple[float, float, float, float], width: int, height: int
) -> tuple[Int32[np.ndarray, "h w"], Float64[np.ndarray, "h w 2"], Float64[np.ndarray, "h w"]]:
    """Per pixel centre: the triangle hit (-1: none), weights of its first two corners, and depth z (0: none).

    corners: of each triangle, in the camera frame (x right, y down, z forward). intrinsics: fx, fy, cx, cy in px of
    this picture. Both sides of triangles count. The nearest hit wins, the lower number among equals; the number of
    threads does not matter.
    """
    face = np.full((height, width), -1, np.int32)
    weights = np.zeros((height, width, 2))
    depth = np.zeros((height, width))
    values = np.array(intrinsics, dtype=np.float64)
    bounds = _bounds(corners, values, width, height)
    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    _raster(np.ascontiguousarray(corners), bounds, values, face, weights, depth)
    return face, weights, depth


def _bounds(
    corners: Float64[np.ndarray, "m 3 3"], intrinsics: Float64[np.ndarray, " 4"], width: int, height: int
) -> Int[np.ndarray, "m 4"]:
    """First and one past the last column and row that a triangle may touch; the whole picture where it goes behind."""
    fx, fy, cx, cy = intrinsics
    z = corners[:, :, 2]
    extent = np.abs(corners).max() if corners.size else 1.0
    safe = np.asarray((z > 1e-9 * extent).all(axis=1))
    divisor = np.where(safe[:, None], z, 1.0)
    u = fx * corners[:, :, 0] / divisor + cx
    v = fy * corners[:, :, 1] / divisor + cy
    limits = [
        np.clip(np.floor(u.min(1) - 0.5), 0, width),
        np.clip(np.ceil(u.max(1) + 0.5), 0, width),
        np.clip(np.floor(v.min(1) - 0.5), 0, height),
        np.clip(np.ceil(v.max(1) + 0.5), 0, height),
    ]
    out = np.stack(limits, axis=1).astype(np.int64)
    out[~safe] = (0, width, 0, height)
    out[(z <= 0).all(axis=1)] = 0
    # What lies beyond one of the planes through the picture's edges and the camera is not seen, however it goes behind.
    x, y = fx * corners[:, :, 0], fy * corners[:, :, 1]
    for beyond in (x + cx * z < 0, x + (cx - width) * z > 0, y + cy * z < 0, y + (cy - height) * z > 0):
        out[beyond.all(axis=1)] = 0
    return out


@numba.njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _raster(corners, bounds, intrinsics, face, weights, depth):  # pragma: no cover (compiled)
    h = face.shape[0]
    fx, fy, cx, cy = intrinsics
    for band in numba.prange((h + _BAND - 1) // _BAND):
        first, last = band * _BAND, min(h, (band + 1) * _BAND)
        for m in range(corners.shape[0]):
            low, high = max(first, bounds[m, 2]), min(last, bounds[m, 3])
            if low >= high or bounds[m, 0] >= bounds[m, 1]:
                continue
            a, b, c = corners[m, 0], corners[m, 1], corners[m, 2]
            # Rows of M^-1 times the determinant.
            ax, ay, az = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]
            bx, by, bz = c[1] * a[2] - c[2] * a[1], c[2] * a[0] - c[0] * a[2], c[0] * a[1] - c[1] * a[0]
            gx, gy, gz = a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
            determinant = a[0] * ax + a[1] * ay + a[2] * az
            if determinant == 0:
                continue
            for row in range(low, high):
                dy = (row + 0.5 - cy) / fy
                for column in range(bounds[m, 0], bounds[m, 1]):
                    dx = (column + 0.5 - cx) / fx
                    wa = ax * dx + ay * dy + az
                    wb = bx * dx + by * dy + bz
                    wc = gx * dx + gy * dy + gz
                    if not ((wa >= 0 and wb >= 0 and wc >= 0) or (wa <= 0 and wb <= 0 and wc <= 0)):
                        continue
                    total = wa + wb + wc
                    if total == 0:
                        continue
                    z = determinant / total
                    if z > 0 and (depth[row, column] == 0 or z < depth[row, column]):
                        depth[row, column] = z
                        face[row, column] = m
                        weights[row, column, 0] = wa / total
                        weights[row, column, 1] = wb / total
