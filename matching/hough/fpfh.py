"""FPFH: histograms of the angles between the normals around each point, in Numba.

R. B. Rusu et al., "Fast Point Feature Histograms (FPFH) for 3D registration", ICRA 2009, section III.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float

from vision3d.matching.hough.grid import PointGrid
from vision3d.sparse.threads import use_torch_threads

BINS = 11  # of each of the three angles
DIM = 3 * BINS


def fpfh(grid: PointGrid, normals: Float[np.ndarray, "n 3"], radius: float) -> Float[np.ndarray, "n 33"]:
    """FPFH of the grid's points, in the grid's order, over a radius of at most a cell; float32.

    Each point's own histograms (SPFH, percent of its neighbours) plus the mean of its neighbours' weighted by their
    inverse squared distance, brought to 100 for each of the three angles: 200 per angle. Zero without neighbours.
    """
    if radius > grid.cell * (1 + 1e-9):
        raise ValueError(f"the radius {radius:g} is larger than the cells of {grid.cell:g}")
    n = len(grid.points)
    simple, out, beside = np.zeros((n, DIM), np.float32), np.zeros((n, DIM), np.float32), grid.beside()
    use_torch_threads()
    _spfh(grid.points, normals, grid.starts, beside, radius * radius, simple)
    _sum_up(grid.points, grid.starts, beside, radius * radius, simple, out)
    return out


def fpfh_slow(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], radius: float
) -> Float[np.ndarray, "n 33"]:
    """`fpfh` in NumPy, all pairs."""
    distance2 = ((points[:, None] - points[None]) ** 2).sum(-1)
    near = (distance2 <= radius * radius) & (distance2 > 0)
    simple = np.zeros((len(points), 3, BINS))
    for i, j in zip(*np.nonzero(near), strict=True):
        alpha, phi, theta = _pair_slow(points[i], normals[i], points[j], normals[j])
        for k, value in enumerate(((theta + np.pi) / (2 * np.pi), (alpha + 1) / 2, (phi + 1) / 2)):
            simple[i, k, min(max(int(BINS * value), 0), BINS - 1)] += 100 / near[i].sum()
    out = np.zeros_like(simple)
    for i in range(len(points)):
        around = np.flatnonzero(near[i])
        out[i] = (simple[around] / distance2[i, around, None, None]).sum(0)
        totals = out[i].sum(-1, keepdims=True)
        out[i] = np.where(totals > 0, out[i] * 100 / np.where(totals > 0, totals, 1), 0) + simple[i]
    return out.reshape(len(points), DIM).astype(np.float32)


def _pair_slow(p: np.ndarray, n: np.ndarray, q: np.ndarray, m: np.ndarray) -> tuple[float, float, float]:
    """Alpha and phi (cosines) and theta (rad) of two points and normals: the Darboux frame stands at the one whose
    normal is nearer to the line between them."""
    line = (q - p) / np.linalg.norm(q - p)
    if abs(n @ line) < abs(m @ line):
        n, m, line = m, n, -line
    v = np.cross(line, n)
    length = np.linalg.norm(v)
    if length == 0:
        return 0.0, 0.0, 0.0
    v = v / length
    return float(v @ m), float(n @ line), float(np.arctan2(np.cross(n, v) @ m, n @ m))


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _bin(value):  # pragma: no cover (compiled)
    return min(max(np.int64(np.floor(value * BINS)), 0), BINS - 1)


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _angle(y, x):  # pragma: no cover (compiled)
    """atan2(y, x) to 1e-7 rad: M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 4.4.49."""
    across, along = abs(y), abs(x)
    if across == 0.0 and along == 0.0:
        return 0.0
    r = min(across, along) / max(across, along)
    s = r * r
    p = ((0.0028662257 * s - 0.0161657367) * s + 0.0429096138) * s - 0.0752896400
    p = (((p * s + 0.1065626393) * s - 0.1420889944) * s + 0.1999355085) * s - 0.3333314528
    angle = r + r * s * p
    if across > along:
        angle = 0.5 * np.pi - angle
    if x < 0:
        angle = np.pi - angle
    return -angle if y < 0 else angle


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _spfh(points, normals, starts, beside, radius2, out):  # pragma: no cover (compiled)
    for c in numba.prange(beside.shape[0]):
        for i in range(starts[c], starts[c + 1]):
            count = 0
            for k in range(27):
                other = beside[c, k]
                if other < 0:
                    continue
                for j in range(starts[other], starts[other + 1]):
                    lx, ly, lz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
                    d2 = lx * lx + ly * ly + lz * lz
                    if d2 > radius2 or d2 == 0.0:
                        continue
                    count += 1
                    inverse = 1.0 / np.sqrt(d2)
                    lx, ly, lz = lx * inverse, ly * inverse, lz * inverse
                    nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
                    mx, my, mz = normals[j, 0], normals[j, 1], normals[j, 2]
                    phi, other_phi = nx * lx + ny * ly + nz * lz, mx * lx + my * ly + mz * lz
                    if abs(phi) < abs(other_phi):
                        nx, ny, nz, mx, my, mz = mx, my, mz, nx, ny, nz
                        lx, ly, lz = -lx, -ly, -lz
                        phi = -other_phi
                    vx, vy, vz = ly * nz - lz * ny, lz * nx - lx * nz, lx * ny - ly * nx
                    length = np.sqrt(vx * vx + vy * vy + vz * vz)
                    if length == 0.0:
                        alpha = theta = phi = 0.0
                    else:
                        alpha = (vx * mx + vy * my + vz * mz) / length
                        cosine = nx * mx + ny * my + nz * mz
                        # n x (l x n) = l - phi n: the third axis of the frame, times the length
                        theta = _angle(lx * mx + ly * my + lz * mz - phi * cosine, length * cosine)
                    out[i, _bin((theta + np.pi) / (2.0 * np.pi))] += np.float32(1)
                    out[i, BINS + _bin((alpha + 1.0) / 2.0)] += np.float32(1)
                    out[i, 2 * BINS + _bin((phi + 1.0) / 2.0)] += np.float32(1)
            if count > 0:
                percent = np.float32(100.0 / count)
                for d in range(DIM):
                    out[i, d] *= percent


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _sum_up(points, starts, beside, radius2, simple, out):  # pragma: no cover (compiled)
    for c in numba.prange(beside.shape[0]):
        for i in range(starts[c], starts[c + 1]):
            for k in range(27):
                other = beside[c, k]
                if other < 0:
                    continue
                for j in range(starts[other], starts[other + 1]):
                    lx, ly, lz = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
                    d2 = lx * lx + ly * ly + lz * lz
                    if d2 > radius2 or d2 == 0.0:
                        continue
                    weight = np.float32(1.0 / d2)
                    for d in range(DIM):
                        out[i, d] += weight * simple[j, d]
            for part in range(3):
                total = np.float32(0)
                for d in range(part * BINS, (part + 1) * BINS):
                    total += out[i, d]
                factor = np.float32(100) / total if total > 0 else np.float32(0)
                for d in range(part * BINS, (part + 1) * BINS):
                    out[i, d] = out[i, d] * factor + simple[i, d]
