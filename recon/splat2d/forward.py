"""Front-to-back compositing of tile lists in Numba (2DGS, SIGGRAPH 2024, sections 4.2 and 4.3, equations 10-13).

One tile after another per thread; per surfel the inner loop runs over the rows of the tile that the surfel touches,
all pixels of them at once, without branches, so that LLVM turns it into vector instructions.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.recon.splat2d.fast_exp import exp2_negative
from vision3d.recon.splat2d.project import (
    LOW_PASS,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_DENOMINATOR,
    MIN_TRANSMITTANCE,
)
from vision3d.recon.splat2d.tiles import TILE

CHANNELS = 11  # colour 0-2, alpha, depth, median depth, normal 6-8, distortion, variance
STATE = 4  # light left, moment of the relative depth, list place of the last hit and of the median's (-1: none)
CHUNK = 16  # surfels read ahead of use, and between two looks at whether all pixels of a tile are done

PIXELS = TILE * TILE
PLANE = PIXELS + TILE
NP = np.uint64(PLANE)
_ONE = np.float32(1)
_ZERO = np.float32(0)
_TWO = np.float32(2)
_LOW_PASS = np.float32(LOW_PASS)
_MIN_ALPHA = np.float32(MIN_ALPHA)
_MAX_ALPHA = np.float32(MAX_ALPHA)
_MIN_LEFT = np.float32(MIN_TRANSMITTANCE)
_MIN_DENOMINATOR = np.float32(MIN_DENOMINATOR)
_HALF = np.float32(0.5)
_EXPONENT = np.float32(-0.5 / np.log(2.0))
_TINY = np.float32(1e-30)
_U1 = np.uint64(1)
_U2 = np.uint64(2)
_U3 = np.uint64(3)
_U4 = np.uint64(4)
_U5 = np.uint64(5)
_U6 = np.uint64(6)
_U7 = np.uint64(7)
_U8 = np.uint64(8)
_U9 = np.uint64(9)
_U10 = np.uint64(10)
_U11 = np.uint64(11)
_U12 = np.uint64(12)
_U13 = np.uint64(13)
FAST = {"contract", "nsz", "arcp", "reassoc"}


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def load_chunk(
    table, boxes, members, base, count, left, top, high, reference, near, chunk, spans
):  # pragma: no cover (compiled)
    """Copies coefficients, in the tile's own pixels, and first and last pixel of the rows each surfel touches.

    A loop of its own: the processor waits for many rows of the table at once instead of one after the other.
    """
    for i in range(count):
        s = members[base + i]
        for k in range(16):
            chunk[i, k] = table[s, k]
        chunk[i, 0] -= np.float32(left)
        chunk[i, 1] -= np.float32(top)
        chunk[i, 8] -= reference
        chunk[i, 16] = chunk[i, 10] ** 2 + chunk[i, 11] ** 2 + chunk[i, 12] ** 2
        chunk[i, 17] = table[s, 8] / max(near, _TINY * table[s, 8])
        spans[i, 0] = max(boxes[s, 2] - top, 0) * TILE
        spans[i, 1] = (min(boxes[s, 3] - top, high - 1) + 1) * TILE


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def composite_forward(
    table, boxes, starts, members, row0, columns, stride, width, height, near, out, state, references, evaluations
):  # pragma: no cover (compiled)
    """Writes out [11 h w], state [4 h w], references [tiles] (depth that moments are relative to) of the listed tiles.

    table [m 16]: coefficients in depth order. stride: coprime to the number of tiles; scatters neighbours over threads.
    """
    tiles = len(starts) - 1
    for k in numba.prange(tiles):
        tile = (k * stride) % tiles
        row, column = tile // columns + row0, tile % columns
        left, top = column * TILE, row * TILE
        wide, high = min(TILE, width - left), min(TILE, height - top)
        memory = np.zeros(14 * PLANE + TILE, np.float32)
        offset = (-(memory.ctypes.data // 4)) % TILE
        scratch = memory[offset : offset + 14 * PLANE]  # one array: LLVM sees that its parts do not overlap
        for j in range(PIXELS):
            scratch[j] = np.float32(j % TILE) + _HALF
            scratch[PLANE + j] = np.float32(j // TILE) + _HALF
            scratch[2 * PLANE + j] = _ONE if (j % TILE < wide and j // TILE < high) else _ZERO
            scratch[12 * PLANE + j] = -_ONE
            scratch[13 * PLANE + j] = -_ONE
        start, end = starts[tile], starts[tile + 1]
        chunk, spans = np.empty((CHUNK, 20), np.float32), np.empty((CHUNK, 2), np.int64)
        reference = table[members[start], 8] if end > start else _ZERO
        references[tile] = reference
        computed = 0
        for base in range(start, end, CHUNK):
            most = _ZERO
            for j in range(2 * PLANE, 2 * PLANE + PIXELS):
                most = max(most, scratch[j])
            if most < _MIN_LEFT:
                break
            count = min(CHUNK, end - base)
            load_chunk(table, boxes, members, base, count, left, top, high, reference, near, chunk, spans)
            for i in range(count):
                x0, y0, a1, a2 = chunk[i, 0], chunk[i, 1], chunk[i, 2], chunk[i, 3]
                b1, b2, w1, w2 = chunk[i, 4], chunk[i, 5], chunk[i, 6], chunk[i, 7]
                beyond, opacity = chunk[i, 8], chunk[i, 9]
                c0, c1, c2 = chunk[i, 10], chunk[i, 11], chunk[i, 12]
                n0, n1, n2 = chunk[i, 13], chunk[i, 14], chunk[i, 15]
                square, largest = chunk[i, 16], chunk[i, 17]
                place = np.float32(base - start + i)
                computed += wide * ((spans[i, 1] - spans[i, 0]) // TILE)
                for j in range(np.uint64(spans[i, 0]), np.uint64(spans[i, 1])):
                    dx = scratch[j] - x0
                    dy = scratch[j + NP] - y0
                    tilt = w1 * dx + w2 * dy
                    q = _ONE + tilt
                    meets = q > _MIN_DENOMINATOR
                    inverse = _ONE / (q if meets else _ONE)
                    u = (a1 * dx + a2 * dy) * inverse
                    v = (b1 * dx + b2 * dy) * inverse
                    on_plane = u * u + v * v
                    on_screen = _LOW_PASS * (dx * dx + dy * dy)
                    inside = meets & (q < largest) & (on_plane <= on_screen)
                    rho = on_plane if inside else on_screen
                    z = (beyond - reference * tilt) * inverse if inside else beyond
                    strength = opacity * exp2_negative(rho * _EXPONENT)
                    light = scratch[j + _U2 * NP]
                    hit = (strength >= _MIN_ALPHA) & (light >= _MIN_LEFT)
                    alpha = min(strength, _MAX_ALPHA) if hit else _ZERO
                    weight = alpha * light
                    moment = scratch[j + _U10 * NP]
                    scratch[j + _U11 * NP] += weight * (z * (_ONE - light) - moment)
                    scratch[j + _U10 * NP] = moment + weight * z
                    scratch[j + _U2 * NP] = light - weight
                    scratch[j + _U3 * NP] += weight * c0
                    scratch[j + _U4 * NP] += weight * c1
                    scratch[j + _U5 * NP] += weight * c2
                    scratch[j + _U6 * NP] += weight * square
                    scratch[j + _U7 * NP] += weight * n0
                    scratch[j + _U8 * NP] += weight * n1
                    scratch[j + _U9 * NP] += weight * n2
                    scratch[j + _U12 * NP] = place if hit else scratch[j + _U12 * NP]
                    scratch[j + _U13 * NP] = place if hit & (light > _HALF) else scratch[j + _U13 * NP]
        evaluations[tile] = computed
        for r in range(high):
            for c in range(wide):
                j = r * TILE + c
                y, x = top + r, left + c
                light = scratch[j + 2 * PLANE]
                moment = scratch[j + 10 * PLANE]
                shade0, shade1, shade2 = scratch[j + 3 * PLANE], scratch[j + 4 * PLANE], scratch[j + 5 * PLANE]
                total = _ONE - light
                out[0, y, x] = shade0
                out[1, y, x] = shade1
                out[2, y, x] = shade2
                out[3, y, x] = total
                out[4, y, x] = reference + moment / total if total > _ZERO else _ZERO
                median = scratch[j + 13 * PLANE]
                depth = _ZERO
                if median >= _ZERO:
                    s = members[start + np.int64(median)]
                    dx, dy = (
                        np.float32(c) + _HALF - (table[s, 0] - np.float32(left)),
                        np.float32(r) + _HALF - (table[s, 1] - np.float32(top)),
                    )
                    z0 = table[s, 8]
                    q = _ONE + (table[s, 6] * dx + table[s, 7] * dy)
                    u = (table[s, 2] * dx + table[s, 3] * dy) / q
                    v = (table[s, 4] * dx + table[s, 5] * dy) / q
                    inside = (
                        (q > _MIN_DENOMINATOR)
                        & (q < z0 / max(near, _TINY * z0))
                        & (u * u + v * v <= _LOW_PASS * (dx * dx + dy * dy))
                    )
                    depth = z0 / q if inside else z0
                out[5, y, x] = depth
                out[6, y, x] = scratch[j + 7 * PLANE]
                out[7, y, x] = scratch[j + 8 * PLANE]
                out[8, y, x] = scratch[j + 9 * PLANE]
                out[9, y, x] = _TWO * scratch[j + 11 * PLANE]
                out[10, y, x] = scratch[j + 6 * PLANE] - (shade0 * shade0 + shade1 * shade1 + shade2 * shade2)
                state[0, y, x] = light
                state[1, y, x] = moment
                state[2, y, x] = scratch[j + 12 * PLANE]
                state[3, y, x] = median
