"""3x3 convolutions of stride 2 with products of 16-bit integers on a CPU; the twin is `torch.nn.functional.conv2d`.

What a line of outputs sees is counted in units, a row of 9 c numbers for each, and multiplied as one matrix.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from vision3d.core.stack_memory import floats_on_stack
from vision3d.matching.short_products import (
    COLUMNS,
    ShortMatrix,
    multiply_short,
    place_in_products,
    short_matrix,
    unit_for,
)
from vision3d.matching.winograd import empty
from vision3d.sparse.microkernels import magnitudes, stored_as, take_ticket
from vision3d.sparse.threads import use_torch_threads

_part = floats_on_stack(COLUMNS)


def strided_kernel(weight: Float[Tensor, "d c 3 3"]) -> ShortMatrix:
    """Prepares a kernel; c and d must be multiples of 16."""
    return short_matrix(weight.permute(0, 2, 3, 1).flatten(1))


def convolve_strided(
    x: Float[Tensor, "b h w c"], kernel: ShortMatrix, bias: Float[Tensor, " d"], slope: float
) -> Float[Tensor, "b i j d"]:
    """Convolution (stride 2, padding 1), bias and leaky ReLU. x: float32 on the CPU, c a multiple of 16."""
    threads = use_torch_threads()
    b, h, w, c = x.shape
    d, width = len(bias), (w + 1) // 2
    out = empty((b, (h + 1) // 2, width, d))
    seen = np.empty((threads, width, 9 * c), np.int16)
    sums = np.empty((threads, (width + 1) * d), np.int32)
    _convolve(
        x.contiguous().numpy(),
        kernel.arrays,
        bias.numpy(),
        np.float32(slope),
        seen,
        seen.view(np.int32),
        sums,
        np.zeros(1, np.int64),
        out.numpy(),
    )
    return out


@njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _convolve(x, matrix, bias, slope, seen, pairs, products, tickets, out):  # pragma: no cover (compiled)
    """Lines of outputs, each by one thread, in its own memory: what they see (numbers, and in pairs) and products."""
    height, width, d = out.shape[1:]
    places = np.arange(width)
    for worker in prange(seen.shape[0]):
        rows, sums, units = seen[worker], products[worker], np.empty(width, np.float32)
        while True:
            number = take_ticket(tickets)
            if number >= len(x) * height:
                break
            item, line = number // height, number % height
            for u in range(width):
                units[u] = _see(x, item, 2 * line - 1, 2 * u - 1, matrix[2], rows[u])
            multiply_short(pairs[worker], matrix, d, places, sums)
            for u in range(width):
                _finish(sums, u, width, matrix, units[u], bias, slope, out[item, line, u])


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _see(x, item, top, left, factors, row):  # pragma: no cover (compiled)
    """Counts 3 x 3 px of input, zero off the map and multiplied by factors, in a unit, which is returned."""
    h, w, c = x.shape[1:]
    first, last = max(left, 0), min(left + 3, w)
    most, squares = np.float32(0), np.float32(0)
    for i in range(max(top, 0), min(top + 3, h)):
        at = (3 * (i - top) + first - left) * c
        m, s = magnitudes(x, ((item * h + i) * w + first) * c, (last - first) * c, factors, at)
        most, squares = max(most, m), squares + s
    unit = unit_for(most, squares)
    scale = np.float32(1) / unit
    for i in range(3):
        for j in range(3):
            to = row[(3 * i + j) * c : (3 * i + j + 1) * c]
            if 0 <= top + i < h and 0 <= left + j < w:
                of, times = x[item, top + i, left + j], factors[(3 * i + j) * c : (3 * i + j + 1) * c]
                for k in range(c):
                    to[k] = stored_as(of[k] * times[k] * scale, to)
            else:
                to[:] = 0
    return unit


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _finish(sums, u, width, matrix, unit, bias, slope, out):  # pragma: no cover (compiled)
    """An output's sums to its numbers: scales, bias, leaky ReLU."""
    _, spread, _, side = matrix
    part = _part()
    for number in range(len(out) // COLUMNS):
        begin, at = COLUMNS * number, np.uint64(place_in_products(number, width + 1, u, side))
        for k in range(COLUMNS):
            j = np.uint64(begin) + np.uint64(k)
            y = np.float32(sums[at + np.uint64(k)]) * (unit * spread[j]) + bias[j]
            part[k] = max(y, slope * y)
        for k in range(COLUMNS):
            out[np.uint64(begin) + np.uint64(k)] = part[k]
