"""Gradients of `composite_forward`, back to front: sums per (tile, surfel) pair, added per surfel in fixed order.

A surfel goes down each column of strips that it touches; the pixels of a strip add to LANES columns of sums. Offsets
along x are constant in a column, so their moments cost nothing until the columns are added up.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.core.fast_exp import fast_exp2
from vision3d.recon.splat2d.forward import denominator
from vision3d.recon.splat2d.lanes import LANES, centres, in_all_lanes, load, minimum, select, store, store_sums
from vision3d.recon.splat2d.llvm_operations import prefetch
from vision3d.recon.splat2d.project import LOW_PASS, MAX_ALPHA, MIN_DENOMINATOR
from vision3d.recon.splat2d.tile_memory import (
    BEYOND,
    COLOR,
    COLUMNS,
    DISTANCE,
    EXPONENT,
    FAINTEST,
    FAST,
    HALF,
    LARGEST,
    NORMAL,
    OPACITY,
    PLACE,
    PLANE,
    RECORD,
    ROOT,
    ROWS,
    STRIPS,
    U,
    V,
    X,
    Y,
    Z,
    fill_record,
)
from vision3d.recon.splat2d.tiles import TILE

# Planes that change from surfel to surfel: light, and sums over what lies behind of weight times its gradient, of
# weights and of moments. The others hold gradients with respect to a pixel's sums.
LIGHT = np.uint64(0)
SUFFIX = np.uint64(PLANE)
AFTER = np.uint64(2 * PLANE)
AFTER_MOMENT = np.uint64(3 * PLANE)
RED = np.uint64(4 * PLANE)
GREEN = np.uint64(5 * PLANE)
BLUE = np.uint64(6 * PLANE)
SQUARE = np.uint64(7 * PLANE)
NORMAL0 = np.uint64(8 * PLANE)
NORMAL1 = np.uint64(9 * PLANE)
NORMAL2 = np.uint64(10 * PLANE)
ALPHA = np.uint64(11 * PLANE)
MOMENT = np.uint64(12 * PLANE)
SPREAD = np.uint64(13 * PLANE)
TOTAL_MOMENT = np.uint64(14 * PLANE)
LAST = np.uint64(15 * PLANE)
PLANES = 16

# Behind the planes: the surfel's record; what its loops hand on, TILE strips each; sums, LANES columns each.
_RECORD = np.uint64(PLANES * PLANE)
_STEP = TILE * LANES
_INVERSE = np.uint64(PLANES * PLANE + RECORD)  # 1 / q, 0 where the plane does not count; u and v likewise
_U = _INVERSE + np.uint64(_STEP)
_V = _INVERSE + np.uint64(2 * _STEP)
_DEPTH = _INVERSE + np.uint64(3 * _STEP)
_STRENGTH = _INVERSE + np.uint64(4 * _STEP)  # opacity times Gaussian; first its exponent, at last the weight
_G = _INVERSE + np.uint64(5 * _STEP)  # minus twice the gradient of u^2 + v^2
_G_DEPTH = _INVERSE + np.uint64(6 * _STEP)
_SUMS = _INVERSE + np.uint64(7 * _STEP)
SUMS = 20
_ROUNDED = -(-SUMS // LANES) * LANES
MEMORY = int(_SUMS) + _ROUNDED * LANES

AHEAD = 12  # surfels read ahead of their use

_ONE = np.float32(1)
_ZERO = np.float32(0)
_TWO = np.float32(2)
_LOW_PASS = np.float32(LOW_PASS)
_MAX_ALPHA = np.float32(MAX_ALPHA)
_MIN_DENOMINATOR = np.float32(MIN_DENOMINATOR)
_PER_EXPONENT = _ONE / EXPONENT
_PER_ROOT = _ONE / ROOT
_WIDTH = np.uint64(TILE)
_LANES = np.uint64(LANES)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def composite_backward(
    table,
    boxes,
    starts,
    members,
    slots,
    row0,
    columns,
    width,
    height,
    near,
    out,
    state,
    references,
    d_color,
    d_alpha,
    d_depth,
    d_median,
    d_normal,
    d_distortion,
    d_variance,
    partials,
):  # pragma: no cover (compiled)
    """Writes partials [pairs 16] at the pairs' slots, from the gradients of the channels of `out`."""
    for tile in numba.prange(len(starts) - 1):
        left, top = (tile % columns) * TILE, (tile // columns + row0) * TILE
        wide, high = min(TILE, width - left), min(TILE, height - top)
        start = starts[tile]
        reference = references[tile]
        allocated = np.zeros(MEMORY + TILE, np.float32)
        offset = (-(allocated.ctypes.data // 4)) % TILE  # to a multiple of 64 bytes
        planes = allocated[offset : offset + MEMORY]
        totals = np.empty(_ROUNDED, np.float32)
        for j in range(np.uint64(0), np.uint64(TILE * TILE)):
            planes[j + LIGHT] = _ONE
            planes[j + LAST] = -_ONE
        used = -_ONE
        strip_used = np.full(STRIPS, -_ONE)  # place of the last surfel that any pixel of a strip takes
        for r in range(high):
            y = top + r
            for c in range(wide):
                x, j = left + c, np.uint64(r * TILE + c)
                light, moment = state[0, y, x], state[1, y, x]
                total = _ONE - light
                g_moment = d_depth[y, x] / total if total > _ZERO else _ZERO
                towards_mean = g_moment * moment / total if total > _ZERO else _ZERO
                g_variance = d_variance[y, x]
                planes[j + LIGHT] = light
                planes[j + RED] = d_color[0, y, x] - _TWO * g_variance * out[0, y, x]
                planes[j + GREEN] = d_color[1, y, x] - _TWO * g_variance * out[1, y, x]
                planes[j + BLUE] = d_color[2, y, x] - _TWO * g_variance * out[2, y, x]
                planes[j + SQUARE] = g_variance
                planes[j + NORMAL0] = d_normal[0, y, x]
                planes[j + NORMAL1] = d_normal[1, y, x]
                planes[j + NORMAL2] = d_normal[2, y, x]
                planes[j + ALPHA] = d_alpha[y, x] - towards_mean
                planes[j + MOMENT] = g_moment
                planes[j + SPREAD] = _TWO * d_distortion[y, x]
                planes[j + TOTAL_MOMENT] = moment
                planes[j + LAST] = state[2, y, x]
                strip = c // LANES * TILE + r
                strip_used[strip] = max(strip_used[strip], state[2, y, x])
        for strip in range(STRIPS):
            used = max(used, strip_used[strip])
        end = start + np.int64(used) + 1
        for place in range(end, starts[tile + 1]):
            partials[slots[place], :] = _ZERO
        x_tile, y_tile = np.float32(left), np.float32(top)
        for entry in range(end - 1, start - 1, -1):
            ahead = max(entry - AHEAD, start)
            prefetch(table, np.uint64(members[ahead]))
            prefetch(boxes, np.uint64(members[ahead]))
            prefetch(partials, np.uint64(slots[ahead]))  # stores that wait for memory hold up those behind them
            s = np.uint64(members[entry])
            place = np.float32(entry - start)
            fill_record(table, s, x_tile, y_tile, near, reference, place, planes, _RECORD)
            for i in range(np.uint64(SUMS)):
                store(planes, _SUMS + i * _LANES, _ZERO)
            top_row, bottom_row = max(boxes[s, 2] - top, 0), min(boxes[s, 3] - top, high - 1)
            for h in range(max(boxes[s, 0] - left, 0) // LANES, min(boxes[s, 1] - left, TILE - 1) // LANES + 1):
                first, last = top_row, bottom_row
                while first <= last and place > strip_used[h * TILE + first]:
                    first += 1
                while first <= last and place > strip_used[h * TILE + last]:
                    last -= 1
                if first <= last:
                    _add_gradients(planes, np.uint64(h * LANES), np.uint64(first), np.uint64(last + 1), reference)
            for i in range(np.uint64(0), np.uint64(SUMS), _LANES):
                store_sums(planes, _SUMS + i * _LANES, totals, i)
            s_u, s_ux, s_uy, s_v, s_vx, s_vy = totals[0], totals[1], totals[2], totals[3], totals[4], totals[5]
            s_q, s_qx, s_qy, s_sx, s_sy = totals[6], totals[7], totals[8], totals[9], totals[10]
            s_g, s_z, twice_cc = totals[11], totals[12], _TWO * totals[16]
            slot = np.uint64(slots[entry])
            partials[slot, 0] = (table[s, 2] * s_u + table[s, 4] * s_v) * _PER_EXPONENT - table[s, 6] * s_q
            partials[slot, 0] += _LOW_PASS * s_sx
            partials[slot, 1] = (table[s, 3] * s_u + table[s, 5] * s_v) * _PER_EXPONENT - table[s, 7] * s_q
            partials[slot, 1] += _LOW_PASS * s_sy
            partials[slot, 2] = -s_ux * _PER_ROOT
            partials[slot, 3] = -s_uy * _PER_ROOT
            partials[slot, 4] = -s_vx * _PER_ROOT
            partials[slot, 5] = -s_vy * _PER_ROOT
            partials[slot, 6] = s_qx
            partials[slot, 7] = s_qy
            partials[slot, 8] = s_z
            partials[slot, 9] = s_g
            partials[slot, 10] = totals[13] + table[s, 10] * twice_cc
            partials[slot, 11] = totals[14] + table[s, 11] * twice_cc
            partials[slot, 12] = totals[15] + table[s, 12] * twice_cc
            partials[slot, 13], partials[slot, 14], partials[slot, 15] = totals[17], totals[18], totals[19]
        # Median depth: one surfel per pixel.
        for r in range(high):
            for c in range(wide):
                g = d_median[top + r, left + c]
                place = np.int64(state[3, top + r, left + c])
                if place < 0 or g == _ZERO:
                    continue
                s, slot = np.uint64(members[start + place]), np.uint64(slots[start + place])
                q, inside = denominator(table, s, left + c, top + r, near)
                if inside:
                    g_q = -g * table[s, 8] / (q * q)
                    partials[slot, 0] -= g_q * table[s, 6]
                    partials[slot, 1] -= g_q * table[s, 7]
                    partials[slot, 6] += g_q * (np.float32(c) + HALF - (table[s, 0] - np.float32(left)))
                    partials[slot, 7] += g_q * (np.float32(r) + HALF - (table[s, 1] - np.float32(top)))
                    partials[slot, 8] += g / q
                else:
                    partials[slot, 8] += g


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _add_gradients(planes, left, first_row, end_row, reference):  # pragma: no cover (compiled)
    """Adds to the sums what the recorded surfel has of the strips at column `left` in rows first_row to end_row.

    Short loops, one after another, for the reason given at `forward._add_surfels`.
    """
    dx = centres() + (np.float32(left) - planes[_RECORD + X])
    column = _RECORD + COLUMNS + left
    column_q, column_z, column_screen = load(planes, column), load(planes, column + Z), load(planes, column + DISTANCE)
    column_u, column_v = load(planes, column + U), load(planes, column + V)
    opacity, largest = planes[_RECORD + OPACITY], planes[_RECORD + LARGEST]
    beyond, place = planes[_RECORD + BEYOND], planes[_RECORD + PLACE]
    for r in range(first_row, end_row):
        row, n = _RECORD + ROWS + r, r * _LANES
        q = column_q + planes[row]
        inverse = _ONE / q  # of any q at all: what is not inside is not used
        u = (column_u + planes[row + U]) * inverse
        v = (column_v + planes[row + V]) * inverse
        on_plane = u * u + v * v
        on_screen = column_screen + planes[row + DISTANCE]
        inside = (q > _MIN_DENOMINATOR) & (q < largest) & (on_plane <= on_screen)
        store(planes, _INVERSE + n, select(inside, inverse, _ZERO))
        store(planes, _U + n, select(inside, u, _ZERO))
        store(planes, _V + n, select(inside, v, _ZERO))
        store(planes, _DEPTH + n, select(inside, (column_z + planes[row + Z]) * inverse, beyond))
        store(planes, _STRENGTH + n, opacity - select(inside, on_plane, on_screen))
    for r in range(first_row, end_row):
        n = r * _LANES
        exponent, last = load(planes, _STRENGTH + n), load(planes, r * _WIDTH + left + LAST)
        hit = (exponent >= FAINTEST) & (last >= place)
        store(planes, _STRENGTH + n, select(hit, fast_exp2(exponent), _ZERO))
    c0, c1 = planes[_RECORD + COLOR], planes[_RECORD + COLOR + np.uint64(1)]
    c2, square = planes[_RECORD + COLOR + np.uint64(2)], planes[_RECORD + COLOR + np.uint64(3)]
    n0, n1 = planes[_RECORD + NORMAL], planes[_RECORD + NORMAL + np.uint64(1)]
    n2 = planes[_RECORD + NORMAL + np.uint64(2)]
    sum_g = in_all_lanes(_ZERO)
    for r in range(first_row, end_row):
        j, n = r * _WIDTH + left, r * _LANES
        strength, z = load(planes, _STRENGTH + n), load(planes, _DEPTH + n)
        alpha = minimum(strength, _MAX_ALPHA)
        through = _ONE / (_ONE - alpha)
        light = load(planes, j + LIGHT) * through  # that reaches this surfel
        weight = alpha * light
        suffix, after = load(planes, j + SUFFIX), load(planes, j + AFTER)
        after_moment = load(planes, j + AFTER_MOMENT)
        g_moment, spread = load(planes, j + MOMENT), load(planes, j + SPREAD)
        between = _ONE - light - after  # weights in front less weights behind
        of_color = load(planes, j + RED) * c0 + load(planes, j + GREEN) * c1
        of_color += load(planes, j + BLUE) * c2 + load(planes, j + SQUARE) * square
        of_normal = load(planes, j + NORMAL0) * n0 + load(planes, j + NORMAL1) * n1
        of_normal += load(planes, j + NORMAL2) * n2 + load(planes, j + ALPHA)
        of_spread = z * (between + weight) + (after_moment * _TWO - load(planes, j + TOTAL_MOMENT))
        g_weight = of_color + of_normal + (g_moment * z + spread * of_spread)
        store(planes, j + LIGHT, light)
        store(planes, j + SUFFIX, suffix + weight * g_weight)
        store(planes, j + AFTER, after + weight)
        store(planes, j + AFTER_MOMENT, after_moment + weight * z)
        g = select(strength <= _MAX_ALPHA, (light * g_weight - suffix * through) * strength, _ZERO)
        sum_g += g
        store(planes, _STRENGTH + n, weight)
        store(planes, _G + n, g)
        store(planes, _G_DEPTH + n, weight * (g_moment + spread * between))
    _add_to(planes, 11, sum_g)
    sum_u, y_u, sum_v, y_v = in_all_lanes(_ZERO), in_all_lanes(_ZERO), in_all_lanes(_ZERO), in_all_lanes(_ZERO)
    sum_q, y_q, sum_s, y_s = in_all_lanes(_ZERO), in_all_lanes(_ZERO), in_all_lanes(_ZERO), in_all_lanes(_ZERO)
    sum_z = in_all_lanes(_ZERO)
    y0 = planes[_RECORD + Y]
    for r in range(first_row, end_row):
        n = r * _LANES
        dy = np.float32(r) + HALF - y0
        inverse, g, z = load(planes, _INVERSE + n), load(planes, _G + n), load(planes, _DEPTH + n)
        u, v, g_z = load(planes, _U + n), load(planes, _V + n), load(planes, _G_DEPTH + n)
        g_plane, g_depth = g * inverse, g_z * inverse
        inside = inverse > _ZERO
        g_screen = select(inside, _ZERO, g)
        sum_z += select(inside, g_depth, g_z)
        g_q = g_plane * ((u * u + v * v) * _PER_EXPONENT) - g_depth * (z + reference)
        g_u, g_v = g_plane * u, g_plane * v
        sum_u += g_u
        y_u += g_u * dy
        sum_v += g_v
        y_v += g_v * dy
        sum_q += g_q
        y_q += g_q * dy
        sum_s += g_screen
        y_s += g_screen * dy
    _add_to(planes, 0, sum_u)
    _add_to(planes, 1, sum_u * dx)
    _add_to(planes, 2, y_u)
    _add_to(planes, 3, sum_v)
    _add_to(planes, 4, sum_v * dx)
    _add_to(planes, 5, y_v)
    _add_to(planes, 6, sum_q)
    _add_to(planes, 7, sum_q * dx)
    _add_to(planes, 8, y_q)
    _add_to(planes, 9, sum_s * dx)
    _add_to(planes, 10, y_s)
    _add_to(planes, 12, sum_z)
    sum_c0, sum_c1, sum_c2, sum_cc = in_all_lanes(_ZERO), in_all_lanes(_ZERO), in_all_lanes(_ZERO), in_all_lanes(_ZERO)
    sum_n0, sum_n1, sum_n2 = in_all_lanes(_ZERO), in_all_lanes(_ZERO), in_all_lanes(_ZERO)
    for r in range(first_row, end_row):
        j = r * _WIDTH + left
        weight = load(planes, _STRENGTH + r * _LANES)
        sum_c0 += weight * load(planes, j + RED)
        sum_c1 += weight * load(planes, j + GREEN)
        sum_c2 += weight * load(planes, j + BLUE)
        sum_cc += weight * load(planes, j + SQUARE)
        sum_n0 += weight * load(planes, j + NORMAL0)
        sum_n1 += weight * load(planes, j + NORMAL1)
        sum_n2 += weight * load(planes, j + NORMAL2)
    _add_to(planes, 13, sum_c0)
    _add_to(planes, 14, sum_c1)
    _add_to(planes, 15, sum_c2)
    _add_to(planes, 16, sum_cc)
    _add_to(planes, 17, sum_n0)
    _add_to(planes, 18, sum_n1)
    _add_to(planes, 19, sum_n2)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _add_to(planes, i, columns):  # pragma: no cover (compiled)
    """Adds to columns of sums number i."""
    at = _SUMS + np.uint64(i) * _LANES
    store(planes, at, load(planes, at) + columns)


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def add_partials(partials, firsts, gradient):  # pragma: no cover (compiled)
    """gradient[i] += the sum of surfel i's partials, in the order of its tiles."""
    for i in numba.prange(len(firsts) - 1):
        for p in range(firsts[i], firsts[i + 1]):
            for k in range(16):
                gradient[i, k] += partials[p, k]
