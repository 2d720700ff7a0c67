"""What attention over groups says to single cells, and the MLP on it, with products of 16-bit integers on a CPU.

A line of cells goes through both matrix products, the message's interpolation and the norm in one core's cache. The
readable twin is `transformer.update_cells`.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor, nn

from vision3d.core.stack_memory import floats_on_stack
from vision3d.matching.eloftr.cell_update import add_normalised_cell, blend_line
from vision3d.matching.short_products import COLUMNS, ShortMatrix, count_row, multiply_short, place_in_products
from vision3d.matching.winograd import empty
from vision3d.sparse.microkernels import take_ticket
from vision3d.sparse.threads import use_torch_threads

_part = floats_on_stack(COLUMNS)  # apart from all arrays, so that loops are vectorised


def update_cells_short(
    x: Float[Tensor, "b h w c"],
    grid: Float[Tensor, "b i j d"],
    first: ShortMatrix,
    second: ShortMatrix,
    slope: float,
    norm: nn.LayerNorm,
) -> Float[Tensor, "b h w c"]:
    """As `transformer.update_cells`: x, grid contiguous; h and w are the same multiple of i and j."""
    threads = use_torch_threads()
    _, _, w, c = x.shape
    d = grid.shape[3]
    out = empty(tuple(x.shape))
    narrow, wide = np.empty((threads, w, c), np.int16), np.empty((threads, w, d), np.int16)
    _update(
        x.numpy(),
        grid.numpy(),
        first.arrays,
        second.arrays,
        np.float32(slope),
        (norm.weight.detach().numpy(), norm.bias.detach().numpy(), np.float32(norm.eps)),
        (narrow, narrow.view(np.int32)),
        (wide, wide.view(np.int32)),
        np.empty((threads, (w + 1) * max(c, d)), np.int32),
        np.zeros(1, np.int64),
        out.numpy(),
    )
    return out


@njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _update(x, grid, first, second, slope, norm, narrow, wide, products, tickets, out):  # pragma: no cover
    """Lines of cells, each by one thread, in its own memory: counted numbers (and in pairs), products."""
    items, h, w, c = x.shape
    rows, columns, d = grid.shape[1:]
    places = np.arange(w)
    for worker in prange(products.shape[0]):
        cells, hidden, sums = narrow[0][worker], wide[0][worker], products[worker]
        scales, cell = np.empty(w, np.float32), np.empty(d, np.float32)
        blend = np.empty((columns, d), np.float32)
        while True:
            number = take_ticket(tickets)
            if number >= items * h:
                break
            item, line = number // h, number % h
            for u in range(w):
                scales[u] = count_row(x[item, line, u], first[2], cells[u])
            multiply_short(narrow[1][worker], first, d, places, sums)
            blend_line(grid[item], line, h // rows, blend)
            for u in range(w):
                _add_message(sums, u, w, first, scales[u], blend, w // columns, slope, cell)
                scales[u] = count_row(cell, second[2], hidden[u])
            multiply_short(wide[1][worker], second, c, places, sums)
            for u in range(w):
                _to_numbers(sums, u, w, second, scales[u], cell[:c])
                add_normalised_cell(cell[:c], x[item, line, u], norm[0], norm[1], norm[2], out[item, line, u])


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _add_message(sums, u, w, matrix, scale, blend, times, slope, cell):  # pragma: no cover (compiled)
    """cell = leaky ReLU(its products + the blend interpolated to it)."""
    _, spread, _, side = matrix
    part = _part()
    x = max((u + 0.5) / times - 0.5, 0.0)
    left = int(x)
    before, after, along = blend[left], blend[min(left + 1, len(blend) - 1)], np.float32(x - left)
    for number in range(len(cell) // COLUMNS):
        begin, at = COLUMNS * number, np.uint64(place_in_products(number, w + 1, u, side))
        for k in range(COLUMNS):
            j = np.uint64(begin) + np.uint64(k)
            message = before[j] + along * (after[j] - before[j])
            t = np.float32(sums[at + np.uint64(k)]) * (scale * spread[j]) + message
            part[k] = max(t, slope * t)
        for k in range(COLUMNS):
            cell[np.uint64(begin) + np.uint64(k)] = part[k]


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _to_numbers(sums, u, w, matrix, scale, update):  # pragma: no cover (compiled)
    """The products of one cell."""
    _, spread, _, side = matrix
    part = _part()
    for number in range(len(update) // COLUMNS):
        begin, at = COLUMNS * number, np.uint64(place_in_products(number, w + 1, u, side))
        for k in range(COLUMNS):
            part[k] = np.float32(sums[at + np.uint64(k)]) * (scale * spread[np.uint64(begin) + np.uint64(k)])
        for k in range(COLUMNS):
            update[np.uint64(begin) + np.uint64(k)] = part[k]
