"""Which triangle each ray meets first, by a bounding volume hierarchy.

I. Wald, "On fast construction of SAH-based bounding volume hierarchies", RT 2007: binned surface area heuristic;
T. Moeller and B. Trumbore, "Fast, minimum storage ray-triangle intersection", JGT 1997. Both sides of a triangle count;
among equal distances the lower number wins, so that the number of threads and the shape of the tree do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int32, Int64

from vision3d.sparse.threads import use_torch_threads

_LEAF = 4  # triangles that are not split any more
_BINS = 12
_DEPTH = 128  # of the traversal's stack
_CHUNK = 256  # rays of one task


@dataclass(frozen=True, slots=True)
class TriangleTree:
    """m triangles in the order of the leaves. numbers: of the triangles as they were given. bounds: least and largest
    x, y, z of the n nodes, the root first. children: of inner nodes (left, right), of leaves (-1 - first, count)."""

    corners: Float64[np.ndarray, "m 3 3"]
    numbers: Int32[np.ndarray, " m"]
    bounds: Float64[np.ndarray, "n 6"]
    children: Int32[np.ndarray, "n 2"]


def build_tree(corners: Float64[np.ndarray, "m 3 3"]) -> TriangleTree:
    """The hierarchy over triangles, in the unit of the corners. ValueError: a corner is not finite."""
    if not np.isfinite(corners).all():
        raise ValueError("a corner of a triangle is not finite")
    m = len(corners)
    bounds = np.empty((max(2 * m - 1, 1), 6))
    children = np.empty((len(bounds), 2), np.int32)
    if not m:
        bounds[0] = (np.inf, np.inf, np.inf, -np.inf, -np.inf, -np.inf)
        children[0] = (-1, 0)
        return TriangleTree(corners, np.zeros(0, np.int32), bounds, children)
    order = np.arange(m, dtype=np.int32)
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    nodes = _build(boxes, order, bounds, children)
    return TriangleTree(np.ascontiguousarray(corners[order]), order, bounds[:nodes], children[:nodes])


def first_triangles(
    tree: TriangleTree,
    origins: Float64[np.ndarray, "r 3"],
    directions: Float64[np.ndarray, "r 3"],
    farthest: float,
) -> tuple[Float64[np.ndarray, " r"], Int32[np.ndarray, " r"]]:
    """Per ray the distance in lengths of its direction (inf: nothing within `farthest`) and the triangle (-1: none)."""
    distance = np.full(len(origins), np.inf)
    triangle = np.full(len(origins), -1, np.int32)
    use_torch_threads()
    _first(
        np.ascontiguousarray(origins),
        np.ascontiguousarray(directions),
        farthest,
        tree.corners,
        tree.numbers,
        tree.bounds,
        tree.children,
        distance,
        triangle,
    )
    return distance, triangle


def first_triangles_slow(
    corners: Float64[np.ndarray, "m 3 3"],
    origins: Float64[np.ndarray, "r 3"],
    directions: Float64[np.ndarray, "r 3"],
    farthest: float,
) -> tuple[Float64[np.ndarray, " r"], Int32[np.ndarray, " r"]]:
    """The twin that tests compare with: every ray against every triangle."""
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    best, index = np.full(len(origins), np.inf), np.full(len(origins), -1, np.int32)
    for r, (origin, direction) in enumerate(zip(origins, directions, strict=True)):
        p = np.cross(direction, ac)
        determinant = (ab * p).sum(1)
        inverse = 1 / np.where(determinant == 0, 1, determinant)
        offset = origin - a
        u = (offset * p).sum(1) * inverse
        q = np.cross(offset, ab)
        v = (q * direction).sum(1) * inverse
        t = (ac * q).sum(1) * inverse
        meets = (determinant != 0) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t <= farthest)
        if meets.any():
            index[r] = np.argmin(np.where(meets, t, np.inf))
            best[r] = t[index[r]]
    return best, index


def rays_by_owner(
    tree: TriangleTree,
    owners: Int32[np.ndarray, " m"],
    count: int,
    origins: Float64[np.ndarray, "r 3"],
    directions: Float64[np.ndarray, "r 3"],
    farthest: float,
) -> Int64[np.ndarray, " count"]:
    """How many rays would meet each of `count` objects if it stood alone. owners: object of each triangle, as they
    were given to `build_tree`, 0 to count - 1."""
    tasks = (len(origins) + _CHUNK - 1) // _CHUNK
    partial = np.zeros((tasks, count), np.int64)
    if count and tasks:
        use_torch_threads()
        _alone(
            np.ascontiguousarray(origins),
            np.ascontiguousarray(directions),
            farthest,
            tree.corners,
            np.ascontiguousarray(owners[tree.numbers]),
            tree.bounds,
            tree.children,
            partial,
        )
    total: Int64[np.ndarray, " count"] = partial.sum(0)
    return total


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _build(boxes, order, bounds, children):  # pragma: no cover (compiled)
    """Fills bounds and children, sorts order by leaves, and returns the number of nodes."""
    stack = np.empty((2 * _DEPTH, 3), np.int32)
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, 0, order.shape[0]
    top, nodes = 1, 1
    low, high = np.empty(3), np.empty(3)
    bin_box = np.empty((_BINS, 6))
    bin_count = np.empty(_BINS, np.int64)
    left_cost = np.empty(_BINS)
    while top > 0:
        top -= 1
        node, first, last = stack[top, 0], stack[top, 1], stack[top, 2]
        box = bounds[node]
        for k in range(3):
            box[k], box[3 + k], low[k], high[k] = np.inf, -np.inf, np.inf, -np.inf
        for i in range(first, last):
            b = boxes[order[i]]
            for k in range(3):
                middle = b[k] + b[3 + k]
                box[k], box[3 + k] = min(box[k], b[k]), max(box[3 + k], b[3 + k])
                low[k], high[k] = min(low[k], middle), max(high[k], middle)
        axis = 0
        for k in range(1, 3):
            if high[k] - low[k] > high[axis] - low[axis]:
                axis = k
        extent = high[axis] - low[axis]
        count = last - first
        if count <= _LEAF or (extent <= 0 and count <= 64):
            children[node, 0], children[node, 1] = -1 - first, count
            continue
        split = first + count // 2
        if extent > 0 and top < _DEPTH:
            scale = _BINS * (1 - 1e-9) / extent
            bin_count[:] = 0
            for j in range(_BINS):
                for k in range(3):
                    bin_box[j, k], bin_box[j, 3 + k] = np.inf, -np.inf
            for i in range(first, last):
                b = boxes[order[i]]
                j = int((b[axis] + b[3 + axis] - low[axis]) * scale)
                bin_count[j] += 1
                for k in range(3):
                    bin_box[j, k], bin_box[j, 3 + k] = min(bin_box[j, k], b[k]), max(bin_box[j, 3 + k], b[3 + k])
            _sweep(bin_box, bin_count, left_cost)
            best, chosen = np.inf, 1
            for j in range(1, _BINS):
                if left_cost[j] < best:
                    best, chosen = left_cost[j], j
            i, j = first, last - 1
            while i <= j:
                b = boxes[order[i]]
                if int((b[axis] + b[3 + axis] - low[axis]) * scale) < chosen:
                    i += 1
                else:
                    order[i], order[j] = order[j], order[i]
                    j -= 1
            if first < i < last:
                split = i
        children[node, 0], children[node, 1] = nodes, nodes + 1
        stack[top, 0], stack[top, 1], stack[top, 2] = nodes + 1, split, last
        stack[top + 1, 0], stack[top + 1, 1], stack[top + 1, 2] = nodes, first, split
        top += 2
        nodes += 2
    return nodes


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _sweep(bin_box, bin_count, cost):  # pragma: no cover (compiled)
    """cost[j]: area times number of the bins below j plus the same of the others; inf where one side is empty."""
    cost[:] = np.inf
    box = np.empty(6)
    for side in range(2):
        total = 0
        for k in range(3):
            box[k], box[3 + k] = np.inf, -np.inf
        for step in range(_BINS - 1):
            j = step if side == 0 else _BINS - 1 - step
            total += bin_count[j]
            for k in range(3):
                box[k], box[3 + k] = min(box[k], bin_box[j, k]), max(box[3 + k], bin_box[j, 3 + k])
            dx, dy, dz = box[3] - box[0], box[4] - box[1], box[5] - box[2]
            part = np.inf if total == 0 else total * (dx * dy + dy * dz + dz * dx)
            if side == 0:
                cost[j + 1] = part
            else:
                cost[j] += part


@numba.njit(cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _enters(box, ox, oy, oz, ix, iy, iz, farthest):  # pragma: no cover (compiled)
    """Distance at which the ray enters a box, inf if it misses it or enters beyond `farthest`."""
    x0, x1 = (box[0] - ox) * ix, (box[3] - ox) * ix
    y0, y1 = (box[1] - oy) * iy, (box[4] - oy) * iy
    z0, z1 = (box[2] - oz) * iz, (box[5] - oz) * iz
    near = max(max(min(x0, x1), min(y0, y1)), max(min(z0, z1), 0.0))
    far = min(min(max(x0, x1), max(y0, y1)), min(max(z0, z1), farthest))
    # A flat box or one that the ray grazes must not be lost to rounding.
    return near if near <= far + 1e-9 * (1 + abs(far)) else np.inf


@numba.njit(cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _meets(c, ox, oy, oz, dx, dy, dz):  # pragma: no cover (compiled)
    """Distance to a triangle, inf if the ray misses it."""
    ux, uy, uz = c[1, 0] - c[0, 0], c[1, 1] - c[0, 1], c[1, 2] - c[0, 2]
    vx, vy, vz = c[2, 0] - c[0, 0], c[2, 1] - c[0, 1], c[2, 2] - c[0, 2]
    px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
    determinant = ux * px + uy * py + uz * pz
    if determinant == 0:
        return np.inf
    inverse = 1 / determinant
    sx, sy, sz = ox - c[0, 0], oy - c[0, 1], oz - c[0, 2]
    u = (sx * px + sy * py + sz * pz) * inverse
    if u < 0 or u > 1:
        return np.inf
    qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
    v = (qx * dx + qy * dy + qz * dz) * inverse
    if v < 0 or u + v > 1:
        return np.inf
    t = (vx * qx + vy * qy + vz * qz) * inverse
    return t if t > 0 else np.inf


@numba.njit(cache=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _inverse(x):  # pragma: no cover (compiled)
    """1/x, large instead of infinite: 0 times it stays 0."""
    return 1 / x if abs(x) > 1e-200 else 1e200


@numba.njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _first(
    origins, directions, farthest, corners, numbers, bounds, children, distance, triangle
):  # pragma: no cover (compiled)
    rays = origins.shape[0]
    for task in numba.prange((rays + _CHUNK - 1) // _CHUNK):
        stack = np.empty(_DEPTH * 2, np.int32)
        entry = np.empty(_DEPTH * 2)
        for r in range(task * _CHUNK, min(rays, (task + 1) * _CHUNK)):
            ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
            dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
            ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
            best, found = np.inf, -1
            limit = farthest
            top = 0
            start = _enters(bounds[0], ox, oy, oz, ix, iy, iz, limit)
            if start < np.inf:
                stack[0], entry[0], top = 0, start, 1
            while top > 0:
                top -= 1
                node = stack[top]
                if entry[top] > limit:
                    continue
                a, b = children[node, 0], children[node, 1]
                if a < 0:
                    for i in range(-1 - a, -1 - a + b):
                        t = _meets(corners[i], ox, oy, oz, dx, dy, dz)
                        if t <= farthest and (t < best or (t == best and numbers[i] < found)):
                            best, found = t, numbers[i]
                            limit = t * (1 + 1e-12)
                    continue
                near_a = _enters(bounds[a], ox, oy, oz, ix, iy, iz, limit)
                near_b = _enters(bounds[b], ox, oy, oz, ix, iy, iz, limit)
                if near_a > near_b:
                    a, b, near_a, near_b = b, a, near_b, near_a
                if near_b < np.inf:
                    stack[top], entry[top] = b, near_b
                    top += 1
                if near_a < np.inf:
                    stack[top], entry[top] = a, near_a
                    top += 1
            distance[r], triangle[r] = best, found


@numba.njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _alone(origins, directions, farthest, corners, owners, bounds, children, partial):  # pragma: no cover (compiled)
    rays, count = origins.shape[0], partial.shape[1]
    for task in numba.prange(partial.shape[0]):
        stack = np.empty(_DEPTH * 2, np.int32)
        last_ray = np.full(count, -1, np.int64)
        for r in range(task * _CHUNK, min(rays, (task + 1) * _CHUNK)):
            ox, oy, oz = origins[r, 0], origins[r, 1], origins[r, 2]
            dx, dy, dz = directions[r, 0], directions[r, 1], directions[r, 2]
            ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
            stack[0], top = 0, 1
            while top > 0:
                top -= 1
                node = stack[top]
                if not _enters(bounds[node], ox, oy, oz, ix, iy, iz, farthest) < np.inf:
                    continue
                a, b = children[node, 0], children[node, 1]
                if a >= 0:
                    stack[top], stack[top + 1] = a, b
                    top += 2
                    continue
                for i in range(-1 - a, -1 - a + b):
                    o = owners[i]
                    if last_ray[o] != r and _meets(corners[i], ox, oy, oz, dx, dy, dz) <= farthest:
                        last_ray[o] = r
                        partial[task, o] += 1
