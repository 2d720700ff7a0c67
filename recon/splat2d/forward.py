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
CHECK_EVERY = 8  # surfels between two looks at whether all pixels of a tile are done

PIXELS = TILE * TILE
NP = np.uint64(PIXELS)
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
        scratch = np.zeros(14 * PIXELS, np.float32)  # one array: LLVM sees that its parts do not overlap
        for j in range(PIXELS):
            scratch[j] = np.float32(j % TILE) + _HALF
            scratch[PIXELS + j] = np.float32(j // TILE) + _HALF
            scratch[2 * PIXELS + j] = _ONE if (j % TILE < wide and j // TILE < high) else _ZERO
            scratch[12 * PIXELS + j] = -_ONE
            scratch[13 * PIXELS + j] = -_ONE
        start, end = starts[tile], starts[tile + 1]
        reference = table[members[start], 8] if end > start else _ZERO
        references[tile] = reference
        computed = 0
        for i in range(start, end):
            if (i - start) % CHECK_EVERY == 0:
                most = _ZERO
                for j in range(2 * PIXELS, 3 * PIXELS):
                    most = max(most, scratch[j])
                if most < _MIN_LEFT:
                    break
            s = members[i]
            first_row, last_row = max(boxes[s, 2] - top, 0), min(boxes[s, 3] - top, high - 1)
            computed += wide * (last_row - first_row + 1)
            x0, y0 = table[s, 0] - np.float32(left), table[s, 1] - np.float32(top)
            a1, a2, b1, b2 = table[s, 2], table[s, 3], table[s, 4], table[s, 5]
            w1, w2, z0, opacity = table[s, 6], table[s, 7], table[s, 8], table[s, 9]
            c0, c1, c2 = table[s, 10], table[s, 11], table[s, 12]
            n0, n1, n2 = table[s, 13], table[s, 14], table[s, 15]
            square = c0 * c0 + c1 * c1 + c2 * c2
            beyond = z0 - reference
            largest = z0 / max(near, _TINY * z0)
            place = np.float32(i - start)
            for j in range(np.uint64(first_row * TILE), np.uint64((last_row + 1) * TILE)):
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
                light = scratch[j + 2 * PIXELS]
                moment = scratch[j + 10 * PIXELS]
                shade0, shade1, shade2 = scratch[j + 3 * PIXELS], scratch[j + 4 * PIXELS], scratch[j + 5 * PIXELS]
                total = _ONE - light
                out[0, y, x] = shade0
                out[1, y, x] = shade1
                out[2, y, x] = shade2
                out[3, y, x] = total
                out[4, y, x] = reference + moment / total if total > _ZERO else _ZERO
                median = scratch[j + 13 * PIXELS]
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
                out[6, y, x] = scratch[j + 7 * PIXELS]
                out[7, y, x] = scratch[j + 8 * PIXELS]
                out[8, y, x] = scratch[j + 9 * PIXELS]
                out[9, y, x] = _TWO * scratch[j + 11 * PIXELS]
                out[10, y, x] = scratch[j + 6 * PIXELS] - (shade0 * shade0 + shade1 * shade1 + shade2 * shade2)
                state[0, y, x] = light
                state[1, y, x] = moment
                state[2, y, x] = scratch[j + 12 * PIXELS]
                state[3, y, x] = median
