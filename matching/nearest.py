"""Mutual nearest neighbours with Lowe's ratio test (Lowe, IJCV 2004, section 7.1), exact and in bounded memory.

Descriptors are integers / 512, at most 127/512 (quantised RootSIFT, as COLMAP stores it): dot products are integers,
so the int8 product, the float product and the slow twin agree to the last bit.
"""

from __future__ import annotations

import functools
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.matching.base import Matches

SCALE = 512
MAX_VALUE = 127
BLOCK = 8192  # an index takes 13 bits beside 18 bits of similarity in an int32
BLOCK_INDICES = BLOCK  # descriptors of either photo in a block
ROWS = 256  # rows per product: 256 x 8192 int32 are 8 MiB, which stay in the cache
_TOP = SCALE * SCALE - 1


def quantise(descriptors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Non-negative unit vectors rounded to multiples of 1/512 and cut at 127/512."""
    return (descriptors * SCALE).round().clamp(0, MAX_VALUE) / SCALE


def match_ratio(
    descriptors0: Float[Tensor, "n d"], descriptors1: Float[Tensor, "m d"], *, ratio: float, max_distance: float
) -> Matches:
    """Pairs of descriptors (see `quantise`) that are each other's nearest neighbours and pass the ratio test.

    The distance of a similarity s is sqrt(2 - 2 s): it must be below `max_distance` and below `ratio` times the
    distance of the second nearest, seen from both sides. Ties go to the lower index; scores are
    1 - distance / max_distance. Swapping the arguments swaps the result. Memory: about 16 MiB beside the inputs.
    """
    n, m = len(descriptors0), len(descriptors1)
    if n == 0 or m == 0:
        return Matches.empty()
    if descriptors0.device.type != "cpu":
        return match_ratio_slow(descriptors0, descriptors1, ratio=ratio, max_distance=max_distance)
    a, b = _operand(descriptors0), _operand(descriptors1)
    rows, columns = _Best(n), _Best(m)
    for j in range(0, m, BLOCK_INDICES):
        for i in range(0, n, BLOCK_INDICES):
            row_best, column_best = _sweep_block(a[i : i + BLOCK_INDICES], b[j : j + BLOCK_INDICES])
            rows.merge(i, row_best, j)
            columns.merge(j, column_best, i)
    index0 = np.arange(n)
    mutual = columns.index[rows.index] == index0
    keep = index0[mutual & rows.passes(ratio, max_distance) & columns.passes(ratio, max_distance)[rows.index]]
    scores = 1 - rows.distance()[keep] / max_distance
    return Matches(
        torch.from_numpy(np.stack([keep, rows.index[keep]], axis=1)), torch.from_numpy(scores.astype(np.float32))
    )


def match_ratio_slow(
    descriptors0: Float[Tensor, "n d"], descriptors1: Float[Tensor, "m d"], *, ratio: float, max_distance: float
) -> Matches:
    """`match_ratio` in plain torch with the whole similarity matrix: the twin that tests compare with; runs on CUDA."""
    n, m = len(descriptors0), len(descriptors1)
    if n == 0 or m == 0:
        return Matches.empty()
    similarity = (descriptors0.double() @ descriptors1.double().T * SCALE**2).clamp(max=_TOP) / SCALE**2
    distance = (2 - 2 * similarity).clamp(min=0).sqrt()

    def nearest(d: Tensor) -> tuple[Tensor, Tensor]:
        best = d.min(dim=1, keepdim=True).values
        order = torch.arange(d.shape[1], device=d.device).expand_as(d)
        index = torch.where(d == best, order, d.shape[1]).amin(dim=1)
        without = d.scatter(1, index[:, None], torch.inf)
        return index, (best[:, 0] < max_distance) & (best[:, 0] < ratio * without.amin(dim=1))

    index01, good0 = nearest(distance)
    index10, good1 = nearest(distance.T.contiguous())
    index0 = torch.arange(n, device=distance.device)
    keep = index0[(index10[index01] == index0) & good0 & good1[index01]]
    scores = 1 - distance[keep, index01[keep]] / max_distance
    return Matches(torch.stack([keep, index01[keep]], dim=1).cpu(), scores.float().cpu())


def mutual_nearest(
    descriptors0: Float[Tensor, "n d"], descriptors1: Float[Tensor, "m d"], *, rows: int = 1024
) -> tuple[Int[Tensor, "k 2"], Float[Tensor, " k"]]:
    """Pairs that are each other's most similar (dot product) and their similarity, for any descriptors.

    Runs in chunks of `rows` descriptors of image 0, so memory is rows x m floats.
    """
    n, m = len(descriptors0), len(descriptors1)
    if n == 0 or m == 0:
        return torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0)
    best1 = descriptors0.new_full((m,), -torch.inf)
    index10 = torch.zeros(m, dtype=torch.int64, device=descriptors0.device)
    parts = []
    for i in range(0, n, rows):
        similarity = descriptors0[i : i + rows] @ descriptors1.T
        parts.append(similarity.max(dim=1))
        value, index = similarity.T.contiguous().max(dim=1)  # along contiguous memory: much faster on a CPU
        index10 = torch.where(value > best1, index + i, index10)
        best1 = torch.maximum(value, best1)
    similarity01 = torch.cat([p.values for p in parts])
    index01 = torch.cat([p.indices for p in parts])
    index0 = torch.arange(n, device=index01.device)
    keep = index0[index10[index01] == index0]
    return torch.stack([keep, index01[keep]], dim=1), similarity01[keep]


class _Best:
    """Per descriptor: index of its nearest, and the integer similarities of the nearest and the second nearest."""

    def __init__(self, n: int) -> None:
        self.index = np.zeros(n, np.int64)
        self.first = np.full(n, -1, np.int64)
        self.second = np.full(n, -1, np.int64)

    def merge(self, start: int, packed: Int[np.ndarray, "2 k"], offset: int) -> None:
        """Takes in the best two of one block (similarity << 13 | 8191 - index), whose indices start at `offset`."""
        at = slice(start, start + packed.shape[1])
        first, second = (packed.astype(np.int64)) >> 13
        index = BLOCK - 1 - (packed[0] & (BLOCK - 1)).astype(np.int64) + offset
        better = first > self.first[at]
        self.second[at] = np.maximum(np.minimum(first, self.first[at]), np.maximum(second, self.second[at]))
        self.index[at] = np.where(better, index, self.index[at])
        self.first[at] = np.maximum(first, self.first[at])

    def distance(self) -> Float[np.ndarray, " n"]:
        out: np.ndarray = np.sqrt(2 - 2 * self.first / SCALE**2)
        return out

    def passes(self, ratio: float, max_distance: float) -> np.ndarray:
        """Which are near enough and pass the ratio test; a lone candidate has no second (infinitely far)."""
        distance = self.distance()
        distance2 = np.where(self.second < 0, np.inf, np.sqrt(np.maximum(2 - 2 * self.second / SCALE**2, 0)))
        out: np.ndarray = (distance < max_distance) & (distance < ratio * distance2)
        return out


@functools.cache
def _int8_is_fast() -> bool:
    """Whether torch multiplies int8 matrices with vector instructions here (elsewhere it loops, slower than float)."""
    return "AVX" in torch.backends.cpu.get_cpu_capability() and hasattr(torch, "_int_mm")


def _operand(descriptors: Tensor) -> Tensor:
    return (descriptors.float() * SCALE).round().to(torch.int8 if _int8_is_fast() else torch.float32)


def _sweep_block(a: Tensor, b: Tensor) -> tuple[Int[np.ndarray, "2 n"], Int[np.ndarray, "2 m"]]:
    """The packed best two of each row and column of the product of at most BLOCK descriptors each."""
    n, m = len(a), len(b)
    row_best = np.full((2, n), -1, np.int32)
    column_best = np.full((2, m), -1, np.int32)
    product = torch.empty(min(ROWS, n), m, dtype=torch.int32 if a.dtype == torch.int8 else torch.float32)
    for i in range(0, n, ROWS):
        rows = a[i : i + ROWS]
        out = product[: len(rows)]
        if a.dtype == torch.int8:
            torch._int_mm(rows, b.T, out=out)
        else:
            torch.mm(rows, b.T, out=out)
        _sweep(out.to(torch.int32).numpy(), i, row_best, column_best)
    return row_best, column_best


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _sweep(similarity, start, row_best, column_best):  # pragma: no cover (compiled)
    """Updates the best two of rows `start`... and of all columns; packing index and value lets LLVM vectorise both."""
    n, m = similarity.shape
    low = np.int32(-1)
    for i in range(n):
        row_tag = np.int32(8191) - np.int32(start + i)
        first = low
        for j in range(m):
            base = np.int32(min(similarity[i, j], np.int32(_TOP)) << np.int32(13))
            c = np.int32(base | row_tag)
            column_best[1, j] = max(column_best[1, j], min(column_best[0, j], c))
            column_best[0, j] = max(column_best[0, j], c)
            first = max(first, np.int32(base | (np.int32(8191) - np.int32(j))))
        second = low
        for j in range(m):
            base = np.int32(min(similarity[i, j], np.int32(_TOP)) << np.int32(13))
            v = np.int32(base | (np.int32(8191) - np.int32(j)))
            second = max(second, v if v != first else low)
        row_best[0, start + i] = first
        row_best[1, start + i] = second
