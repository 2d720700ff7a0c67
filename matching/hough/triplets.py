"""Triplets of compatible matches and the rigid motion of each, in closed form.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, section 3.2, draws triplets at random and
keeps those with equal edges; here edges are known beforehand and only compatible triplets are drawn.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int, UInt64

from vision3d.matching.hough.compatibility import compatible_pairs, ones, shared_ones
from vision3d.sparse.threads import use_torch_threads


def draw_triplets(
    bits: UInt64[np.ndarray, "n words"], most: int, seed: int
) -> tuple[Int[np.ndarray, "t 3"], Float[np.ndarray, " t"]]:
    """At most `most` triplets of matches that are compatible with each other, and their weights.

    Pairs are drawn in proportion to the square of the number of partners they share, evenly spread; the third match is
    any of these partners. The weight of a triplet is the least number of partners that two of it share.
    """
    pairs, shared = compatible_pairs(bits)
    weights = shared.astype(np.float64) ** 2
    total = float(weights.sum())
    if total == 0:
        return np.zeros((0, 3), np.int32), np.zeros(0)
    quota = weights * (most / total)
    start = float(np.random.default_rng(seed).random())
    edges = np.floor(np.cumsum(quota) + start).astype(np.int64)
    draws = np.minimum(np.diff(edges, prepend=int(np.floor(start))), shared)
    chosen = np.flatnonzero(draws)
    starts = np.concatenate([[0], np.cumsum(draws[chosen])])
    triplets, strength = np.empty((starts[-1], 3), np.int32), np.empty(starts[-1])
    use_torch_threads()
    _draw(bits, pairs[chosen], shared[chosen], starts, np.uint64(seed), triplets, strength)
    return triplets, strength


def triplet_poses(
    points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], triplets: Int[np.ndarray, "t 3"]
) -> tuple[Float[np.ndarray, "t 3 3"], Float[np.ndarray, "t 3"], Float[np.ndarray, " t"]]:
    """Least-squares rotation and translation of each triplet (1 from 0), and the lowest height of its two triangles.

    Both triangles are planar: the best motion brings plane to plane, orientation to orientation, and turns by the angle
    of the summed two-dimensional products. That is Kabsch's solution for three points, without a decomposition.
    Triangles without area get the identity and height 0.
    """
    rotations, translations = np.zeros((len(triplets), 3, 3)), np.zeros((len(triplets), 3))
    heights = np.zeros(len(triplets))
    use_torch_threads()
    _poses(points0, points1, triplets, rotations, translations, heights)
    return rotations, translations, heights


def triplet_poses_slow(
    points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], triplets: Int[np.ndarray, "t 3"]
) -> tuple[Float[np.ndarray, "t 3 3"], Float[np.ndarray, "t 3"]]:
    """The same motions by singular value decompositions (W. Kabsch, Acta Cryst. 1976)."""
    p, q = points0[triplets], points1[triplets]
    p0, q0 = p.mean(1), q.mean(1)
    u, _, vt = np.linalg.svd(np.einsum("tki,tkj->tij", q - q0[:, None], p - p0[:, None]))
    sign = np.ones((len(p), 3))
    sign[:, 2] = np.linalg.det(u @ vt)
    rotations = (u * sign[:, None, :]) @ vt
    return rotations, q0 - np.einsum("tij,tj->ti", rotations, p0)


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _draw(bits, pairs, shared, starts, seed, triplets, strength):  # pragma: no cover (compiled)
    """Of the partners that pair p shares, every so many-th from a start that depends on the pair and the seed."""
    for p in numba.prange(pairs.shape[0]):
        i, j = pairs[p, 0], pairs[p, 1]
        wanted = starts[p + 1] - starts[p]
        mixed = (np.uint64(p) + seed * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
        offset = np.int64((mixed >> np.uint64(33)) % np.uint64(shared[p]))
        for taken in range(wanted):
            # partner number `rank`, evenly spread around the circle from the offset
            rank = (((taken + 1) * shared[p] + wanted - 1) // wanted - 1 + offset) % shared[p]
            w = 0
            word = bits[i, w] & bits[j, w]
            while ones(word) <= rank:
                rank -= ones(word)
                w += 1
                word = bits[i, w] & bits[j, w]
            for _ in range(rank):
                word &= word - np.uint64(1)  # without its lowest one
            k = 64 * w + ones((word & (~word + np.uint64(1))) - np.uint64(1))
            at = starts[p] + taken
            triplets[at, 0], triplets[at, 1], triplets[at, 2] = i, j, k
            least = min(shared_ones(bits, i, k), shared_ones(bits, j, k))
            strength[at] = min(least, shared[p])


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _frame(points, i, j, k, out):  # pragma: no cover (compiled)
    """Writes rows: the first edge's direction, the one across it in the triangle's plane, the normal, the centroid.
    Returns twice the area and the longest edge; the area is 0 where there is no plane."""
    ex, ey, ez = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2]
    fx, fy, fz = points[k, 0] - points[i, 0], points[k, 1] - points[i, 1], points[k, 2] - points[i, 2]
    nx, ny, nz = ey * fz - ez * fy, ez * fx - ex * fz, ex * fy - ey * fx
    area = np.sqrt(nx * nx + ny * ny + nz * nz)
    edge = np.sqrt(ex * ex + ey * ey + ez * ez)
    gx, gy, gz = fx - ex, fy - ey, fz - ez
    longest = max(edge, np.sqrt(fx * fx + fy * fy + fz * fz), np.sqrt(gx * gx + gy * gy + gz * gz))
    if area <= 1e-12 * longest * longest or edge == 0.0:
        return 0.0, longest
    out[0, 0], out[0, 1], out[0, 2] = ex / edge, ey / edge, ez / edge
    out[2, 0], out[2, 1], out[2, 2] = nx / area, ny / area, nz / area
    out[1, 0] = out[2, 1] * out[0, 2] - out[2, 2] * out[0, 1]
    out[1, 1] = out[2, 2] * out[0, 0] - out[2, 0] * out[0, 2]
    out[1, 2] = out[2, 0] * out[0, 1] - out[2, 1] * out[0, 0]
    for d in range(3):
        out[3, d] = (points[i, d] + points[j, d] + points[k, d]) / 3.0
    return area, longest


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _poses(points0, points1, triplets, rotations, translations, heights):  # pragma: no cover (compiled)
    for t in numba.prange(triplets.shape[0]):
        a, b = np.empty((4, 3)), np.empty((4, 3))
        i, j, k = triplets[t, 0], triplets[t, 1], triplets[t, 2]
        area0, longest0 = _frame(points0, i, j, k, a)
        area1, longest1 = _frame(points1, i, j, k, b)
        if area0 == 0.0 or area1 == 0.0:
            for d in range(3):
                rotations[t, d, d] = 1.0
            continue
        heights[t] = min(area0 / longest0, area1 / longest1)
        dot = cross = 0.0
        for m in (i, j, k):
            x = y = u = v = 0.0
            for d in range(3):
                p, q = points0[m, d] - a[3, d], points1[m, d] - b[3, d]
                x += p * a[0, d]
                y += p * a[1, d]
                u += q * b[0, d]
                v += q * b[1, d]
            dot += x * u + y * v
            cross += x * v - y * u
        length = np.sqrt(dot * dot + cross * cross)
        c, s = dot / length, cross / length
        for r in range(3):
            e0, e1 = c * b[0, r] + s * b[1, r], c * b[1, r] - s * b[0, r]
            moved = 0.0
            for d in range(3):
                rotations[t, r, d] = e0 * a[0, d] + e1 * a[1, d] + b[2, r] * a[2, d]
                moved += rotations[t, r, d] * a[3, d]
            translations[t, r] = b[3, r] - moved
