"""Fine matching of pairs of windows in one kernel (Efficient LoFTR, section 3.4): float32 on a CPU.

A thread keeps a pair's windows, their similarities and sums in its first two caches. The best pair of pixels is found
in the logarithm of the dual softmax. The readable twin is `fine.match_windows`.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from vision3d.core.fast_exp import fast_exp2
from vision3d.sparse.microkernels import ROWS, VECTORS, add_rows, lanes, take_ticket
from vision3d.sparse.threads import use_torch_threads

WINDOW = 8  # px a side of a window in photo 0; one px more on each side in photo 1
PIXELS, RINGED = WINDOW**2, (WINDOW + 2) ** 2
_ROWS = ROWS
_LOG2E = np.float32(1 / np.log(2))
_LOWEST = np.float32(-126)  # 2^ of less is no normal float32
_NEAR, _FAR = np.float32(0.75), np.float32(0.25)


def match_windows_in_cache(
    half0: Float[Tensor, "b h w c"],
    half1: Float[Tensor, "b i j c"],
    item: Int[Tensor, " m"],
    cells: tuple[Int[Tensor, " m"], Int[Tensor, " m"]],
    grids: tuple[int, int],
    limits: tuple[Int[Tensor, "b 2"], Int[Tensor, "b 2"]],
    extra: int,
    centre: int,
    temperature: float,
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, "m 2"]]:
    """As `fine.match_windows`. half: contiguous; limits: rows and columns of the maps that are photo."""
    c, m = half0.shape[3], len(item)
    threads, depth, span = use_torch_threads(), c - extra, VECTORS * lanes(4)
    columns = -(-RINGED // span) * span
    pixel0, pixel1, move = np.empty(m, np.int64), np.empty(m, np.int64), np.empty((m, 2), np.float32)
    _match(
        half0.numpy(),
        half1.numpy(),
        item.numpy(),
        cells[0].numpy(),
        cells[1].numpy(),
        grids[0],
        grids[1],
        limits[0].numpy(),
        limits[1].numpy(),
        centre,
        np.float32(extra**0.5 * temperature),
        np.float32(1 / c) * _LOG2E,
        span,
        np.arange(PIXELS),
        np.empty((threads, WINDOW, c), np.float32),
        np.empty((threads, PIXELS, depth), np.float32),
        np.zeros((threads, depth, columns), np.float32),
        np.empty((threads, PIXELS, extra), np.float32),
        np.empty((threads, RINGED, extra), np.float32),
        np.empty((threads, PIXELS + 1, columns), np.float32),
        np.zeros(1, np.int64),
        pixel0,
        pixel1,
        move,
    )
    return torch.from_numpy(pixel0), torch.from_numpy(pixel1), torch.from_numpy(move)


@njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _match(
    half0, half1, item, cells0, cells1, grid0, grid1, limits0, limits1, centre, division, scale, span, places,
    lines, left, right, query, keys, sums, tickets, pixel0, pixel1, move,
):  # pragma: no cover (compiled)  # fmt: skip
    depth, columns = right.shape[1], right.shape[2]
    for worker in prange(len(lines)):
        line, a, b, q, k, total = lines[worker], left[worker], right[worker], query[worker], keys[worker], sums[worker]
        flat, weights = total.reshape(-1), b.reshape(-1)
        while True:
            n = take_ticket(tickets)
            if n >= len(item):
                break
            photo = item[n]
            for v in range(WINDOW):
                _blend(half0[photo], cells0[n] // grid0, cells0[n] % grid0, v, limits0[photo], line)
                for u in range(WINDOW):
                    near, far = 1 + u // 2, u // 2 if u % 2 == 0 else 2 + u // 2
                    for c in range(depth):
                        a[v * WINDOW + u, c] = _NEAR * line[near, c] + _FAR * line[far, c]
                    for c in range(q.shape[1]):
                        q[v * WINDOW + u, c] = _NEAR * line[near, depth + c] + _FAR * line[far, depth + c]
            row, column = cells1[n] // grid1, cells1[n] % grid1
            for v in range(-1, WINDOW + 1):
                _blend(half1[photo], row, column, v, limits1[photo], line)
                off = row * WINDOW + v < 0 or row * WINDOW + v >= 2 * limits1[photo, 0]
                for u in range(-1, WINDOW + 1):
                    x, to = column * WINDOW + u, (v + 1) * (WINDOW + 2) + u + 1
                    near, far = 1 + u // 2, u // 2 if u % 2 == 0 else 2 + u // 2
                    here = np.float32(not (off or x < 0 or x >= 2 * limits1[photo, 1]))
                    for c in range(depth):
                        b[c, to] = here * (_NEAR * line[near, c] + _FAR * line[far, c])
                    for c in range(k.shape[1]):
                        k[to, c] = here * (_NEAR * line[near, depth + c] + _FAR * line[far, depth + c])
            flat[:] = np.float32(0)
            for at in range(0, columns, span):
                for first in range(0, PIXELS, _ROWS):
                    count = min(_ROWS, PIXELS - first)
                    add_rows(VECTORS, a, weights, at, flat, at, places, places, first, count, 0, PIXELS, depth, columns)
            best = _best_pair(total, scale)
            pixel0[n], pixel1[n] = best // PIXELS, best % PIXELS
            _subpixel(q[pixel0[n]], k, pixel1[n], centre, division, move[n])


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _blend(half, row, column, v, limit, line):  # pragma: no cover (compiled)
    """Row v of a cell's window, doubled along y alone: 6 px of the half-resolution map, the first one off the cell."""
    near = row * 4 + v // 2
    far = near - 1 if v % 2 == 0 else near + 1
    near, far = min(max(near, 0), limit[0] - 1), min(max(far, 0), limit[0] - 1)
    for p in range(6):
        x = min(max(column * 4 + p - 1, 0), limit[1] - 1)
        for c in range(half.shape[2]):
            line[p, c] = _NEAR * half[near, x, c] + _FAR * half[far, x, c]


@njit(cache=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _best_pair(total, scale):  # pragma: no cover (compiled)
    """Number of the pair (pixel of the window, pixel without the ring) of the greatest dual softmax."""
    high, mass = np.empty(RINGED, np.float32), np.zeros(RINGED, np.float32)
    high[:] = np.float32(-np.inf)
    rows = np.empty(PIXELS, np.float32)
    for i in range(PIXELS):
        top = np.float32(-np.inf)
        for j in range(RINGED):
            t = total[i, j] * scale
            total[i, j] = t
            high[j] = max(high[j], t)
            top = max(top, t)
        rows[i] = top
    for i in range(PIXELS):
        top, whole = rows[i], np.float32(0)
        for j in range(RINGED):
            t = total[i, j]
            whole += fast_exp2(max(t - top, _LOWEST))
            mass[j] += fast_exp2(max(t - high[j], _LOWEST))
        rows[i] = top + np.log2(whole)
    for j in range(RINGED):
        high[j] += np.log2(mass[j])
    best, value = 0, np.float32(-np.inf)
    for i in range(PIXELS):
        for y in range(WINDOW):
            for x in range(WINDOW):
                j = (y + 1) * (WINDOW + 2) + x + 1
                here = (total[i, j] - rows[i]) + (total[i, j] - high[j])
                if here > value:
                    best, value = (i * WINDOW + y) * WINDOW + x, here
    return best


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _subpixel(query, keys, pixel, centre, division, move):  # pragma: no cover (compiled)
    """Expectation over 3 x 3 px around the pixel, px."""
    side = WINDOW + 2
    logits = np.empty(9, np.float32)
    top = np.float32(-np.inf)
    for s in range(9):
        row, column = pixel // WINDOW + s // 3 - 1 + centre, pixel % WINDOW + s % 3 - 1 + centre
        key = keys[row % side * side + column % side]
        dot = np.float32(0)
        for c in range(len(query)):
            dot += query[c] * key[c]
        logits[s] = dot / division
        top = max(top, logits[s])
    total, x, y = np.float32(0), np.float32(0), np.float32(0)
    for s in range(9):
        weight = np.exp(logits[s] - top)
        total += weight
        x += weight * np.float32(s % 3 - 1)
        y += weight * np.float32(s // 3 - 1)
    move[0], move[1] = x / total, y / total
