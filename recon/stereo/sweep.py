"""One red-black sweep of PatchMatch stereo: every pixel of one colour tries its neighbours' planes and random changes.

Galliani, Lasinger, Schindler, "Massively Parallel Multiview Stereopsis by Surface Normal Diffusion", ICCV 2015,
section 4; the geometric term is Schoenberger et al., ECCV 2016, equation 12 (forward-backward reprojection error).
A pixel reads planes of the other colour only and writes its own, so the order of the work does not matter.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.recon.stereo.ncc import SAMPLES, WORST, load_window, plane_cost

MAX_SOURCES = 8
STEEP = 0.17  # cosine between normal and ray below which planes are not tried (80 degrees)
MAX_GEOMETRIC_PX = 3.0
OTHERS = 0.2  # weight of the worse half of the sources, where a surface may be hidden


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def random01(x, y, salt, counter):  # pragma: no cover (compiled)
    """A number in [0, 1) that depends on its arguments alone: SplitMix64's finaliser of a key made of them."""
    z = np.uint64(x) ^ np.uint64(y) << np.uint64(20)
    z ^= np.uint64(salt) << np.uint64(40) ^ np.uint64(counter) << np.uint64(56)
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.float32(z >> np.uint64(40)) * np.float32(1 / (1 << 24))


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def slopes(w, nx, ny, nz, ray_x, ray_y, fx, fy):  # pragma: no cover (compiled)
    """Derivatives (a, b) per px of the inverse depth of a plane with this normal through this pixel."""
    factor = w / (nx * ray_x + ny * ray_y + nz)
    return nx * factor / fx, ny * factor / fy


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def normal_of(w, a, b, ray_x, ray_y, fx, fy):  # pragma: no cover (compiled)
    """Unit normal in the camera frame, facing the camera (its product with the ray (x, y, 1) is negative)."""
    nx = a * fx
    ny = b * fy
    nz = w - nx * ray_x - ny * ray_y
    factor = -np.float32(1) / max(np.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-20))
    return nx * factor, ny * factor, nz * factor


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def geometric_error(other, sizes, warps, backs, source, x, y, w):  # pragma: no cover (compiled)
    """px between a pixel and itself after going to a source at inverse depth w and back at the source's own depth."""
    one = np.float32(1)
    far = np.float32(MAX_GEOMETRIC_PX)
    z = warps[source, 6] * x + warps[source, 7] * y + warps[source, 8] + warps[source, 11] * w
    if not (z > np.float32(1e-6)):
        return far
    inverse = one / z
    u = (warps[source, 0] * x + warps[source, 1] * y + warps[source, 2] + warps[source, 9] * w) * inverse
    v = (warps[source, 3] * x + warps[source, 4] * y + warps[source, 5] + warps[source, 10] * w) * inverse
    if not (u > -0.5 and v > -0.5 and u < sizes[source, 0] - 0.5 and v < sizes[source, 1] - 0.5):
        return far
    w_other = other[sizes[source, 2] + np.int64(v + np.float32(0.5)) * sizes[source, 0] + np.int64(u + np.float32(0.5))]
    if not (w_other > 0):
        return far
    z = backs[source, 6] * u + backs[source, 7] * v + backs[source, 8] + backs[source, 11] * w_other
    if not (z > np.float32(1e-6)):
        return far
    inverse = one / z
    du = (backs[source, 0] * u + backs[source, 1] * v + backs[source, 2] + backs[source, 9] * w_other) * inverse - x
    dv = (backs[source, 3] * u + backs[source, 4] * v + backs[source, 5] + backs[source, 10] * w_other) * inverse - y
    return min(np.sqrt(du * du + dv * dv), far)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def total_cost(
    quads, sizes, warps, backs, other, geometric, x, y, w, a, b, value, weight, variance, best, limit
):  # pragma: no cover (compiled)
    """Mean over the better half of the sources (one of two, two of three), the others counting OTHERS of that.

    The half is of the sources whose picture holds the point: what a single source shows is matched in that one.
    geometric: cost per px of forward-backward error (0: photometric only). best: room for the costs.
    limit: sources that cannot bring the total under it any more are left out.
    """
    count = sizes.shape[0]
    inside = count
    kept = (count + 1) // 2
    norm = np.float32(kept) + np.float32(OTHERS) * np.float32(count - kept)
    total = np.float32(0)
    for s in range(count):
        best[s] = plane_cost(quads, sizes, warps, s, x, y, w, a, b, value, weight, variance)
        if best[s] >= WORST:
            inside -= 1
            kept = max(1, (inside + 1) // 2)
            norm = np.float32(kept) + np.float32(OTHERS) * np.float32(count - kept)
        # Were the costs of all sources to come 0, these would take the last places.
        total = _weighted(best, s + 1, count, kept)
        if total >= limit * norm:
            return total / norm
    if geometric > 0:
        for s in range(count):
            best[s] += geometric * geometric_error(other, sizes, warps, backs, s, x, y, w)
        total = _weighted(best, count, count, kept)
    return total / norm


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _weighted(costs, known, count, kept):  # pragma: no cover (compiled)
    """Sum of the first `known` costs and of zeros for the rest, the `kept` smallest in full, the others by OTHERS."""
    total = np.float32(0)
    for i in range(known):
        rank = count - known
        for j in range(known):
            if costs[j] < costs[i] or (costs[j] == costs[i] and j < i):
                rank += 1
        total += costs[i] if rank < kept else np.float32(OTHERS) * costs[i]
    return total


@numba.njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def start(grey, mask, quads, sizes, warps, backs, other, geometric, camera, low, high, salt, planes, cost, fresh):
    """Costs of all pixels; with `fresh`, of random planes drawn between inverse depths low and high.

    planes [3, h, w], cost [h, w] are written. camera: fx, fy, cx, cy with pixel centres at whole numbers.
    """
    height, width = grey.shape
    fx, fy, cx, cy = camera
    for row in numba.prange(height):
        y = np.int64(row)  # prange counts without sign, and that mixed with signed numbers makes floats
        value = np.empty(SAMPLES, np.float32)
        weight = np.empty(SAMPLES, np.float32)
        best = np.empty(MAX_SOURCES, np.float32)
        ray_y = (np.float32(y) - cy) / fy
        for x in range(width):
            if not mask[y, x]:
                cost[y, x] = WORST
                continue
            if fresh:
                ray_x = (np.float32(x) - cx) / fx
                w = low + (high - low) * random01(x, y, salt, 0)
                nx = np.float32(1.4) * (random01(x, y, salt, 1) - np.float32(0.5))
                ny = np.float32(1.4) * (random01(x, y, salt, 2) - np.float32(0.5))
                a, b = slopes(w, nx, ny, np.float32(-1), ray_x, ray_y, fx, fy)
                if not (nx * ray_x + ny * ray_y - 1 < 0):
                    a = np.float32(0)
                    b = np.float32(0)
                planes[0, y, x] = w
                planes[1, y, x] = a
                planes[2, y, x] = b
            variance = load_window(grey, x, y, value, weight)
            cost[y, x] = total_cost(
                quads, sizes, warps, backs, other, geometric, np.float32(x), np.float32(y),
                planes[0, y, x], planes[1, y, x], planes[2, y, x], value, weight, variance, best, np.float32(1e9),
            )  # fmt: skip


@numba.njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def sweep(
    grey, mask, quads, sizes, warps, backs, other, geometric, camera, low, high,
    color, directions, reach, depth_step, normal_step, restarts, salt, planes, cost,
):  # fmt: skip
    """Improves planes and cost of the pixels of one color (x + y odd or even) in place.

    directions: 4, or 8 to also try planes from 3 to `reach` px away (odd). depth_step: largest change of inverse
    depth, normal_step: of the unit normal's coordinates. restarts: random planes tried.
    """
    height, width = grey.shape
    fx, fy, cx, cy = camera
    for row in numba.prange(height):
        y = np.int64(row)  # prange counts without sign, and that mixed with signed numbers makes floats
        value = np.empty(SAMPLES, np.float32)
        weight = np.empty(SAMPLES, np.float32)
        best = np.empty(MAX_SOURCES, np.float32)
        yf = np.float32(y)
        ray_y = (yf - cy) / fy
        for x in range((y + color) % 2, width, 2):
            if not mask[y, x]:
                continue
            xf = np.float32(x)
            ray_x = (xf - cx) / fx
            ray_length = np.sqrt(ray_x * ray_x + ray_y * ray_y + np.float32(1))
            variance = load_window(grey, x, y, value, weight)
            w, a, b, c = planes[0, y, x], planes[1, y, x], planes[2, y, x], cost[y, x]
            # Four directions, in each the neighbour at 1 px and the best of those further away.
            for direction in range(directions):
                horizontal = direction % 4 < 2
                sign = 1 - 2 * (direction % 2)
                found = np.float32(10)
                qx = -1
                qy = -1
                first = 1 if direction < 4 else 3
                last = 1 if direction < 4 else reach
                for distance in range(first, last + 1, 2):
                    px = x + sign * distance if horizontal else x
                    py = y if horizontal else y + sign * distance
                    if 0 <= px < width and 0 <= py < height and mask[py, px] and cost[py, px] < found:
                        found = cost[py, px]
                        qx = px
                        qy = py
                if qx < 0:
                    continue
                a2, b2 = planes[1, qy, qx], planes[2, qy, qx]
                w2 = planes[0, qy, qx] + a2 * np.float32(x - qx) + b2 * np.float32(y - qy)
                if not (low <= w2 <= high):
                    continue
                c2 = total_cost(
                    quads, sizes, warps, backs, other, geometric, xf, yf, w2, a2, b2, value, weight, variance, best, c
                )
                if c2 < c:
                    w, a, b, c = w2, a2, b2, c2
            # Changes of depth alone, normal alone, both; then planes from nowhere.
            for trial in range(3 + restarts):
                n = trial * 5
                r0 = 2 * random01(x, y, salt, n) - np.float32(1)
                r1 = 2 * random01(x, y, salt, n + 1) - np.float32(1)
                r2 = 2 * random01(x, y, salt, n + 2) - np.float32(1)
                r3 = 2 * random01(x, y, salt, n + 3) - np.float32(1)
                nx, ny, nz = normal_of(w, a, b, ray_x, ray_y, fx, fy)
                w2 = w
                if trial >= 3:
                    w2 = low + (high - low) * random01(x, y, salt, n)
                    nx, ny, nz = np.float32(0.7) * r1, np.float32(0.7) * r2, np.float32(-1)
                else:
                    if trial != 1:
                        w2 = w + depth_step * r0
                    if trial != 0:
                        nx += normal_step * r1
                        ny += normal_step * r2
                        nz += normal_step * r3
                if not (low <= w2 <= high):
                    continue
                facing = -(nx * ray_x + ny * ray_y + nz)
                if not (facing > np.float32(STEEP) * ray_length * np.sqrt(nx * nx + ny * ny + nz * nz)):
                    continue
                a2, b2 = slopes(w2, nx, ny, nz, ray_x, ray_y, fx, fy)
                c2 = total_cost(
                    quads, sizes, warps, backs, other, geometric, xf, yf, w2, a2, b2, value, weight, variance, best, c
                )
                if c2 < c:
                    w, a, b, c = w2, a2, b2, c2
            planes[0, y, x] = w
            planes[1, y, x] = a
            planes[2, y, x] = b
            cost[y, x] = c
