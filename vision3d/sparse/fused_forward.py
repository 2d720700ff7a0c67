"""Sparse convolution on the CPU, tile after tile of outputs: products are added up in cache, nothing is gathered.

Every output row adds its products in the order of kernel elements and channels, whatever the tiles and threads are.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.microkernels import (
    HAS_BFLOAT16,
    ROWS,
    add_rows,
    lanes,
    stored_as,
    take_ticket,
    vectors_at_once,
)
from vision3d.sparse.threads import use_torch_threads

TILE_NUMBERS = 1 << 15  # sums of a tile: 128 KiB of float32, a share of the second-level cache
_ROWS = ROWS


def convolve(
    features: Float[Tensor, "n i"],
    weight: Float[Tensor, "k i o"],
    rulebook: KernelMap,
    bias: Float[Tensor, " o"] | None = None,
    relu: bool = False,
) -> Float[Tensor, "m o"]:
    """As `products.convolve`, for float32, float64 and bfloat16 on the CPU."""
    kind = features.dtype
    sum_type = torch.float64 if kind == torch.float64 else torch.float32
    width = lanes(sum_type.itemsize)
    channels = weight.shape[2]
    columns = -(-channels // width) * width
    vectors = vectors_at_once(columns, sum_type.itemsize)
    features, weight = features.detach().contiguous(), weight.detach()
    if columns > channels:
        weight = torch.nn.functional.pad(weight, (0, columns - channels))
    if kind != torch.bfloat16:
        x, w = features.numpy(), weight.contiguous().numpy()
    elif HAS_BFLOAT16:
        odd = features.shape[1] % 2
        features = torch.nn.functional.pad(features, (0, odd)) if odd else features
        weight = torch.nn.functional.pad(weight, (0, 0, 0, odd))
        paired = (
            weight.reshape(len(weight), -1, 2, columns).transpose(2, 3).contiguous()
        )  # both of a pair beside each other
        x = features.view(torch.int16).numpy().view(np.uint32)
        w = paired.view(torch.int16).numpy().view(np.uint32)[..., 0]
    else:
        # Every feature is read once per kernel element: it is cheaper to widen all of them before.
        x, w = features.float().numpy(), weight.float().contiguous().numpy()
    out = torch.empty(rulebook.outputs, channels, dtype=kind)
    start = torch.zeros(columns, dtype=sum_type)
    if bias is not None:
        start[:channels] = bias.detach()
    tile = max(64, TILE_NUMBERS // columns)
    bounds = tile_bounds(rulebook, tile)
    threads = use_torch_threads()
    scratch = np.zeros((threads, (tile + 1) * columns), start.numpy().dtype)
    _convolve(
        x,
        np.ascontiguousarray(w).reshape(-1),
        start.numpy(),
        rulebook.in_rows.numpy(),
        rulebook.out_rows.numpy(),
        bounds,
        tile,
        vectors,
        vectors * width,
        columns,
        relu,
        scratch,
        np.zeros(1, np.int64),
        out.view(torch.int16).numpy().view(np.uint16) if kind == torch.bfloat16 else out.numpy(),
    )
    return out


def tile_bounds(rulebook: KernelMap, tile: int) -> np.ndarray:
    """[tiles + 1, K]: where in the rulebook the pairs of a kernel element and a tile of outputs begin. Kept."""
    key = f"bounds {tile}"
    found = rulebook.cache.get(key)
    if isinstance(found, np.ndarray):
        return found
    tiles = -(-rulebook.outputs // tile)
    bounds = np.empty((tiles + 1, rulebook.volume), np.int64)
    _tile_bounds(rulebook.out_rows.numpy(), np.array(rulebook.starts, np.int64), tile, bounds)
    rulebook.cache[key] = bounds
    return bounds


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _tile_bounds(out_rows, starts, tile, bounds):  # pragma: no cover (compiled)
    for k in range(bounds.shape[1]):
        at = starts[k]
        for t in range(bounds.shape[0] - 1):
            bounds[t, k] = at
            # Steps double until they pass the tile's end, then halve: tiles hold few pairs of many kernel elements.
            end, reach = (t + 1) * tile, 1
            while at + reach < starts[k + 1] and out_rows[at + reach] < end:
                reach *= 2
            low, high = at, min(at + reach, starts[k + 1])
            while low < high:
                middle = (low + high) // 2
                if out_rows[middle] < end:
                    low = middle + 1
                else:
                    high = middle
            at = low
        bounds[bounds.shape[0] - 1, k] = starts[k + 1]


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _convolve(
    x, w, start, in_rows, out_rows, bounds, tile, vectors, span, columns, relu, scratch, tickets, out
):  # pragma: no cover (compiled)
    depth = x.shape[1]
    channels = out.shape[1]
    block = depth * columns
    zero = scratch.dtype.type(0)
    tiles = bounds.shape[0] - 1
    for worker in numba.prange(scratch.shape[0]):
        sums = scratch[worker]
        while True:
            t = take_ticket(tickets)
            if t >= tiles:
                break
            base = t * tile
            rows = min(tile, out.shape[0] - base)
            for i in range(rows):
                for j in range(columns):
                    sums[i * columns + j] = start[j]
            for k in range(bounds.shape[1]):
                first, last = bounds[t, k], bounds[t + 1, k]
                for column in range(0, columns, span):
                    at = first
                    block_at = k * block + column
                    while at < last:
                        count = min(_ROWS, last - at)
                        add_rows(
                            vectors,
                            x,
                            w,
                            block_at,
                            sums,
                            column,
                            in_rows,
                            out_rows,
                            at,
                            count,
                            base,
                            tile,
                            depth,
                            columns,
                        )
                        at += _ROWS
            if relu:
                for i in range(rows * columns):
                    sums[i] = zero if sums[i] < zero else sums[i]
            for i in range(rows):
                for j in range(channels):
                    out[base + i, j] = stored_as(sums[i * columns + j], out)
