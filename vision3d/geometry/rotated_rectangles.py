"""Exact overlap of rotated rectangles: one rectangle clipped by the other's four sides, in its own frame.

Sutherland and Hodgman, "Reentrant polygon clipping", CACM 1974; the area by the shoelace formula. A rectangle is
(x, y, length, width, yaw): yaw in rad turns +x towards +y, length lies along x at yaw 0. Everything is float64 and
relative to one rectangle's centre, so that far from the origin nothing is lost but what the coordinates themselves
lack. Rectangles whose length or width is not positive overlap with nothing. NumPy arrays only, without torch.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int64

_NJIT = numba.njit(cache=True, nogil=True, error_model="numpy")


def intersection_areas(a: Float64[np.ndarray, "n 5"], b: Float64[np.ndarray, "m 5"]) -> Float64[np.ndarray, "n m"]:
    """Area that each rectangle of a shares with each of b, in squared units of the coordinates."""
    out = np.zeros((len(a), len(b)))
    _all_areas(np.ascontiguousarray(a), np.ascontiguousarray(b), out)
    return out


def overlaps(a: Float64[np.ndarray, "n 5"], b: Float64[np.ndarray, "m 5"]) -> Float64[np.ndarray, "n m"]:
    """Intersection over union of each rectangle of a with each of b, in [0, 1]; 0 where either has no area."""
    inter = intersection_areas(a, b)
    union = rectangle_areas(a)[:, None] + rectangle_areas(b) - inter
    out = np.zeros_like(inter)
    np.divide(inter, union, out=out, where=union > 0)
    out.clip(max=1, out=out)
    return out


def rectangle_areas(a: Float64[np.ndarray, "n 5"]) -> Float64[np.ndarray, " n"]:
    """length x width, 0 where one is not positive."""
    out: np.ndarray = np.maximum(a[:, 2], 0) * np.maximum(a[:, 3], 0)
    return out


def suppress(
    a: Float64[np.ndarray, "n 5"], order: Int64[np.ndarray, " k"], most: float, limit: int | None = None
) -> Int64[np.ndarray, " j"]:
    """Greedy non-maximum suppression: walks `order`, keeps what overlaps nothing kept by more than `most` (IoU).

    limit: stops as soon as so many are kept.
    """
    kept = np.empty(len(order) if limit is None else min(limit, len(order)), np.int64)
    count = _suppress(np.ascontiguousarray(a), np.ascontiguousarray(order), most, kept)
    return kept[:count]


def intersection_areas_slow(a: Float64[np.ndarray, "n 5"], b: Float64[np.ndarray, "m 5"]) -> Float64[np.ndarray, "n m"]:
    """The twin that tests compare with, by another method: the hull of corners inside and of crossings of sides."""
    return np.array([[_area_slow(p, q) for q in b] for p in a]).reshape(len(a), len(b))


def corners(a: Float64[np.ndarray, "n 5"]) -> Float64[np.ndarray, "n 4 2"]:
    """The corners, counterclockwise for x to the right and y up, from the front left one on."""
    signs = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
    local = signs * a[:, None, 2:4]
    c, s = np.cos(a[:, 4]), np.sin(a[:, 4])
    turn = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    out: np.ndarray = np.einsum("nij,nkj->nki", turn, local) + a[:, None, :2]
    return out


def _area_slow(p: np.ndarray, q: np.ndarray) -> float:
    if min(p[2], p[3], q[2], q[3]) <= 0:
        return 0.0
    pair = np.stack([p, q])
    pair[:, :2] -= p[:2]
    one, two = corners(pair)
    points = [corner for corner in one if _inside(corner, two)] + [corner for corner in two if _inside(corner, one)]
    for i in range(4):
        for j in range(4):
            start, end = one[i], one[(i + 1) % 4]
            other, last = two[j], two[(j + 1) % 4]
            u, v = end - start, last - other
            cross = u[0] * v[1] - u[1] * v[0]
            if abs(cross) <= 1e-14 * float(np.hypot(*u) * np.hypot(*v)):  # parallel: the corners say it all
                continue
            w = other - start
            s, t = (w[0] * v[1] - w[1] * v[0]) / cross, (w[0] * u[1] - w[1] * u[0]) / cross
            if 0 <= s <= 1 and 0 <= t <= 1:
                points.append(start + s * u)
    if len(points) < 3:
        return 0.0
    polygon = np.stack(points)
    polygon = polygon - polygon.mean(0)
    x, y = polygon[np.argsort(np.arctan2(polygon[:, 1], polygon[:, 0]))].T
    return float(0.5 * np.abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)))


def _inside(point: np.ndarray, polygon: np.ndarray) -> bool:
    side = np.roll(polygon, -1, axis=0) - polygon
    to = point - polygon
    scale = float(np.abs(polygon).max())
    return bool((side[:, 0] * to[:, 1] - side[:, 1] * to[:, 0] >= -1e-13 * scale * scale).all())


@_NJIT  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def shared_area(ax, ay, al, aw, ayaw, bx, by, bl, bw, byaw):  # pragma: no cover (compiled)
    """Area of the intersection of two rectangles, for use in other kernels."""
    if not (al > 0 and aw > 0 and bl > 0 and bw > 0):
        return 0.0
    dx, dy = bx - ax, by - ay
    reach = 0.5 * (math.sqrt(al * al + aw * aw) + math.sqrt(bl * bl + bw * bw))
    if dx * dx + dy * dy >= reach * reach:
        return 0.0
    # The corners of b in a's frame, where a is [-al/2, al/2] x [-aw/2, aw/2].
    ca, sa = math.cos(ayaw), math.sin(ayaw)
    cr, sr = math.cos(byaw - ayaw), math.sin(byaw - ayaw)
    cx, cy = ca * dx + sa * dy, -sa * dx + ca * dy
    polygon = np.empty((2, 24, 2))  # a clip adds one corner; by rounding, half of them at worst
    for k in range(4):
        u = 0.5 * bl if k == 0 or k == 3 else -0.5 * bl
        v = 0.5 * bw if k < 2 else -0.5 * bw
        polygon[0, k, 0] = cx + cr * u - sr * v
        polygon[0, k, 1] = cy + sr * u + cr * v
    count, now = 4, 0
    for side in range(4):
        axis = side // 2
        sign = 1.0 if side % 2 == 0 else -1.0
        limit = 0.5 * al if axis == 0 else 0.5 * aw
        new = 0
        for k in range(count):
            follower = k + 1 if k + 1 < count else 0
            d0 = limit - sign * polygon[now, k, axis]
            d1 = limit - sign * polygon[now, follower, axis]
            if d0 >= 0:
                polygon[1 - now, new, 0] = polygon[now, k, 0]
                polygon[1 - now, new, 1] = polygon[now, k, 1]
                new += 1
            if (d0 > 0 and d1 < 0) or (d0 < 0 and d1 > 0):
                t = d0 / (d0 - d1)
                other = 1 - axis
                polygon[1 - now, new, axis] = sign * limit
                polygon[1 - now, new, other] = polygon[now, k, other] + t * (
                    polygon[now, follower, other] - polygon[now, k, other]
                )
                new += 1
        now = 1 - now
        count = new
        if count < 3:
            return 0.0
    total = 0.0
    for k in range(1, count - 1):
        x0, y0 = polygon[now, 0, 0], polygon[now, 0, 1]
        total += (polygon[now, k, 0] - x0) * (polygon[now, k + 1, 1] - y0)
        total -= (polygon[now, k + 1, 0] - x0) * (polygon[now, k, 1] - y0)
    return max(0.5 * total, 0.0)


@_NJIT  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _all_areas(a, b, out):  # pragma: no cover (compiled)
    for i in range(a.shape[0]):
        for j in range(b.shape[0]):
            out[i, j] = shared_area(
                a[i, 0], a[i, 1], a[i, 2], a[i, 3], a[i, 4], b[j, 0], b[j, 1], b[j, 2], b[j, 3], b[j, 4]
            )


@_NJIT  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _suppress(a, order, most, kept):  # pragma: no cover (compiled)
    count = 0
    for index in order:
        if count == kept.shape[0]:
            break
        area = max(a[index, 2], 0.0) * max(a[index, 3], 0.0)
        free = True
        for k in range(count):
            j = kept[k]
            inter = shared_area(
                a[j, 0], a[j, 1], a[j, 2], a[j, 3], a[j, 4],
                a[index, 0], a[index, 1], a[index, 2], a[index, 3], a[index, 4],
            )  # fmt: skip
            if inter > most * (area + a[j, 2] * a[j, 3] - inter):
                free = False
                break
        if free:
            kept[count] = index
            count += 1
    return count
