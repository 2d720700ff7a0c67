"""Front-to-back compositing of tile lists in Numba (2DGS, SIGGRAPH 2024, sections 4.2 and 4.3, equations 10-13).

A tile takes GROUP surfels at a time and goes through them row by row: the sums of a row's 16 pixels stay in vector
registers while all surfels of the group that touch the row are added, without branches. Rows that a surfel does not
touch are not computed.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.core.fast_exp import fast_exp2
from vision3d.recon.splat2d.llvm_operations import lowest_bit, prefetch, row_on_stack
from vision3d.recon.splat2d.project import MAX_ALPHA, MIN_DENOMINATOR, MIN_TRANSMITTANCE
from vision3d.recon.splat2d.tile_memory import (
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
)
from vision3d.recon.splat2d.tiles import TILE

CHANNELS = 11  # colour 0-2, alpha, depth, median depth, normal 6-8, distortion, variance
STATE = 4  # light left, moment of the relative depth, list place of the last hit and of the median's (-1: none)
GROUP = 16  # surfels between two looks at whether the tile is full; at most 32, the bits of `touching`

# Planes of a tile. What becomes a channel stands at the channel's place.
RED = np.uint64(0)
GREEN = np.uint64(PLANE)
BLUE = np.uint64(2 * PLANE)
LIGHT = np.uint64(3 * PLANE)
MOMENT = np.uint64(4 * PLANE)
MEDIAN = np.uint64(5 * PLANE)
NORMAL0 = np.uint64(6 * PLANE)
NORMAL1 = np.uint64(7 * PLANE)
NORMAL2 = np.uint64(8 * PLANE)
SPREAD = np.uint64(9 * PLANE)
SQUARE = np.uint64(10 * PLANE)
LAST = np.uint64(11 * PLANE)
PLANES = 12

# What a pixel needs of a surfel besides its lines.
CONSTANTS = np.uint64(16)
_OPACITY = np.uint64(0)
_LARGEST = np.uint64(1)
_BEYOND = np.uint64(2)
_PLACE = np.uint64(3)
_COLOR = np.uint64(4)  # and its square
_NORMAL = np.uint64(8)

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
        wide, high = np.uint64(min(TILE, width - left)), np.uint64(min(TILE, height - top))
        memory = np.zeros(PLANES * PLANE + TILE, np.float32)
        offset = (-(memory.ctypes.data // 4)) % TILE  # to a multiple of 64 bytes
        planes = memory[offset : offset + PLANES * PLANE]
        lines, constants = np.empty(GROUP * LINES, np.float32), np.empty(GROUP * 16, np.float32)
        touching = np.zeros(TILE, np.uint32)  # bit i of a row: surfel i of the group touches it
        red, green, blue, light = row_on_stack(), row_on_stack(), row_on_stack(), row_on_stack()
        moment, spread, square, last = row_on_stack(), row_on_stack(), row_on_stack(), row_on_stack()
        normal0, normal1, normal2, median = row_on_stack(), row_on_stack(), row_on_stack(), row_on_stack()
        for j in range(np.uint64(0), np.uint64(TILE * TILE)):
            planes[j + LAST] = -_ONE
            planes[j + MEDIAN] = -_ONE
        for r in range(high):
            for c in range(wide):
                planes[r * WIDTH + c + LIGHT] = _ONE  # pixels outside the picture are done from the start
        start, end = starts[tile], starts[tile + 1]
        reference = table[members[start], 8] if end > start else _ZERO
        references[tile] = reference
        computed = 0
        for base in range(start, end, GROUP):
            unfinished = np.int32(0)
            for j in range(np.uint64(0), np.uint64(TILE * TILE)):
                unfinished += np.int32(planes[j + LIGHT] >= _MIN_LEFT)
            if unfinished == 0:
                break
            for entry in range(base + GROUP, min(base + 2 * GROUP, end)):
                prefetch(table, np.uint64(members[entry]))
                prefetch(boxes, np.uint64(members[entry]))
            for r in range(WIDTH):
                touching[r] = np.uint32(0)
            for i in range(min(GROUP, end - base)):
                s = np.uint64(members[base + i])
                fill_lines(table[s], np.float32(left), np.float32(top), reference, lines[i * LINES : (i + 1) * LINES])
                fill_constants(table[s], near, reference, base - start + i, constants[i * 16 : (i + 1) * 16])
                first, last_row = max(boxes[s, 2] - top, 0), min(boxes[s, 3] - top, np.int64(high) - 1)
                rows = (np.uint32(2) << np.uint32(last_row)) - (np.uint32(1) << np.uint32(first))
                for r in range(WIDTH):
                    touching[r] |= ((np.uint32(rows) >> np.uint32(r)) & np.uint32(1)) << np.uint32(i)
                computed += np.int64(wide) * (last_row + 1 - first)
            for r in range(high):
                first_pixel = r * WIDTH
                for c in range(WIDTH):
                    j = first_pixel + c
                    red[c], green[c], blue[c] = planes[j + RED], planes[j + GREEN], planes[j + BLUE]
                    light[c] = planes[j + LIGHT]
                    moment[c], spread[c] = planes[j + MOMENT], planes[j + SPREAD]
                    square[c], last[c], median[c] = planes[j + SQUARE], planes[j + LAST], planes[j + MEDIAN]
                    normal0[c], normal1[c], normal2[c] = planes[j + NORMAL0], planes[j + NORMAL1], planes[j + NORMAL2]
                bits = touching[r]
                while bits != np.uint32(0):
                    i = lowest_bit(bits)
                    bits &= bits - np.uint32(1)
                    k, line = i * CONSTANTS, i * np.uint64(LINES)
                    row = line + ROWS + r
                    row_q, row_z = lines[row], lines[row + Z]
                    row_u, row_v, row_screen = lines[row + U], lines[row + V], lines[row + SCREEN_LINE]
                    opacity, largest = constants[k + _OPACITY], constants[k + _LARGEST]
                    beyond, place = constants[k + _BEYOND], constants[k + _PLACE]
                    color = k + _COLOR
                    c0, c1 = constants[color], constants[color + np.uint64(1)]
                    c2, cc = constants[color + np.uint64(2)], constants[color + np.uint64(3)]
                    normal = k + _NORMAL
                    n0, n1 = constants[normal], constants[normal + np.uint64(1)]
                    n2 = constants[normal + np.uint64(2)]
                    for c in range(WIDTH):
                        q = lines[line + c] + row_q
                        inverse = _ONE / q  # of any q at all: what is not inside is not used
                        u = (lines[line + U + c] + row_u) * inverse
                        v = (lines[line + V + c] + row_v) * inverse
                        on_plane = u * u + v * v
                        on_screen = lines[line + SCREEN_LINE + c] + row_screen
                        inside = (q > _MIN_DENOMINATOR) & (q < largest) & (on_plane <= on_screen)
                        rho = on_plane if inside else on_screen
                        z = (lines[line + Z + c] + row_z) * inverse if inside else beyond
                        before, moment_before = light[c], moment[c]
                        hit = (opacity - rho >= FAINTEST) & (before >= _MIN_LEFT)
                        alpha = min(fast_exp2(opacity - rho), _MAX_ALPHA) if hit else _ZERO
                        weight = alpha * before
                        spread[c] += weight * (z * (_ONE - before) - moment_before)
                        moment[c] = moment_before + weight * z
                        light[c] = before - weight
                        red[c] += weight * c0
                        green[c] += weight * c1
                        blue[c] += weight * c2
                        square[c] += weight * cc
                        normal0[c] += weight * n0
                        normal1[c] += weight * n1
                        normal2[c] += weight * n2
                        last[c] = place if hit else last[c]
                        median[c] = place if hit & (before > _HALF) else median[c]
                for c in range(WIDTH):
                    j = first_pixel + c
                    planes[j + RED], planes[j + GREEN], planes[j + BLUE] = red[c], green[c], blue[c]
                    planes[j + LIGHT], planes[j + MOMENT], planes[j + SPREAD] = light[c], moment[c], spread[c]
                    planes[j + SQUARE], planes[j + LAST], planes[j + MEDIAN] = square[c], last[c], median[c]
                    planes[j + NORMAL0], planes[j + NORMAL1], planes[j + NORMAL2] = normal0[c], normal1[c], normal2[c]
        evaluations[tile] = computed
        x, y = np.uint64(left), np.uint64(top)  # unsigned: an index that may be negative costs a scatter
        if keep:
            for r in range(high):
                for c in range(wide):
                    j = r * WIDTH + c
                    state[0, y + r, x + c] = planes[j + LIGHT]
                    state[1, y + r, x + c] = planes[j + MOMENT]
                    state[2, y + r, x + c] = planes[j + LAST]
                    state[3, y + r, x + c] = planes[j + MEDIAN]
        for j in range(np.uint64(0), np.uint64(TILE * TILE)):
            total = _ONE - planes[j + LIGHT]
            planes[j + LIGHT] = total
            planes[j + MOMENT] = reference + planes[j + MOMENT] / total if total > _ZERO else _ZERO
            planes[j + SPREAD] *= _TWO
            shade0, shade1, shade2 = planes[j + RED], planes[j + GREEN], planes[j + BLUE]
            planes[j + SQUARE] -= shade0 * shade0 + shade1 * shade1 + shade2 * shade2
        for r in range(high):
            for c in range(wide):
                j = r * WIDTH + c + MEDIAN
                listed = np.int64(planes[j])
                depth = _ZERO
                if listed >= 0:
                    s = np.uint64(members[start + listed])
                    q, inside = denominator(table, s, left + np.int64(c), top + np.int64(r), near)
                    depth = table[s, 8] / q if inside else table[s, 8]
                planes[j] = depth
        for channel in range(np.uint64(CHANNELS)):
            for r in range(high):
                j = channel * np.uint64(PLANE) + r * WIDTH
                for c in range(wide):
                    out[channel, y + r, x + c] = planes[j + c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def fill_constants(surfel, near, reference, place, constants):  # pragma: no cover (compiled)
    """Of a row of the table and its place in the tile's list."""
    z0, c0, c1, c2 = surfel[8], surfel[10], surfel[11], surfel[12]
    constants[_OPACITY] = surfel[9]
    constants[_LARGEST] = z0 / max(near, TINY * z0)
    constants[_BEYOND] = z0 - reference
    constants[_PLACE] = np.float32(place)
    constants[_COLOR], constants[_COLOR + np.uint64(1)], constants[_COLOR + np.uint64(2)] = c0, c1, c2
    constants[_COLOR + np.uint64(3)] = c0 * c0 + c1 * c1 + c2 * c2
    for i in range(np.uint64(3)):
        constants[_NORMAL + i] = surfel[np.uint64(13) + i]


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
