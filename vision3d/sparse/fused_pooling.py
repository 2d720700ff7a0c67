"""Pooling along a rulebook on the CPU, a tile of outputs per thread at a time, so that its rows stay in cache."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.sparse.fused_forward import tile_bounds
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.threads import use_torch_threads

TILE = 512


def works_on(features: Tensor) -> bool:
    """Whether these kernels take this device and type."""
    return features.device.type == "cpu" and features.dtype in (torch.float32, torch.float64)


def max_along(features: Float[Tensor, "n c"], rulebook: KernelMap) -> tuple[Float[Tensor, "m c"], Int[Tensor, "m c"]]:
    """As `pooling.max_along`."""
    best = torch.empty(rulebook.outputs, features.shape[1], dtype=features.dtype)
    row = torch.empty(best.shape, dtype=torch.int32)
    bounds = tile_bounds(rulebook, TILE)
    use_torch_threads()
    _max(features.contiguous().numpy(), *_pairs(rulebook), bounds, TILE, best.numpy(), row.numpy())
    return best, row


def sum_along(features: Float[Tensor, "n c"], rulebook: KernelMap) -> Float[Tensor, "m c"]:
    """As `pooling.sum_along`."""
    out = torch.zeros(rulebook.outputs, features.shape[1], dtype=features.dtype)
    bounds = tile_bounds(rulebook, TILE)
    use_torch_threads()
    _sum(features.contiguous().numpy(), *_pairs(rulebook), bounds, out.numpy())
    return out


def _pairs(rulebook: KernelMap) -> tuple[np.ndarray, np.ndarray]:
    return rulebook.in_rows.numpy(), rulebook.out_rows.numpy()


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _max(x, in_rows, out_rows, bounds, tile, best, row):  # pragma: no cover (compiled)
    for t in numba.prange(bounds.shape[0] - 1):
        end = min((t + 1) * tile, best.shape[0])
        best[t * tile : end] = 0
        row[t * tile : end] = -1
        for k in range(bounds.shape[1]):
            for p in range(bounds[t, k], bounds[t + 1, k]):
                source, target = in_rows[p], out_rows[p]
                for c in range(x.shape[1]):
                    if row[target, c] < 0 or x[source, c] > best[target, c]:
                        best[target, c] = x[source, c]
                        row[target, c] = source


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _sum(x, in_rows, out_rows, bounds, out):  # pragma: no cover (compiled)
    for t in numba.prange(bounds.shape[0] - 1):
        for k in range(bounds.shape[1]):
            for p in range(bounds[t, k], bounds[t + 1, k]):
                source, target = in_rows[p], out_rows[p]
                for c in range(x.shape[1]):
                    out[target, c] += x[source, c]
