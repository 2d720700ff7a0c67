"""Which pixels of a view already show an accepted surfel of another view: each patch of surface is sampled once."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

COVERED = 0.75  # of the spacing: disks of that radius on a square grid leave no gaps


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def mark_covered(points, spacings, matrix, focal, depth, tolerance, covered):  # pragma: no cover (compiled)
    """Marks pixels of `covered` [h, w] around every projected point whose depth agrees with the view's.

    points [n, 3] in the world; spacings [n]: distance to its own neighbours, scene unit: COVERED times that is covered.
    matrix [3, 4]: world to homogeneous px. depth: of the view. tolerance: relative difference of depths that agree.
    """
    height, width = depth.shape
    for k in range(points.shape[0]):
        x, y, z = points[k, 0], points[k, 1], points[k, 2]
        zc = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if zc <= 0:
            continue
        u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / zc
        v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / zc
        if not (-8 < u < width + 8 and -8 < v < height + 8):
            continue
        radius = min(COVERED * spacings[k] * focal / zc, 64.0)
        for r in range(max(0, np.int64(np.floor(v - radius))), min(height, np.int64(np.floor(v + radius)) + 1)):
            for c in range(max(0, np.int64(np.floor(u - radius))), min(width, np.int64(np.floor(u + radius)) + 1)):
                dx, dy = c + 0.5 - u, r + 0.5 - v
                if dx * dx + dy * dy > max(radius * radius, 0.3):
                    continue
                if depth[r, c] > 0 and abs(depth[r, c] - zc) <= tolerance * zc:
                    covered[r, c] = True


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def before_surface(points, radii, matrix, focal, depth, tolerance, count):  # pragma: no cover (compiled)
    """Adds 1 to count [n] where a disk lies in space that the view sees through: before its accepted depth.

    Tried at the middle and, with a radius [n] (scene unit) over 0, at four places on the rim.
    """
    height, width = depth.shape
    for k in range(points.shape[0]):
        x, y, z = points[k, 0], points[k, 1], points[k, 2]
        zc = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if zc <= 0:
            continue
        u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / zc
        v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / zc
        radius = radii[k] * focal / zc
        for place in range(5 if radii[k] > 0 else 1):
            uu = u + (radius if place == 1 else -radius if place == 2 else 0.0)
            vv = v + (radius if place == 3 else -radius if place == 4 else 0.0)
            if 0 <= uu < width and 0 <= vv < height:
                d = depth[np.int64(vv), np.int64(uu)]
                if d > 0 and zc < (1 - tolerance) * d:
                    count[k] += 1
                    break


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def compare_colors(points, colors, own, index, matrix, rgb, depth, limit, seen, strange):  # pragma: no cover (compiled)
    """Counts per point the views that would see it, and those that see another color (by over `limit` in a channel).

    The view `index` itself is left out; a view does not see what lies behind its depth. rgb [3, h, w].
    """
    height, width = depth.shape
    for k in range(points.shape[0]):
        if own[k] == index:
            continue
        x, y, z = points[k, 0], points[k, 1], points[k, 2]
        zc = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        if zc <= 0:
            continue
        u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) / zc
        v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) / zc
        if not (0 <= u < width and 0 <= v < height):
            continue
        r, c = np.int64(v), np.int64(u)
        if depth[r, c] > 0 and zc > depth[r, c]:
            continue
        seen[k] += 1
        for channel in range(3):
            if abs(rgb[channel, r, c] - colors[k, channel]) > limit:
                strange[k] += 1
                break
