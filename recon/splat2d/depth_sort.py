"""Surfels by depth: a radix sort of the floats' bits, in fixed blocks, so the same for any number of threads."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from vision3d.recon.splat2d.project import NEAR_SHARE

BLOCKS = 8
DIGITS = 1 << 11  # three passes for 32 bits
_ZERO = np.float32(0)


def order_by_depth(
    means: Float[np.ndarray, "n 3"], rotation: Float[np.ndarray, "3 3"], translation: Float[np.ndarray, " 3"]
) -> tuple[Int[np.ndarray, " n"], float]:
    """Surfels front to back (ties in the order given), and `project.default_near` of the depths."""
    n = len(means)
    depths = np.empty(n, np.float32)
    _depths(means, rotation[2], translation[2], depths)
    keys, indices = depths.view(np.uint32), np.arange(n, dtype=np.int32)
    other_keys, other_indices = np.empty_like(keys), np.empty_like(indices)
    counts = np.empty((BLOCKS, DIGITS), np.int32)
    for shift in (0, 11, 22):
        _sort_by_digit(keys, indices, np.uint32(shift), counts, other_keys, other_indices)
        keys, indices, other_keys, other_indices = other_keys, other_indices, keys, indices
    depths = keys.view(np.float32)
    ahead = n - int(np.searchsorted(depths, _ZERO, side="right"))
    near = NEAR_SHARE * float(depths[n - ahead + (ahead - 1) // 2]) if ahead else 0.0
    return indices, near


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _depths(means, axis, offset, depths):  # pragma: no cover (compiled)
    """Depths, 0 for what is not in front: floats of that sign are in the order of their bits."""
    for i in numba.prange(len(means)):
        depth = axis[0] * means[i, 0] + axis[1] * means[i, 1] + axis[2] * means[i, 2] + offset
        depths[i] = depth if depth > _ZERO else _ZERO


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _sort_by_digit(keys, indices, shift, counts, sorted_keys, sorted_indices):  # pragma: no cover (compiled)
    """Stable: every block counts its digits, a sum over digits and blocks gives each its places."""
    n = len(keys)
    mask = np.uint32(DIGITS - 1)
    for block in numba.prange(BLOCKS):
        for d in range(DIGITS):
            counts[block, d] = 0
        for i in range(n * block // BLOCKS, n * (block + 1) // BLOCKS):
            counts[block, (keys[i] >> shift) & mask] += 1
    total = 0
    for d in range(DIGITS):
        for block in range(BLOCKS):
            count = counts[block, d]
            counts[block, d] = total
            total += count
    for block in numba.prange(BLOCKS):
        for i in range(n * block // BLOCKS, n * (block + 1) // BLOCKS):
            d = (keys[i] >> shift) & mask
            place = counts[block, d]
            counts[block, d] = place + 1
            sorted_keys[place] = keys[i]
            sorted_indices[place] = indices[i]
