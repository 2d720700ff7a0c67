"""Front-to-back compositing of tile lists in Numba (2DGS, SIGGRAPH 2024, sections 4.2 and 4.3, equations 10-13).

A tile takes GROUP surfels at a time and goes through them strip by strip, without branches: once for the weights, with
what weights depend on in vector registers, and once for what is weighted with them. All sums of a strip at once would
not find room in the 16 registers of AVX2. Strips that a surfel's box does not touch, and full ones, are not computed.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.core.fast_exp import fast_exp2
from vision3d.recon.splat2d.lanes import LANES, any_of, load, minimum, select, store
from vision3d.recon.splat2d.llvm_operations import column_of_bits, count_bits, lowest_bit, prefetch
from vision3d.recon.splat2d.project import MAX_ALPHA, MIN_DENOMINATOR, MIN_TRANSMITTANCE
from vision3d.recon.splat2d.tile_memory import (
    BEYOND,
    COLOR,
    COLUMNS,
    DISTANCE,
    FAINTEST,
    FAST,
    LARGEST,
    NORMAL,
    OPACITY,
    PLACE,
    PLANE,
    RECORD,
    ROWS,
    SCREEN,
    TINY,
    U,
    V,
    Z,
    fill_record,
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

# Behind them the records of a group's surfels, and the exponents (then alphas) and depths of those that touch a strip.
RECORDS = np.uint64(PLANES * PLANE)
EXPONENTS = np.uint64(PLANES * PLANE + GROUP * RECORD)
DEPTHS = np.uint64(GROUP * LANES)  # so far from the exponents
MEMORY = PLANES * PLANE + GROUP * (RECORD + 2 * LANES)

_ONE = np.float32(1)
_ZERO = np.float32(0)
_TWO = np.float32(2)
_HALF = np.float32(0.5)
_MAX_ALPHA = np.float32(MAX_ALPHA)
_MIN_LEFT = np.float32(MIN_TRANSMITTANCE)
_MIN_DENOMINATOR = np.float32(MIN_DENOMINATOR)
_WIDTH = np.uint64(TILE)
_LANES = np.uint64(LANES)
_RECORD = np.uint64(RECORD)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def composite_forward(
    table, boxes, starts, members, row0, columns, width, height, near, out, keep, state, references, evaluations
):  # pragma: no cover (compiled)
    """Writes out [11 h w], state [4 h w] if it is to be kept and, per listed tile, the depth that moments are
    relative to and the number of pixel-surfel pairs computed, and listed until the tile was full."""
    for tile in numba.prange(len(starts) - 1):
        left, top = (tile % columns) * TILE, (tile // columns + row0) * TILE
        wide, high = np.uint64(min(TILE, width - left)), np.uint64(min(TILE, height - top))
        allocated = np.zeros(MEMORY + TILE, np.float32)
        offset = (-(allocated.ctypes.data // 4)) % TILE  # to a multiple of 64 bytes
        planes = allocated[offset : offset + MEMORY]
        touched = np.zeros(32, np.uint32)  # of a surfel of the group: bits of the strips that its box touches
        unfinished = np.uint32(0)  # bit per strip
        for j in range(np.uint64(0), np.uint64(TILE * TILE)):
            planes[j + LAST] = -_ONE
            planes[j + MEDIAN] = -_ONE
        for r in range(high):
            for c in range(wide):
                planes[r * _WIDTH + c + LIGHT] = _ONE  # pixels outside the picture are done from the start
            for h in range((wide + _LANES - np.uint64(1)) // _LANES):
                unfinished |= np.uint32(1) << np.uint32(h * _WIDTH + r)
        start, end = starts[tile], starts[tile + 1]
        reference = table[members[start], 8] if end > start else _ZERO
        references[tile] = reference
        computed = 0
        for base in range(start, end, GROUP):
            if unfinished == np.uint32(0):
                break
            for entry in range(base + GROUP, min(base + 2 * GROUP, end)):
                prefetch(table, np.uint64(members[entry]))
                prefetch(boxes, np.uint64(members[entry]))
            touched[:] = np.uint32(0)
            for i in range(np.uint64(min(GROUP, end - base))):
                s = np.uint64(members[base + np.int64(i)])
                place = base - start + np.int64(i)
                at = RECORDS + i * _RECORD
                fill_record(table, s, np.float32(left), np.float32(top), near, reference, place, planes, at)
                first, last_row = max(boxes[s, 2] - top, 0), min(boxes[s, 3] - top, np.int64(high) - 1)
                rows = (np.uint32(2) << np.uint32(last_row)) - (np.uint32(1) << np.uint32(first))
                for h in range(max(boxes[s, 0] - left, 0) // LANES, min(boxes[s, 1] - left, TILE - 1) // LANES + 1):
                    touched[i] |= np.uint32(rows << np.uint32(h * TILE))
            strips = unfinished
            while strips != np.uint32(0):
                strip = lowest_bit(strips)
                strips &= strips - np.uint32(1)
                bits = column_of_bits(touched, np.uint32(strip))
                if bits != np.uint32(0):
                    computed += count_bits(bits) * np.int64(min(_LANES, wide - strip // _WIDTH * _LANES))
                    if not _add_surfels(planes, bits, strip):
                        unfinished &= ~(np.uint32(1) << np.uint32(strip))
        seen = end - start if unfinished != np.uint32(0) else np.int64(planes[LAST : LAST + PLANE].max()) + 1
        evaluations[tile, 0], evaluations[tile, 1] = computed, seen * np.int64(wide * high)
        x, y = np.uint64(left), np.uint64(top)  # unsigned: an index that may be negative costs a scatter
        if keep:
            for r in range(high):
                for c in range(wide):
                    j = r * _WIDTH + c
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
                j = r * _WIDTH + c + MEDIAN
                listed = np.int64(planes[j])
                depth = _ZERO
                if listed >= 0:
                    s = np.uint64(members[start + listed])
                    q, inside = denominator(table, s, left + np.int64(c), top + np.int64(r), near)
                    depth = table[s, 8] / q if inside else table[s, 8]
                planes[j] = depth
        for channel in range(np.uint64(CHANNELS)):
            for r in range(high):
                j = channel * np.uint64(PLANE) + r * _WIDTH
                for c in range(wide):
                    out[channel, y + r, x + c] = planes[j + c]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _add_surfels(planes, bits, strip):  # pragma: no cover (compiled)
    """Adds the surfels that touch a strip; false once it is full.

    Three short loops instead of one: of a long one the processor has too few turns under way to hide its latency.
    """
    r, first = strip % _WIDTH, strip // _WIDTH * _LANES
    end, left = EXPONENTS, bits
    while left != np.uint32(0):
        k = RECORDS + lowest_bit(left) * _RECORD
        left &= left - np.uint32(1)
        column, row = k + COLUMNS + first, k + ROWS + r
        q = load(planes, column) + planes[row]
        inverse = _ONE / q  # of any q at all: what is not inside is not used
        u = (load(planes, column + U) + planes[row + U]) * inverse
        v = (load(planes, column + V) + planes[row + V]) * inverse
        on_plane = u * u + v * v
        on_screen = load(planes, column + DISTANCE) + planes[row + DISTANCE]
        inside = (q > _MIN_DENOMINATOR) & (q < planes[k + LARGEST]) & (on_plane <= on_screen)
        z = (load(planes, column + Z) + planes[row + Z]) * inverse
        store(planes, end, planes[k + OPACITY] - select(inside, on_plane, on_screen))
        store(planes, end + DEPTHS, select(inside, z, planes[k + BEYOND]))
        end += _LANES
    for n in range(EXPONENTS, end, _LANES):
        exponent = load(planes, n)
        alpha = select(exponent >= FAINTEST, minimum(fast_exp2(exponent), _MAX_ALPHA), _ZERO)
        store(planes, n, alpha)
    j = r * _WIDTH + first
    light, moment, spread = load(planes, j + LIGHT), load(planes, j + MOMENT), load(planes, j + SPREAD)
    last, median = load(planes, j + LAST), load(planes, j + MEDIAN)
    red, green, blue = load(planes, j + RED), load(planes, j + GREEN), load(planes, j + BLUE)
    normal0, normal1, normal2 = load(planes, j + NORMAL0), load(planes, j + NORMAL1), load(planes, j + NORMAL2)
    square = load(planes, j + SQUARE)
    n = EXPONENTS
    while bits != np.uint32(0):
        k = RECORDS + lowest_bit(bits) * _RECORD
        bits &= bits - np.uint32(1)
        z = load(planes, n + DEPTHS)
        weight = select(light >= _MIN_LEFT, load(planes, n) * light, _ZERO)
        n += _LANES
        last = select(weight > _ZERO, planes[k + PLACE], last)
        median = select(light > _HALF, last, median)
        spread += weight * (z * (_ONE - light) - moment)
        moment += weight * z
        light -= weight
        red += weight * planes[k + COLOR]
        green += weight * planes[k + COLOR + np.uint64(1)]
        blue += weight * planes[k + COLOR + np.uint64(2)]
        square += weight * planes[k + COLOR + np.uint64(3)]
        normal0 += weight * planes[k + NORMAL]
        normal1 += weight * planes[k + NORMAL + np.uint64(1)]
        normal2 += weight * planes[k + NORMAL + np.uint64(2)]
    store(planes, j + LIGHT, light)
    store(planes, j + MOMENT, moment)
    store(planes, j + SPREAD, spread)
    store(planes, j + LAST, last)
    store(planes, j + MEDIAN, median)
    store(planes, j + RED, red)
    store(planes, j + GREEN, green)
    store(planes, j + BLUE, blue)
    store(planes, j + SQUARE, square)
    store(planes, j + NORMAL0, normal0)
    store(planes, j + NORMAL1, normal1)
    store(planes, j + NORMAL2, normal2)
    return any_of(light >= _MIN_LEFT)


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
