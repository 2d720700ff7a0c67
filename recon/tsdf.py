"""Truncated signed distances fused from depth maps in sparse blocks of voxels (Curless and Levoy, "A volumetric method
for building complex models from range images", SIGGRAPH 1996; Newcombe et al., "KinectFusion", ISMAR 2011, 3.3).

Everything inside is in grid units: one voxel wide, voxel (i, j, k) being the grid point world = origin + voxel * (i, j,
k). A view says of a grid point (depth at its pixel - its own z) * g, where g turns the distance along the viewing ray
into the distance to the tangent plane; that is cut at the truncation and averaged with weights over the views. Depth
is interpolated in its inverse, which is exact for planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64

from vision3d.core import DepthView, Progress, silent
from vision3d.recon.fusion_maps import FusionMap, Typical, fusion_map

SIDE = 8  # grid points along the side of a block
POINTS = SIDE**3
BLOCK_BYTES = POINTS * 8  # distance and weight, float32
_REACH = 1 << 20  # blocks on either side of the origin that a key can name
_BEHIND = 2.0  # in truncations: how far behind the surface, along the ray, a view still says something


class TooManyBlocksError(ValueError):
    """The truncation band takes more blocks than allowed."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the grid points lie: world = origin + voxel * index. truncation is in voxels."""

    origin: Float64[np.ndarray, " 3"]
    voxel: float
    truncation: float


@dataclass(frozen=True, slots=True)
class TsdfVolume:
    """Fused distances of the blocks near the surface.

    blocks are sorted integer coordinates: block b holds grid points 8 b to 8 b + 7. distance is in truncations, in
    [-1, 1], positive outside; it means nothing where weight is 0. Inside a block the points are in order (x, y, z).
    """

    grid: Grid
    blocks: Int64[np.ndarray, "n 3"]
    distance: Float32[np.ndarray, "n 8 8 8"]
    weight: Float32[np.ndarray, "n 8 8 8"]


def fuse(
    maps: Sequence[FusionMap], grid: Grid, blocks: Int64[np.ndarray, "n 3"], progress: Progress = silent
) -> TsdfVolume:
    """Fuse prepared depth maps in blocks (see `find_blocks`). The result does not depend on the number of threads."""
    distance = np.zeros((len(blocks), SIDE, SIDE, SIDE), np.float32)
    weight = np.zeros_like(distance)
    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    for done, view in enumerate(maps):
        progress("fusion", done, len(maps))
        _integrate(
            blocks, view.values, view.intrinsics, *_pose(view, grid), np.float32(grid.truncation), distance, weight
        )
    progress("fusion", len(maps), len(maps))
    _average(distance, weight)
    return TsdfVolume(grid, blocks, distance, weight)


def find_blocks(maps: Sequence[FusionMap], grid: Grid, max_blocks: int) -> Int64[np.ndarray, "n 3"]:
    """The blocks within the truncation, and a pixel's width, of a pixel's point, sorted.

    Raises:
        TooManyBlocksError: they are more than `max_blocks`.
        ValueError: the surface spans more than a million blocks along an axis.
    """
    table = np.full(1 << 12, -1, np.int64)
    count = 0
    for view in maps:
        rotation, translation = _pose(view, grid)
        row = 0
        while row < view.values.shape[0]:
            row, count = _mark(
                view.values, view.intrinsics, rotation, translation, grid.truncation, row, table, count, max_blocks
            )
            if row < 0:
                raise ValueError("the surface spans more than a million blocks: choose a larger voxel")
            if count > max_blocks:
                raise TooManyBlocksError(f"the surface takes more than {max_blocks} blocks of {SIDE} voxels a side")
            if row < view.values.shape[0]:  # the table is nearly full
                table = _grown(table)
    keys = np.sort(table[table >= 0])
    return np.stack([keys >> 42, (keys >> 21) & (2 * _REACH - 1), keys & (2 * _REACH - 1)], axis=1) - _REACH


def fuse_slow(
    maps: Sequence[FusionMap], grid: Grid, indices: Int[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Distance and weight at grid points in plain NumPy and double precision: the twin that tests compare with."""
    total, weights = np.zeros(len(indices)), np.zeros(len(indices))
    for view in maps:
        rotation, translation = _pose(view, grid)
        p = indices @ rotation.T + translation
        fx, fy, cx, cy = view.intrinsics
        h, w = view.values.shape[:2]
        z = np.where(p[:, 2] > 0, p[:, 2], np.inf)
        u, v = fx * p[:, 0] / z + cx, fy * p[:, 1] / z + cy
        inside = (p[:, 2] > 0) & (u >= 0) & (v >= 0) & (u < w) & (v < h)
        u, v = np.where(inside, u, 0.5), np.where(inside, v, 0.5)
        values = view.values.astype(np.float64)
        nearest = values[v.astype(int), u.astype(int)]
        x0, y0 = np.floor(u - 0.5).astype(int), np.floor(v - 0.5).astype(int)
        tx, ty = (u - 0.5 - x0)[:, None], (v - 0.5 - y0)[:, None]
        whole = (x0 >= 0) & (y0 >= 0) & (x0 < w - 1) & (y0 < h - 1)
        x0, y0 = np.where(whole, x0, 0), np.where(whole, y0, 0)
        x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
        corners = [values[y0, x0], values[y0, x1], values[y1, x0], values[y1, x1]]
        whole &= np.all([c[:, 2] > 0 for c in corners], axis=0)
        top, bottom = corners[0] * (1 - tx) + corners[1] * tx, corners[2] * (1 - tx) + corners[3] * tx
        sample = np.where(whole[:, None], top * (1 - ty) + bottom * ty, nearest)
        along = (
            np.where(sample[:, 2] > 0, 1 / np.where(sample[:, 0] > 0, sample[:, 0], 1) - p[:, 2], 0) / grid.truncation
        )
        distance = np.minimum(along * sample[:, 1], 1)
        counts = inside & (sample[:, 2] > 0) & (distance > -1) & (along > -_BEHIND)
        weight = np.where(counts, sample[:, 2] * np.clip(2 * (1 + distance), 0, 1), 0)
        total += weight * distance
        weights += weight
    return total / np.where(weights > 0, weights, 1), weights


def prepare(views: Sequence[DepthView], grid: Grid, max_angle_deg: float, typical: Typical) -> list[FusionMap]:
    """What `fuse` takes, from depth maps with their cameras: depth in grid units, weights, tangent factors."""
    return [fusion_map(view, grid.voxel, grid.truncation, max_angle_deg, typical) for view in views]


def _pose(view: FusionMap, grid: Grid) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, " 3"]]:
    """Rotation and translation from grid units to the camera's frame in voxels."""
    return view.rotation, (view.rotation @ grid.origin + view.translation) / grid.voxel


def _grown(table: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    out = np.full(2 * len(table), -1, np.int64)
    _refill(table, out)
    return out


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _insert(table, key):  # pragma: no cover (compiled)
    """Open addressing with linear probing; True if the key is new."""
    size = table.shape[0]
    at = ((key * -7046029254386353131) >> 24) & (size - 1)
    while table[at] != -1:
        if table[at] == key:
            return False
        at = (at + 1) & (size - 1)
    table[at] = key
    return True


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _refill(table, out):  # pragma: no cover (compiled)
    for key in table:
        if key >= 0:
            _insert(out, key)


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _mark(values, intrinsics, rotation, translation, reach, first, table, count, limit):  # pragma: no cover (compiled)
    """Enters the blocks around the points of rows `first`...; returns the row to go on with and the count so far.

    It stops early when the table is half full, or there are too many blocks (count > limit), or with row -1 when a
    block has no key.
    """
    h, w = values.shape[:2]
    fx, fy, cx, cy = intrinsics
    low, high = np.zeros(3, np.int64), np.zeros(3, np.int64)
    last_low, last_high = np.zeros(3, np.int64), np.full(3, -1, np.int64)
    for y in range(first, h):
        if 2 * count > table.shape[0]:
            return y, count
        for x in range(w):
            if values[y, x, 2] <= 0:
                continue
            z = 1.0 / values[y, x, 0]
            px = z * (x + 0.5 - cx) / fx - translation[0]
            py = z * (y + 0.5 - cy) / fy - translation[1]
            pz = z - translation[2]
            same = True
            wide = max(reach, z / min(fx, fy))
            for axis in range(3):
                p = rotation[0, axis] * px + rotation[1, axis] * py + rotation[2, axis] * pz
                if not abs(p) < SIDE * (_REACH - 2):
                    return -1, count
                low[axis] = int(np.floor((p - wide) / SIDE))
                high[axis] = int(np.floor((p + wide + 1) / SIDE))
                same = same and low[axis] == last_low[axis] and high[axis] == last_high[axis]
            if same:
                continue
            last_low[:] = low
            last_high[:] = high
            for bx in range(low[0], high[0] + 1):
                for by in range(low[1], high[1] + 1):
                    for bz in range(low[2], high[2] + 1):
                        key = ((bx + _REACH) << 42) | ((by + _REACH) << 21) | (bz + _REACH)
                        if _insert(table, key):
                            count += 1
                            if count > limit:
                                return y, count
                            if 4 * count > 3 * table.shape[0]:
                                return y, count  # this row again, with a larger table
    return h, count


@numba.njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _integrate(
    blocks, values, intrinsics, rotation, translation, truncation, total, weights
):  # pragma: no cover (compiled)
    """Adds one view's weighted distances; every block belongs to one thread."""
    h, w = values.shape[:2]
    fx, fy = np.float32(intrinsics[0]), np.float32(intrinsics[1])
    cx, cy = np.float32(intrinsics[2]), np.float32(intrinsics[3])
    r = rotation.astype(np.float32)
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    radius = np.sqrt(3.0) * (SIDE - 1) / 2
    inverse = one / truncation
    for b in numba.prange(blocks.shape[0]):
        corner = np.empty(3, np.float64)
        middle = np.empty(3, np.float64)
        for a in range(3):
            corner[a] = translation[a]
            middle[a] = translation[a]
            for k in range(3):
                corner[a] += rotation[a, k] * (SIDE * blocks[b, k])
                middle[a] += rotation[a, k] * (SIDE * blocks[b, k] + 0.5 * (SIDE - 1))
        if middle[2] < -radius:
            continue
        if middle[2] > radius:  # wholly in front: does the sphere around the block touch the picture?
            near = middle[2] - radius
            u, v = fx * middle[0] / middle[2] + cx, fy * middle[1] / middle[2] + cy
            # Beside its own radius, the middle's direction moves by perspective within the depth of the sphere.
            du = fx * radius / near * (1 + abs(middle[0]) / middle[2])
            dv = fy * radius / near * (1 + abs(middle[1]) / middle[2])
            if u + du < 0 or v + dv < 0 or u - du > w or v - dv > h:
                continue
        x0c, y0c, z0c = np.float32(corner[0]), np.float32(corner[1]), np.float32(corner[2])
        for i in range(SIDE):
            for j in range(SIDE):
                xa = x0c + r[0, 0] * np.float32(i) + r[0, 1] * np.float32(j)
                ya = y0c + r[1, 0] * np.float32(i) + r[1, 1] * np.float32(j)
                za = z0c + r[2, 0] * np.float32(i) + r[2, 1] * np.float32(j)
                for k in range(SIDE):
                    z = za + r[2, 2] * np.float32(k)
                    if z <= 0:
                        continue
                    u = fx * (xa + r[0, 2] * np.float32(k)) / z + cx
                    v = fy * (ya + r[1, 2] * np.float32(k)) / z + cy
                    if not (u >= 0 and v >= 0 and u < w and v < h):
                        continue
                    x, y = int(np.floor(u - half)), int(np.floor(v - half))
                    whole = x >= 0 and y >= 0 and x < w - 1 and y < h - 1
                    if whole:
                        whole = (
                            values[y, x, 2] > 0
                            and values[y, x + 1, 2] > 0
                            and values[y + 1, x, 2] > 0
                            and values[y + 1, x + 1, 2] > 0
                        )
                    if whole:
                        tx, ty = u - half - np.float32(x), v - half - np.float32(y)
                        w00, w01 = (one - tx) * (one - ty), tx * (one - ty)
                        w10, w11 = (one - tx) * ty, tx * ty
                        p00, p01 = values[y, x], values[y, x + 1]
                        p10, p11 = values[y + 1, x], values[y + 1, x + 1]
                        q = w00 * p00[0] + w01 * p01[0] + w10 * p10[0] + w11 * p11[0]
                        g = w00 * p00[1] + w01 * p01[1] + w10 * p10[1] + w11 * p11[1]
                        trust = w00 * p00[2] + w01 * p01[2] + w10 * p10[2] + w11 * p11[2]
                    else:
                        nearest = values[int(v), int(u)]
                        q, g, trust = nearest[0], nearest[1], nearest[2]
                        if trust <= 0:
                            continue
                    along = (one / q - z) * inverse
                    distance = min(along * g, one)
                    if distance <= -one or along <= -np.float32(_BEHIND):
                        continue
                    trust *= min(two * (one + distance), one)
                    total[b, i, j, k] += trust * distance
                    weights[b, i, j, k] += trust


@numba.njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _average(total, weights):  # pragma: no cover (compiled)
    for b in numba.prange(total.shape[0]):
        for i in range(SIDE):
            for j in range(SIDE):
                for k in range(SIDE):
                    if weights[b, i, j, k] > 0:
                        total[b, i, j, k] /= weights[b, i, j, k]
