"""Which matches agree on lengths, and how many others agree with both of two: second-order spatial compatibility.

Z. Chen et al., "SC2-PCR: a second order spatial compatibility for efficient and robust point cloud registration",
CVPR 2022, section 3.2: a rigid motion keeps lengths, so two right matches have edges of the same length in both clouds
(first order); two right matches share all the other right ones as partners, wrong ones only a few (second order).
Rows of the compatibility matrix are bit sets: shared partners are counted 64 at a time.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from vision3d.sparse.threads import use_torch_threads


def compatible(
    points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], tolerance: float, shortest: float
) -> UInt64[np.ndarray, "n words"]:
    """Bit j of row i: the edges from match i to j differ by less than `tolerance` and are longer than `shortest`."""
    out = np.zeros((len(points0), (len(points0) + 63) // 64), np.uint64)
    use_torch_threads()
    _compatible(points0, points1, tolerance, shortest, out)
    return out


def compatible_slow(
    points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "n 3"], tolerance: float, shortest: float
) -> Bool[np.ndarray, "n n"]:
    """`compatible` in NumPy, one entry a bit."""
    edges0 = np.linalg.norm(points0[:, None] - points0[None], axis=-1)
    edges1 = np.linalg.norm(points1[:, None] - points1[None], axis=-1)
    out: np.ndarray = (np.abs(edges0 - edges1) < tolerance) & (np.minimum(edges0, edges1) > shortest)
    return out


def compatible_pairs(bits: UInt64[np.ndarray, "n words"]) -> tuple[Int[np.ndarray, "p 2"], Int[np.ndarray, " p"]]:
    """All compatible pairs i < j, in order, and how many matches are compatible with both."""
    starts = np.zeros(len(bits) + 1, np.int64)
    _count_above(bits, starts)
    starts = np.cumsum(starts)
    pairs, shared = np.empty((starts[-1], 2), np.int32), np.empty(starts[-1], np.int32)
    use_torch_threads()
    _pairs(bits, starts, pairs, shared)
    return pairs, shared


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def ones(word):  # pragma: no cover (compiled)
    """How many bits of a 64-bit word are set (LLVM makes one instruction of it)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def shared_ones(bits, i, j):  # pragma: no cover (compiled)
    """How many bits rows i and j have in common."""
    total = 0
    for w in range(bits.shape[1]):
        total += ones(bits[i, w] & bits[j, w])
    return total


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _compatible(points0, points1, tolerance, shortest, out):  # pragma: no cover (compiled)
    n = points0.shape[0]
    for i in numba.prange(n):
        for w in range(out.shape[1]):
            word = np.uint64(0)
            for b in range(min(64, n - 64 * w)):
                j = 64 * w + b
                x, y, z = points0[j, 0] - points0[i, 0], points0[j, 1] - points0[i, 1], points0[j, 2] - points0[i, 2]
                u, v, t = points1[j, 0] - points1[i, 0], points1[j, 1] - points1[i, 1], points1[j, 2] - points1[i, 2]
                edge0, edge1 = np.sqrt(x * x + y * y + z * z), np.sqrt(u * u + v * v + t * t)
                if abs(edge0 - edge1) < tolerance and min(edge0, edge1) > shortest:
                    word |= np.uint64(1) << np.uint64(b)
            out[i, w] = word


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _count_above(bits, counts):  # pragma: no cover (compiled)
    """counts[i + 1]: partners of i that are above it."""
    for i in range(bits.shape[0]):
        total = 0
        first = (i + 1) >> 6
        for w in range(first, bits.shape[1]):
            word = bits[i, w]
            if w == first:
                word = (word >> np.uint64((i + 1) & 63)) << np.uint64((i + 1) & 63)
            total += ones(word)
        counts[i + 1] = total


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _pairs(bits, starts, pairs, shared):  # pragma: no cover (compiled)
    for i in numba.prange(bits.shape[0]):
        at = starts[i]
        for j in range(i + 1, bits.shape[0]):
            if (bits[i, j >> 6] >> np.uint64(j & 63)) & np.uint64(1):
                pairs[at, 0], pairs[at, 1] = i, j
                shared[at] = shared_ones(bits, i, j)
                at += 1
