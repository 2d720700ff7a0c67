"""Gradient of the weights of a sparse convolution on the CPU: sums of outer products over the rulebook's pairs.

Pairs are cut into segments that do not depend on threads; each is summed in order, then segments in their order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.microkernels import (
    ROWS,
    VECTORS,
    add_outer_1,
    add_outer_2,
    add_outer_4,
    copy_row,
    lanes,
    take_ticket,
    vectors_at_once,
)
from vision3d.sparse.threads import use_torch_threads

SEGMENT = 4096  # pairs whose products one thread adds up
CHUNK = 64  # pairs that are copied side by side: their rows stay in the first-level cache
_ROWS = ROWS
_VECTORS = VECTORS
_CHUNK = CHUNK


def correlate(
    features: Float[Tensor, "n i"], gradient: Float[Tensor, "m o"], rulebook: KernelMap
) -> Float[Tensor, "k i o"]:
    """As `products.correlate`, for float32, float64 and bfloat16 on the CPU."""
    kind = features.dtype
    sum_type = np.float64 if kind == torch.float64 else np.float32
    width = lanes(np.dtype(sum_type).itemsize)
    rows = -(-features.shape[1] // ROWS) * ROWS
    columns = -(-gradient.shape[1] // width) * width
    vectors = vectors_at_once(columns, np.dtype(sum_type).itemsize)
    segments = _segments(rulebook.starts)
    threads = use_torch_threads()
    partial = np.zeros((len(segments), rows, columns), sum_type)
    left = np.zeros((threads, CHUNK * rows), sum_type)
    right = np.zeros((threads, CHUNK * columns), sum_type)
    _correlate(
        _as_numpy(features),
        _as_numpy(gradient),
        rulebook.in_rows.numpy(),
        rulebook.out_rows.numpy(),
        segments,
        vectors,
        vectors * width,
        left,
        right,
        np.zeros(1, np.int64),
        partial,
    )
    out = np.zeros((rulebook.volume, features.shape[1], gradient.shape[1]), sum_type)
    _add_segments(partial, segments, out)
    return torch.from_numpy(out).to(kind)


def column_sums(gradient: Float[Tensor, "m o"]) -> Float[Tensor, " o"]:
    """gradient.sum(0), in an order that does not depend on threads: the gradient of the bias."""
    kind = gradient.dtype
    segments = -(-len(gradient) // SEGMENT)
    partial = np.zeros((segments, gradient.shape[1]), np.float64 if kind == torch.float64 else np.float32)
    use_torch_threads()
    _column_sums(_as_numpy(gradient), SEGMENT, partial)
    return torch.from_numpy(partial.sum(axis=0)).to(kind)


def _as_numpy(values: Tensor) -> np.ndarray:
    """float32, or float64 as it is."""
    array: np.ndarray = values.detach().to(torch.promote_types(values.dtype, torch.float32)).contiguous().numpy()
    return array


def _segments(starts: tuple[int, ...]) -> np.ndarray:
    """Rows of kernel element, first pair, last pair + 1."""
    rows = [
        (k, first, min(first + SEGMENT, end))
        for k, (begin, end) in enumerate(pairwise(starts))
        for first in range(begin, end, SEGMENT)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _correlate(
    x, g, in_rows, out_rows, segments, vectors, span, left, right, tickets, partial
):  # pragma: no cover (compiled)
    """Writes the sum of each segment's outer products; rows and columns beyond the channels stay zero."""
    inputs, outputs = x.shape[1], g.shape[1]
    rows, columns = partial.shape[1], partial.shape[2]
    flat = partial.reshape(-1)
    for worker in numba.prange(left.shape[0]):
        a, b = left[worker], right[worker]
        while True:
            s = take_ticket(tickets)
            if s >= segments.shape[0]:
                break
            end = segments[s, 2]
            for first in range(segments[s, 1], end, _CHUNK):
                count = min(_CHUNK, end - first)
                for p in range(count):
                    copy_row(x, in_rows[first + p], a, p * rows, inputs)
                    copy_row(g, out_rows[first + p], b, p * columns, outputs)
                for row in range(0, rows, _ROWS):
                    for column in range(0, columns, span):
                        to = (s * rows + row) * columns + column
                        if vectors == _VECTORS:
                            add_outer_4(a, row, rows, b, column, columns, flat, to, columns, count)
                        elif vectors == 2:
                            add_outer_2(a, row, rows, b, column, columns, flat, to, columns, count)
                        else:
                            add_outer_1(a, row, rows, b, column, columns, flat, to, columns, count)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _add_segments(partial, segments, out):  # pragma: no cover (compiled)
    """out[k] += the sums of the segments of k, in their order; rows of the weights in parallel."""
    for row in numba.prange(out.shape[1]):
        for s in range(segments.shape[0]):
            k = segments[s, 0]
            for column in range(out.shape[2]):
                out[k, row, column] += partial[s, row, column]


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _column_sums(g, segment, partial):  # pragma: no cover (compiled)
    for s in numba.prange(partial.shape[0]):
        for i in range(s * segment, min((s + 1) * segment, g.shape[0])):
            for column in range(g.shape[1]):
                partial[s, column] += g[i, column]
