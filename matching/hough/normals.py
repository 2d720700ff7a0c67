"""Surface normals: the direction of least spread of the points around each point, in Numba.

H. Hoppe et al., "Surface reconstruction from unorganized points", SIGGRAPH 1992, section 3.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float

from vision3d.matching.hough.grid import PointGrid
from vision3d.sparse.threads import use_torch_threads


def normals(
    grid: PointGrid, radius: float, towards: Float[np.ndarray, " 3"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Unit normals of the grid's points (in the grid's order) over a radius of at most a cell, and their flatness.

    Normals point to the side of `towards`. Flatness is 1 - 3 x least / sum of the eigenvalues: 1 on a plane, 0 where
    points spread evenly; -1 where fewer than 3 points are near (their normal is zero).
    """
    if radius > grid.cell * (1 + 1e-9):
        raise ValueError(f"the radius {radius:g} is larger than the cells of {grid.cell:g}")
    out, flatness = np.zeros((len(grid.points), 3)), np.full(len(grid.points), -1.0)
    use_torch_threads()
    _normals(grid.points, grid.starts, grid.beside(), radius * radius, towards, out, flatness)
    return out, flatness


def normals_slow(
    points: Float[np.ndarray, "n 3"], radius: float, towards: Float[np.ndarray, " 3"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """`normals` in NumPy, all pairs."""
    out, flatness = np.zeros_like(points), np.full(len(points), -1.0)
    for i, point in enumerate(points):
        near = points[((points - point) ** 2).sum(1) <= radius * radius]
        if len(near) < 3:
            continue
        values, vectors = np.linalg.eigh(np.cov(near.T, bias=True))
        sign = 1 if vectors[:, 0] @ (towards - point) >= 0 else -1
        out[i], flatness[i] = sign * vectors[:, 0], 1 - 3 * max(values[0], 0) / values.sum()
    return out, flatness


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def least_eigenvector(xx, xy, xz, yy, yz, zz):  # pragma: no cover (compiled)
    """Least eigenvalue of a symmetric 3x3 matrix and its unit eigenvector, by the trigonometric closed form.

    D. Eberly, "A robust eigensolver for 3x3 symmetric matrices", 2014: the longest cross product of two rows of
    A - lambda I. Where the two least eigenvalues agree, any vector across the third.
    """
    scale = max(abs(xx), abs(yy), abs(zz), abs(xy), abs(xz), abs(yz))
    if scale == 0.0:
        return 0.0, 0.0, 0.0, 1.0
    xx, xy, xz, yy, yz, zz = xx / scale, xy / scale, xz / scale, yy / scale, yz / scale, zz / scale
    mean = (xx + yy + zz) / 3.0
    a, b, c = xx - mean, yy - mean, zz - mean
    p = np.sqrt((a * a + b * b + c * c + 2.0 * (xy * xy + xz * xz + yz * yz)) / 6.0)
    if p < 1e-12:
        return mean * scale, 0.0, 0.0, 1.0
    half_det = (a * (b * c - yz * yz) - xy * (xy * c - yz * xz) + xz * (xy * yz - b * xz)) / (2.0 * p * p * p)
    angle = np.arccos(min(1.0, max(-1.0, half_det))) / 3.0
    value = mean + 2.0 * p * np.cos(angle + 2.0 * np.pi / 3.0)
    a, b, c = xx - value, yy - value, zz - value
    x0, y0, z0 = xy * yz - xz * b, xz * xy - a * yz, a * b - xy * xy
    x1, y1, z1 = xy * c - xz * yz, xz * xz - a * c, a * yz - xy * xz
    x2, y2, z2 = b * c - yz * yz, yz * xz - xy * c, xy * yz - b * xz
    n0, n1, n2 = x0 * x0 + y0 * y0 + z0 * z0, x1 * x1 + y1 * y1 + z1 * z1, x2 * x2 + y2 * y2 + z2 * z2
    if n1 > n0:
        x0, y0, z0, n0 = x1, y1, z1, n1
    if n2 > n0:
        x0, y0, z0, n0 = x2, y2, z2, n2
    if n0 < 1e-24:  # two equal least eigenvalues: any direction across the longest row
        if a * a + xy * xy + xz * xz >= max(xy * xy + b * b + yz * yz, xz * xz + yz * yz + c * c):
            x0, y0, z0 = a, xy, xz
        elif xy * xy + b * b + yz * yz >= xz * xz + yz * yz + c * c:
            x0, y0, z0 = xy, b, yz
        else:
            x0, y0, z0 = xz, yz, c
        if abs(x0) <= abs(y0) and abs(x0) <= abs(z0):
            x0, y0, z0 = 0.0, z0, -y0
        elif abs(y0) <= abs(z0):
            x0, y0, z0 = -z0, 0.0, x0
        else:
            x0, y0, z0 = y0, -x0, 0.0
        n0 = x0 * x0 + y0 * y0 + z0 * z0
    length = np.sqrt(n0)
    return value * scale, x0 / length, y0 / length, z0 / length


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _normals(points, starts, beside, radius2, towards, out, flatness):  # pragma: no cover (compiled)
    for c in numba.prange(beside.shape[0]):
        for i in range(starts[c], starts[c + 1]):
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            n = 0
            sx = sy = sz = sxx = sxy = sxz = syy = syz = szz = 0.0
            for k in range(27):
                other = beside[c, k]
                if other < 0:
                    continue
                for j in range(starts[other], starts[other + 1]):
                    dx, dy, dz = points[j, 0] - x, points[j, 1] - y, points[j, 2] - z
                    if dx * dx + dy * dy + dz * dz <= radius2:
                        n += 1
                        sx += dx
                        sy += dy
                        sz += dz
                        sxx += dx * dx
                        sxy += dx * dy
                        sxz += dx * dz
                        syy += dy * dy
                        syz += dy * dz
                        szz += dz * dz
            if n < 3:
                continue
            sx, sy, sz = sx / n, sy / n, sz / n
            xx, yy, zz = sxx / n - sx * sx, syy / n - sy * sy, szz / n - sz * sz
            value, a, b, e = least_eigenvector(xx, sxy / n - sx * sy, sxz / n - sx * sz, yy, syz / n - sy * sz, zz)
            if a * (towards[0] - x) + b * (towards[1] - y) + e * (towards[2] - z) < 0:
                a, b, e = -a, -b, -e
            out[i, 0], out[i, 1], out[i, 2] = a, b, e
            total = xx + yy + zz
            flatness[i] = 1.0 - 3.0 * max(value, 0.0) / total if total > 0 else -1.0
