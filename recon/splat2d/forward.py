"""Front-to-back compositing of tile lists in Numba (2DGS, SIGGRAPH 2024, sections 4.2 and 4.3, equations 10-13).

Per surfel the inner loop runs over one row of the tile, without branches, so that LLVM turns it into a few dozen
vector instructions; only rows that the surfel touches are computed.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.recon.splat2d.fast_exp import fast_exp2
from vision3d.recon.splat2d.project import MAX_ALPHA, MIN_DENOMINATOR, MIN_TRANSMITTANCE
from vision3d.recon.splat2d.tile_memory import (
    CHUNK,
    FAINTEST,
    FAST,
    LINES,
    PLANE,
    ROWS,
    SCREEN,
    SCREEN_LINE,
    TINY,
    WIDTH,
    U,
    V,
    Z,
    fill_lines,
    load_chunk,
)
from vision3d.recon.splat2d.tiles import TILE

CHANNELS = 11  # colour 0-2, alpha, depth, median depth, normal 6-8, distortion, variance
STATE = 4  # light left, moment of the relative depth, list place of the last hit and of the median's (-1: none)

LIGHT = np.uint64(0)
RED = np.uint64(PLANE)
GREEN = np.uint64(2 * PLANE)
BLUE = np.uint64(3 * PLANE)
SQUARE = np.uint64(4 * PLANE)
NORMAL0 = np.uint64(5 * PLANE)
NORMAL1 = np.uint64(6 * PLANE)
NORMAL2 = np.uint64(7 * PLANE)
MOMENT = np.uint64(8 * PLANE)
SPREAD = np.uint64(9 * PLANE)
LAST = np.uint64(10 * PLANE)
MEDIAN = np.uint64(11 * PLANE)
PLANES = 12

_ONE = np.float32(1)
_ZERO = np.float32(0)
_TWO = np.float32(2)
_HALF = np.float32(0.5)
_MAX_ALPHA = np.float32(MAX_ALPHA)
_MIN_LEFT = np.float32(MIN_TRANSMITTANCE)
_MIN_DENOMINATOR = np.float32(MIN_DENOMINATOR)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def composite_forward(
    table, boxes, starts, members, row0, columns, width, height, near, out, keep, state, references, evaluations
):  # pragma: no cover (compiled)
    """Writes out [11 h w], state [4 h w] if it is to be kept and, per listed tile, the depth that moments are
    relative to and the number of pixel-surfel pairs computed."""
    for tile in numba.prange(len(starts) - 1):
        left, top = (tile % columns) * TILE, (tile // columns + row0) * TILE
        wide, high = min(TILE, width - left), min(TILE, height - top)
        memory = np.zeros(PLANES * PLANE + TILE, np.float32)
        offset = (-(memory.ctypes.data // 4)) % TILE  # to a multiple of 64 bytes
        planes = memory[offset : offset + PLANES * PLANE]
        lines = np.empty(LINES, np.float32)
        chunk, spans = np.empty((CHUNK, 16), np.float32), np.empty((CHUNK, 2), np.int64)
        for j in range(np.uint64(0), np.uint64(TILE * TILE)):
            planes[j + LAST] = -_ONE
            planes[j + MEDIAN] = -_ONE
        for r in range(high):
            for c in range(wide):
                planes[r * TILE + c] = _ONE  # pixels outside the picture are done from the start
        start, end = starts[tile], starts[tile + 1]
        reference = table[members[start], 8] if end > start else _ZERO
        references[tile] = reference
        computed = 0
        for base in range(start, end, CHUNK):
            unfinished = np.int32(0)
            for j in range(np.uint64(0), np.uint64(TILE * TILE)):
                unfinished += np.int32(planes[j + LIGHT] >= _MIN_LEFT)
            if unfinished == 0:
                break
            count = min(CHUNK, end - base)
            load_chunk(table, boxes, members, base, count, left, top, high, chunk, spans)
            for i in range(count):
                fill_lines(chunk[i], reference, lines)
                z0, beyond, opacity = chunk[i, 8], chunk[i, 8] - reference, chunk[i, 9]
                c0, c1, c2 = chunk[i, 10], chunk[i, 11], chunk[i, 12]
                n0, n1, n2 = chunk[i, 13], chunk[i, 14], chunk[i, 15]
                square = c0 * c0 + c1 * c1 + c2 * c2
                largest = z0 / max(near, TINY * z0)
                place = np.float32(base - start + i)
                computed += wide * (spans[i, 1] - spans[i, 0])
                for r in range(np.uint64(spans[i, 0]), np.uint64(spans[i, 1])):
                    row_q, row_z = lines[ROWS + r], lines[ROWS + Z + r]
                    row_u, row_v, row_screen = lines[ROWS + U + r], lines[ROWS + V + r], lines[ROWS + SCREEN_LINE + r]
                    first = r * WIDTH
                    for c in range(WIDTH):
                        j = first + c
                        q = lines[c] + row_q
                        meets = q > _MIN_DENOMINATOR
                        inverse = _ONE / (q if meets else _ONE)
                        u = (lines[U + c] + row_u) * inverse
                        v = (lines[V + c] + row_v) * inverse
                        on_plane = u * u + v * v
                        on_screen = lines[SCREEN_LINE + c] + row_screen
                        inside = meets & (q < largest) & (on_plane <= on_screen)
                        rho = on_plane if inside else on_screen
                        z = (lines[Z + c] + row_z) * inverse if inside else beyond
                        light = planes[j + LIGHT]
                        hit = (opacity - rho >= FAINTEST) & (light >= _MIN_LEFT)
                        alpha = min(fast_exp2(opacity - rho), _MAX_ALPHA) if hit else _ZERO
                        weight = alpha * light
                        moment = planes[j + MOMENT]
                        planes[j + SPREAD] += weight * (z * (_ONE - light) - moment)
                        planes[j + MOMENT] = moment + weight * z
                        planes[j + LIGHT] = light - weight
                        planes[j + RED] += weight * c0
                        planes[j + GREEN] += weight * c1
                        planes[j + BLUE] += weight * c2
                        planes[j + SQUARE] += weight * square
                        planes[j + NORMAL0] += weight * n0
                        planes[j + NORMAL1] += weight * n1
                        planes[j + NORMAL2] += weight * n2
                        planes[j + LAST] = place if hit else planes[j + LAST]
                        planes[j + MEDIAN] = place if hit & (light > _HALF) else planes[j + MEDIAN]
        evaluations[tile] = computed
        for r in range(high):
            y = top + r
            for c in range(wide):
                x, j = left + c, np.uint64(r * TILE + c)
                red, green, blue = planes[j + RED], planes[j + GREEN], planes[j + BLUE]
                total, moment = _ONE - planes[j + LIGHT], planes[j + MOMENT]
                out[0, y, x] = red
                out[1, y, x] = green
                out[2, y, x] = blue
                out[3, y, x] = total
                out[4, y, x] = reference + moment / total if total > _ZERO else _ZERO
                out[6, y, x] = planes[j + NORMAL0]
                out[7, y, x] = planes[j + NORMAL1]
                out[8, y, x] = planes[j + NORMAL2]
                out[9, y, x] = _TWO * planes[j + SPREAD]
                out[10, y, x] = planes[j + SQUARE] - (red * red + green * green + blue * blue)
            if keep:
                for c in range(wide):
                    x, j = left + c, np.uint64(r * TILE + c)
                    state[0, y, x] = planes[j + LIGHT]
                    state[1, y, x] = planes[j + MOMENT]
                    state[2, y, x] = planes[j + LAST]
                    state[3, y, x] = planes[j + MEDIAN]
            for c in range(wide):
                place = np.int64(planes[np.uint64(r * TILE + c) + MEDIAN])
                depth = _ZERO
                if place >= 0:
                    s = np.uint64(members[start + place])
                    q, inside = denominator(table, s, left + c, y, near)
                    depth = table[s, 8] / q if inside else table[s, 8]
                out[5, y, left + c] = depth


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def denominator(table, s, x, y, near):  # pragma: no cover (compiled)
    """q of surfel s at a pixel, and whether its plane counts there (else the low-pass filter does)."""
    left, top = np.float32((x // TILE) * TILE), np.float32((y // TILE) * TILE)
    dx = np.float32(x % TILE) + _HALF - (table[s, 0] - left)
    dy = np.float32(y % TILE) + _HALF - (table[s, 1] - top)
    q = table[s, 6] * dx + (_ONE + table[s, 7] * dy)
    meets = (q > _MIN_DENOMINATOR) & (q < table[s, 8] / max(near, TINY * table[s, 8]))
    u = (table[s, 2] * dx + table[s, 3] * dy) / q
    v = (table[s, 4] * dx + table[s, 5] * dy) / q
    screen = SCREEN * (dx * dx + dy * dy)
    return q, meets & (u * u + v * v <= screen)
