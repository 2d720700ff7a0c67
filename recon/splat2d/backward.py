"""Gradients of `composite_forward`, back to front: sums per (tile, surfel) pair, added per surfel in fixed order."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.recon.splat2d.fast_exp import exp2_negative
from vision3d.recon.splat2d.forward import CHUNK, FAST, load_chunk
from vision3d.recon.splat2d.project import LOW_PASS, MAX_ALPHA, MIN_ALPHA, MIN_DENOMINATOR
from vision3d.recon.splat2d.tiles import TILE

PIXELS = TILE * TILE
PLANE = PIXELS + TILE
NP = np.uint64(PLANE)
_ONE = np.float32(1)
_ZERO = np.float32(0)
_TWO = np.float32(2)
_LOW_PASS = np.float32(LOW_PASS)
_MIN_ALPHA = np.float32(MIN_ALPHA)
_MAX_ALPHA = np.float32(MAX_ALPHA)
_MIN_DENOMINATOR = np.float32(MIN_DENOMINATOR)
_HALF = np.float32(0.5)
_EXPONENT = np.float32(-0.5 / np.log(2.0))
_TINY = np.float32(1e-30)
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
_U14 = np.uint64(14)
_U15 = np.uint64(15)
_U16 = np.uint64(16)
_U17 = np.uint64(17)
_U18 = np.uint64(18)


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
    stride,
    width,
    height,
    near,
    out,
    state,
    references,
    upstream,
    partials,
):  # pragma: no cover (compiled)
    """Writes partials [pairs 16] at the pairs' slots, from the gradients upstream [11 h w] of `out`."""
    tiles = len(starts) - 1
    for k in numba.prange(tiles):
        tile = (k * stride) % tiles
        row, column = tile // columns + row0, tile % columns
        left, top = column * TILE, row * TILE
        wide, high = min(TILE, width - left), min(TILE, height - top)
        start = starts[tile]
        reference = references[tile]
        # x, y, light, suffix of weighted gradients, of weights, of moments; then constants of the pixel.
        memory = np.zeros(19 * PLANE + TILE, np.float32)
        offset = (-(memory.ctypes.data // 4)) % TILE
        scratch = memory[offset : offset + 19 * PLANE]
        chunk, spans = np.empty((CHUNK, 20), np.float32), np.empty((CHUNK, 2), np.int64)
        used = -_ONE
        for j in range(PIXELS):
            r, c = j // TILE, j % TILE
            scratch[j] = np.float32(c) + _HALF
            scratch[PLANE + j] = np.float32(r) + _HALF
            scratch[2 * PLANE + j] = _ONE
            scratch[17 * PLANE + j] = -_ONE
            scratch[18 * PLANE + j] = -_ONE
            if r >= high or c >= wide:
                continue
            y, x = top + r, left + c
            light, moment = state[0, y, x], state[1, y, x]
            total = _ONE - light
            g_variance = upstream[10, y, x]
            g_depth = upstream[4, y, x]
            g_moment = g_depth / total if total > _ZERO else _ZERO
            scratch[2 * PLANE + j] = light
            scratch[6 * PLANE + j] = upstream[0, y, x] - _TWO * g_variance * out[0, y, x]
            scratch[7 * PLANE + j] = upstream[1, y, x] - _TWO * g_variance * out[1, y, x]
            scratch[8 * PLANE + j] = upstream[2, y, x] - _TWO * g_variance * out[2, y, x]
            scratch[9 * PLANE + j] = g_variance
            scratch[10 * PLANE + j] = upstream[6, y, x]
            scratch[11 * PLANE + j] = upstream[7, y, x]
            scratch[12 * PLANE + j] = upstream[8, y, x]
            scratch[13 * PLANE + j] = upstream[3, y, x] - (g_moment * moment / total if total > _ZERO else _ZERO)
            scratch[14 * PLANE + j] = g_moment
            scratch[15 * PLANE + j] = _TWO * upstream[9, y, x]
            scratch[16 * PLANE + j] = moment
            scratch[17 * PLANE + j] = state[2, y, x]
            # The median's gradient goes to one surfel per pixel: both numbers are kept in one place.
            scratch[18 * PLANE + j] = state[3, y, x]
            used = max(used, state[2, y, x])
        last = start + np.int64(used)
        for base in range(last - (last - start) % CHUNK, start - 1, -CHUNK):
            count = min(CHUNK, last + 1 - base)
            load_chunk(table, boxes, members, base, count, left, top, high, reference, near, chunk, spans)
            for i in range(count - 1, -1, -1):
                x0, y0, a1, a2 = chunk[i, 0], chunk[i, 1], chunk[i, 2], chunk[i, 3]
                b1, b2, w1, w2 = chunk[i, 4], chunk[i, 5], chunk[i, 6], chunk[i, 7]
                beyond, opacity = chunk[i, 8], chunk[i, 9]
                c0, c1, c2 = chunk[i, 10], chunk[i, 11], chunk[i, 12]
                n0, n1, n2 = chunk[i, 13], chunk[i, 14], chunk[i, 15]
                square, largest = chunk[i, 16], chunk[i, 17]
                place = np.float32(base - start + i)
                s_u = s_ux = s_uy = s_v = s_vx = s_vy = s_q = s_qx = s_qy = s_lx = s_ly = s_z = s_o = _ZERO
                s_c0 = s_c1 = s_c2 = s_c = s_n0 = s_n1 = s_n2 = _ZERO
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
                    gauss = exp2_negative(rho * _EXPONENT)
                    strength = opacity * gauss
                    hit = (strength >= _MIN_ALPHA) & (place <= scratch[j + _U17 * NP])
                    alpha = min(strength, _MAX_ALPHA) if hit else _ZERO
                    through = _ONE / (_ONE - alpha)
                    light = scratch[j + _U2 * NP] * through  # before this surfel
                    weight = alpha * light
                    after = scratch[j + _U4 * NP]  # weights behind it
                    after_moment = scratch[j + _U5 * NP]
                    g0, g1, g2 = scratch[j + _U6 * NP], scratch[j + _U7 * NP], scratch[j + _U8 * NP]
                    gv = scratch[j + _U9 * NP]
                    h0, h1, h2 = scratch[j + _U10 * NP], scratch[j + _U11 * NP], scratch[j + _U12 * NP]
                    g_moment = scratch[j + _U14 * NP]
                    spread = scratch[j + _U15 * NP]
                    between = _ONE - light - after
                    g_weight = (
                        (g0 * c0 + g1 * c1)
                        + (g2 * c2 + gv * square)
                        + (h0 * n0 + h1 * n1)
                        + (h2 * n2 + scratch[j + _U13 * NP])
                        + g_moment * z
                        + spread * (z * (between + weight) + (_TWO * after_moment - scratch[j + _U16 * NP]))
                    )
                    suffix = scratch[j + _U3 * NP]
                    g_alpha = light * g_weight - suffix * through
                    scratch[j + _U2 * NP] = light
                    scratch[j + _U3 * NP] = suffix + weight * g_weight
                    scratch[j + _U4 * NP] = after + weight
                    scratch[j + _U5 * NP] = after_moment + weight * z
                    g_strength = g_alpha if hit & (strength <= _MAX_ALPHA) else _ZERO
                    s_o += g_strength * gauss
                    g_rho = g_strength * strength  # times -1/2, left out until the sums are done
                    g_plane = g_rho if inside else _ZERO
                    g_screen = g_rho - g_plane
                    s_lx += g_screen * dx
                    s_ly += g_screen * dy
                    g_z = weight * (g_moment + spread * between)
                    gz_plane = g_z * inverse if inside else _ZERO
                    s_z += gz_plane if inside else g_z
                    gu = g_plane * u * inverse
                    gw = g_plane * v * inverse
                    s_u += gu
                    s_ux += gu * dx
                    s_uy += gu * dy
                    s_v += gw
                    s_vx += gw * dx
                    s_vy += gw * dy
                    # -(gu u + gw v) for the plane part; the depth part is (z0 / q) / q.
                    gq = g_plane * on_plane * inverse - gz_plane * (z + reference)
                    s_q += gq
                    s_qx += gq * dx
                    s_qy += gq * dy
                    s_c0 += weight * g0
                    s_c1 += weight * g1
                    s_c2 += weight * g2
                    s_c += weight * gv
                    s_n0 += weight * h0
                    s_n1 += weight * h1
                    s_n2 += weight * h2
                slot = slots[base + i]
                partials[slot, 0] = a1 * s_u + b1 * s_v - w1 * s_q + _LOW_PASS * s_lx
                partials[slot, 1] = a2 * s_u + b2 * s_v - w2 * s_q + _LOW_PASS * s_ly
                partials[slot, 2] = -s_ux
                partials[slot, 3] = -s_uy
                partials[slot, 4] = -s_vx
                partials[slot, 5] = -s_vy
                partials[slot, 6] = s_qx
                partials[slot, 7] = s_qy
                partials[slot, 8] = s_z
                partials[slot, 9] = s_o
                partials[slot, 10] = s_c0 + _TWO * c0 * s_c
                partials[slot, 11] = s_c1 + _TWO * c1 * s_c
                partials[slot, 12] = s_c2 + _TWO * c2 * s_c
                partials[slot, 13] = s_n0
                partials[slot, 14] = s_n1
                partials[slot, 15] = s_n2
        # Median depth: one surfel per pixel, outside the vector loop.
        for r in range(high):
            for c in range(wide):
                place = np.int64(scratch[18 * PLANE + r * TILE + c])
                g = upstream[5, top + r, left + c]
                if place < 0 or g == _ZERO:
                    continue
                s, slot = members[start + place], slots[start + place]
                dx = np.float32(c) + _HALF - (table[s, 0] - np.float32(left))
                dy = np.float32(r) + _HALF - (table[s, 1] - np.float32(top))
                q = _ONE + (table[s, 6] * dx + table[s, 7] * dy)
                u = (table[s, 2] * dx + table[s, 3] * dy) / q
                v = (table[s, 4] * dx + table[s, 5] * dy) / q
                z0 = table[s, 8]
                inside = (
                    (q > _MIN_DENOMINATOR)
                    & (q < z0 / max(near, _TINY * z0))
                    & (u * u + v * v <= _LOW_PASS * (dx * dx + dy * dy))
                )
                if inside:
                    gq = -g * z0 / (q * q)
                    partials[slot, 0] -= gq * table[s, 6]
                    partials[slot, 1] -= gq * table[s, 7]
                    partials[slot, 6] += gq * dx
                    partials[slot, 7] += gq * dy
                    partials[slot, 8] += g / q
                else:
                    partials[slot, 8] += g


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def add_partials(partials, firsts, order, gradient):  # pragma: no cover (compiled)
    """gradient[order[i]] += the sum of surfel i's partials, in the order of its tiles."""
    for i in numba.prange(len(firsts) - 1):
        s = order[i]
        for p in range(firsts[i], firsts[i + 1]):
            for k in range(16):
                gradient[s, k] += partials[p, k]
