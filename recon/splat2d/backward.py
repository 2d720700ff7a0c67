"""Gradients of `composite_forward`, back to front: sums per (tile, surfel) pair, added per surfel in fixed order.

A row's 16 pixels add to 16 columns of sums; offsets along x are constant in a column, so their moments cost nothing
until the columns are added up.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.core.fast_exp import fast_exp2
from vision3d.recon.splat2d.forward import denominator
from vision3d.recon.splat2d.llvm_operations import prefetch, row_on_stack
from vision3d.recon.splat2d.project import LOW_PASS, MAX_ALPHA, MIN_DENOMINATOR
from vision3d.recon.splat2d.tile_memory import (
    EXPONENT,
    FAINTEST,
    FAST,
    HALF,
    LINES,
    PLANE,
    ROOT,
    ROWS,
    SCREEN_LINE,
    TINY,
    WIDTH,
    U,
    V,
    Z,
    fill_lines,
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

AHEAD = 12  # surfels read ahead of their use

_ONE = np.float32(1)
_ZERO = np.float32(0)
_TWO = np.float32(2)
_LOW_PASS = np.float32(LOW_PASS)
_MAX_ALPHA = np.float32(MAX_ALPHA)
_MIN_DENOMINATOR = np.float32(MIN_DENOMINATOR)
_PER_EXPONENT = _ONE / EXPONENT
_PER_ROOT = _ONE / ROOT


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
        memory = np.zeros(PLANES * PLANE + TILE, np.float32)
        offset = (-(memory.ctypes.data // 4)) % TILE
        planes = memory[offset : offset + PLANES * PLANE]
        lines = np.empty(LINES, np.float32)
        # Columns of sums; those called y_ are weighted with the row's offset.
        sum_u, y_u, sum_v, y_v = row_on_stack(), row_on_stack(), row_on_stack(), row_on_stack()
        sum_q, y_q, sum_s, y_s = row_on_stack(), row_on_stack(), row_on_stack(), row_on_stack()
        sum_g, sum_z, sum_c0, sum_c1 = row_on_stack(), row_on_stack(), row_on_stack(), row_on_stack()
        sum_c2, sum_cc, sum_n0, sum_n1 = row_on_stack(), row_on_stack(), row_on_stack(), row_on_stack()
        sum_n2 = row_on_stack()
        for j in range(np.uint64(0), np.uint64(TILE * TILE)):
            planes[j + LIGHT] = _ONE
            planes[j + LAST] = -_ONE
        used = -_ONE
        row_used = np.empty(TILE, np.float32)  # place of the last surfel that any pixel of a row takes
        for r in range(high):
            y = top + r
            row_used[r] = -_ONE
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
                row_used[r] = max(row_used[r], state[2, y, x])
            used = max(used, row_used[r])
        end = start + np.int64(used) + 1
        for place in range(end, starts[tile + 1]):
            partials[slots[place], :] = _ZERO
        x_tile, y_tile = np.float32(left), np.float32(top)
        for entry in range(end - 1, start - 1, -1):
            ahead = np.uint64(members[max(entry - AHEAD, start)])
            prefetch(table, ahead)
            prefetch(boxes, ahead)
            s = np.uint64(members[entry])
            fill_lines(table[s], x_tile, y_tile, reference, lines)
            x0, y0, a1, a2 = table[s, 0] - x_tile, table[s, 1] - y_tile, table[s, 2], table[s, 3]
            b1, b2, w1, w2 = table[s, 4], table[s, 5], table[s, 6], table[s, 7]
            z0, beyond, opacity = table[s, 8], table[s, 8] - reference, table[s, 9]
            c0, c1, c2 = table[s, 10], table[s, 11], table[s, 12]
            n0, n1, n2 = table[s, 13], table[s, 14], table[s, 15]
            square = c0 * c0 + c1 * c1 + c2 * c2
            largest = z0 / max(near, TINY * z0)
            place = np.float32(entry - start)
            for c in range(WIDTH):
                sum_u[c] = y_u[c] = sum_v[c] = y_v[c] = sum_q[c] = y_q[c] = sum_s[c] = y_s[c] = _ZERO
                sum_g[c] = sum_z[c] = sum_c0[c] = sum_c1[c] = sum_c2[c] = sum_cc[c] = _ZERO
                sum_n0[c] = sum_n1[c] = sum_n2[c] = _ZERO
            first_row, last_row = max(boxes[s, 2] - top, 0), min(boxes[s, 3] - top, high - 1)
            for r in range(np.uint64(first_row), np.uint64(last_row + 1)):
                if place > row_used[r]:
                    continue
                row_q, row_z = lines[ROWS + r], lines[ROWS + Z + r]
                row_u, row_v, row_screen = lines[ROWS + U + r], lines[ROWS + V + r], lines[ROWS + SCREEN_LINE + r]
                dy = np.float32(r) + HALF - y0
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
                    hit = (opacity - rho >= FAINTEST) & (place <= planes[j + LAST])
                    strength = fast_exp2(opacity - rho) if hit else _ZERO
                    alpha = min(strength, _MAX_ALPHA)
                    through = _ONE / (_ONE - alpha)
                    light = planes[j + LIGHT] * through  # that reaches this surfel
                    weight = alpha * light
                    after, after_moment = planes[j + AFTER], planes[j + AFTER_MOMENT]
                    g0, g1, g2, gc = planes[j + RED], planes[j + GREEN], planes[j + BLUE], planes[j + SQUARE]
                    h0, h1, h2 = planes[j + NORMAL0], planes[j + NORMAL1], planes[j + NORMAL2]
                    g_moment, spread = planes[j + MOMENT], planes[j + SPREAD]
                    between = _ONE - light - after  # weights in front less weights behind
                    g_weight = (
                        (g0 * c0 + g1 * c1)
                        + (g2 * c2 + gc * square)
                        + (h0 * n0 + h1 * n1)
                        + (h2 * n2 + planes[j + ALPHA])
                        + g_moment * z
                        + spread * (z * (between + weight) + (_TWO * after_moment - planes[j + TOTAL_MOMENT]))
                    )
                    suffix = planes[j + SUFFIX]
                    planes[j + LIGHT] = light
                    planes[j + SUFFIX] = suffix + weight * g_weight
                    planes[j + AFTER] = after + weight
                    planes[j + AFTER_MOMENT] = after_moment + weight * z
                    g_strength = light * g_weight - suffix * through if strength <= _MAX_ALPHA else _ZERO
                    g = g_strength * strength  # minus twice the gradient of u^2 + v^2
                    g_plane = g if inside else _ZERO
                    g_screen = g - g_plane
                    g_z = weight * (g_moment + spread * between)
                    g_depth = g_z * inverse if inside else _ZERO
                    g_u = g_plane * u * inverse
                    g_v = g_plane * v * inverse
                    g_q = g_plane * on_plane * _PER_EXPONENT * inverse - g_depth * (z + reference)
                    sum_u[c] += g_u
                    y_u[c] += g_u * dy
                    sum_v[c] += g_v
                    y_v[c] += g_v * dy
                    sum_q[c] += g_q
                    y_q[c] += g_q * dy
                    sum_s[c] += g_screen
                    y_s[c] += g_screen * dy
                    sum_g[c] += g
                    sum_z[c] += g_depth if inside else g_z
                    sum_c0[c] += weight * g0
                    sum_c1[c] += weight * g1
                    sum_c2[c] += weight * g2
                    sum_cc[c] += weight * gc
                    sum_n0[c] += weight * h0
                    sum_n1[c] += weight * h1
                    sum_n2[c] += weight * h2
            s_u = s_ux = s_uy = s_v = s_vx = s_vy = s_q = s_qx = s_qy = s_sx = s_sy = s_g = s_z = _ZERO
            s_c0 = s_c1 = s_c2 = s_cc = s_n0 = s_n1 = s_n2 = _ZERO
            for c in range(WIDTH):
                dx = np.float32(c) + HALF - x0
                s_u += sum_u[c]
                s_ux += sum_u[c] * dx
                s_uy += y_u[c]
                s_v += sum_v[c]
                s_vx += sum_v[c] * dx
                s_vy += y_v[c]
                s_q += sum_q[c]
                s_qx += sum_q[c] * dx
                s_qy += y_q[c]
                s_sx += sum_s[c] * dx
                s_sy += y_s[c]
                s_g += sum_g[c]
                s_z += sum_z[c]
                s_c0 += sum_c0[c]
                s_c1 += sum_c1[c]
                s_c2 += sum_c2[c]
                s_cc += sum_cc[c]
                s_n0 += sum_n0[c]
                s_n1 += sum_n1[c]
                s_n2 += sum_n2[c]
            slot = np.uint64(slots[entry])
            partials[slot, 0] = (a1 * s_u + b1 * s_v) * _PER_EXPONENT - w1 * s_q + _LOW_PASS * s_sx
            partials[slot, 1] = (a2 * s_u + b2 * s_v) * _PER_EXPONENT - w2 * s_q + _LOW_PASS * s_sy
            partials[slot, 2] = -s_ux * _PER_ROOT
            partials[slot, 3] = -s_uy * _PER_ROOT
            partials[slot, 4] = -s_vx * _PER_ROOT
            partials[slot, 5] = -s_vy * _PER_ROOT
            partials[slot, 6] = s_qx
            partials[slot, 7] = s_qy
            partials[slot, 8] = s_z
            partials[slot, 9] = s_g
            partials[slot, 10] = s_c0 + _TWO * c0 * s_cc
            partials[slot, 11] = s_c1 + _TWO * c1 * s_cc
            partials[slot, 12] = s_c2 + _TWO * c2 * s_cc
            partials[slot, 13] = s_n0
            partials[slot, 14] = s_n1
            partials[slot, 15] = s_n2
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


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def add_partials(partials, firsts, gradient):  # pragma: no cover (compiled)
    """gradient[i] += the sum of surfel i's partials, in the order of its tiles."""
    for i in numba.prange(len(firsts) - 1):
        for p in range(firsts[i], firsts[i + 1]):
            for k in range(16):
                gradient[i, k] += partials[p, k]
