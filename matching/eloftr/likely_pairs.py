"""Pairs of cells whose softmax over a row exceeds a threshold, with their dual softmax, in one pass over similarities.

LoFTR, equation 2, on a CPU in float32. A confidence is at most either softmax, so that few pairs of a row need be kept
(their number is at most the threshold's reciprocal). Every similarity is exponentiated once: sums over columns take the
rows' exponentials, scaled to the greatest similarity so far. `coarse._likely_pairs` is the readable twin.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from vision3d.core.fast_exp import fast_exp2
from vision3d.sparse.threads import use_torch_threads

CHUNKS = 8  # of a block's rows, whatever the number of threads, so that sums do not depend on it
TINY = 1e-20  # column sums, relative to the greatest similarity of all, below which they are made anew
_LOG2E = np.float32(1 / math.log(2))
_LOWEST = np.float32(-126)  # 2^ of less is no normal float32


def likely_pairs(
    rows0: Float[Tensor, "n c"], rows1: Float[Tensor, "m c"], threshold: float, size: int
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Rows of 0 and of 1 and their confidence, in the order of the rows of 0. size: rows of 0 at once.

    rows: on the CPU, float32; the products rows0 @ rows1.T are the logits. threshold: above 0.
    """
    use_torch_threads()
    n, m = len(rows0), len(rows1)
    most = int(1 / threshold) + 1
    columns, logits = np.empty((n, most), np.int64), np.empty((n, most), np.float32)
    shares, counts = np.empty((n, most), np.float32), np.empty(n, np.int64)
    buffer = rows0.new_empty(min(size, n), m)
    partial, tops = torch.empty(CHUNKS, m), torch.empty(CHUNKS)
    highest, total = -math.inf, torch.zeros(m)
    for start in range(0, n, size):
        block = rows0[start : start + size]
        part = slice(start, start + len(block))
        similarity = torch.mm(block, rows1.T, out=buffer[: len(block)])
        _share(similarity.numpy(), np.float32(threshold), columns[part], logits[part], shares[part], counts[part],
               partial.numpy(), tops.numpy())  # fmt: skip
        before, highest = highest, max(highest, float(tops.max()))
        total = total * math.exp(before - highest) + (torch.exp(tops - highest)[:, None] * partial).sum(0)
    row = torch.from_numpy(np.repeat(np.arange(n), counts))
    kept = np.arange(most) < counts[:, None]
    column, value, share = (torch.from_numpy(array[kept]) for array in (columns, logits, shares))
    confidence = share * torch.exp(value - highest) / total[column].clamp(min=TINY)
    weak = total[column] < TINY
    if bool(weak.any()):  # far below the greatest similarity: their sums have lost what matters
        again, place = np.unique(column[weak].numpy(), return_inverse=True)
        sums = torch.logsumexp(rows0 @ rows1[torch.from_numpy(again)].T, 0)
        confidence[weak] = share[weak] * torch.exp(value[weak] - sums[torch.from_numpy(place)])
    return row, column, confidence


@njit(cache=True, parallel=True, fastmath={"contract", "nsz", "reassoc"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _share(similarity, threshold, columns, logits, shares, counts, partial, tops):  # pragma: no cover (compiled)
    """Per row the columns whose softmax exceeds the threshold; per chunk of rows the columns' sums of exponentials,
    relative to the chunk's greatest similarity, which `tops` takes."""
    n, m = similarity.shape
    chunks = len(tops)
    for k in prange(chunks):
        first, last = n * k // chunks, n * (k + 1) // chunks
        line, high = np.empty(m, np.float32), np.empty(last - first, np.float32)
        sums = partial[k]
        sums[:] = np.float32(0)
        top = np.float32(-np.inf)
        for i in range(first, last):
            here = np.float32(-np.inf)
            row = similarity[i]
            for j in range(m):
                here = max(here, row[j])
            high[i - first] = here
            top = max(top, here)
        tops[k] = top
        for i in range(first, last):
            row, here = similarity[i], high[i - first]
            down = (here - top) * _LOG2E
            weight = fast_exp2(down) if down > _LOWEST else np.float32(0)
            total = np.float32(0)
            for j in range(m):
                t = (row[j] - here) * _LOG2E
                e = fast_exp2(t)
                e = e if t > _LOWEST else np.float32(0)
                line[j] = e
                total += e
                sums[j] += weight * e
            count = 0
            least = threshold * total
            if least < np.float32(1):
                for j in range(m):
                    if line[j] > least and count < columns.shape[1]:
                        columns[i, count], logits[i, count], shares[i, count] = j, row[j], line[j] / total
                        count += 1
            counts[i] = count
