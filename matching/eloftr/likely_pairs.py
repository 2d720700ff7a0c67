"""Pairs of cells whose softmax over a row exceeds a threshold, with their dual softmax, in one pass over similarities.

LoFTR, equation 2, on a CPU in float32. A confidence is at most either softmax, so that few pairs of a row need be kept
(their number is at most the threshold's reciprocal). A chunk of rows times all others stays in the cache: products,
sums of exponentials over rows and over columns (scaled to the chunk's greatest similarity, so that each similarity is
exponentiated once) and the pairs themselves. `coarse._likely_pairs` is the readable twin.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from vision3d.core.fast_exp import fast_exp2
from vision3d.sparse.microkernels import ROWS, VECTORS, add_rows, lanes, take_ticket
from vision3d.sparse.threads import use_torch_threads

CHUNK = 96  # rows of 0 at once, whatever the number of threads, so that sums do not depend on it; a multiple of ROWS
SUMS = 1 << 20  # column sums held at once, unless those of FEWEST chunks are more
FEWEST = 8
TINY = 1e-20  # column sums, relative to the greatest similarity of all, below which they are made anew
_ROWS, _VECTORS = ROWS, VECTORS
_SIDE = VECTORS * lanes(4)
_LOG2E = np.float32(1 / math.log(2))
_LOWEST = np.float32(-126)  # 2^ of less is no normal float32


def likely_pairs(
    rows0: Float[Tensor, "n c"], rows1: Float[Tensor, "m c"], threshold: float
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Float[Tensor, " k"]]:
    """Rows of 0 and of 1 and their confidence, in the order of the rows of 0.

    rows: on the CPU, float32; the products rows0 @ rows1.T are the logits. threshold: above 0.
    """
    threads = use_torch_threads()
    n, m, c = len(rows0), len(rows1), rows0.shape[1]
    most = int(1 / threshold) + 1
    columns, logits = np.empty((n, most), np.int64), np.empty((n, most), np.float32)
    shares, counts = np.empty((n, most), np.float32), np.zeros(n, np.int64)
    panels = F.pad(rows1, (0, 0, 0, -m % _SIDE)).view(-1, _SIDE, c).transpose(1, 2).contiguous().numpy()
    left, chunks = rows0.contiguous().numpy(), max(FEWEST, SUMS // max(1, m))
    similarities = np.empty((min(threads, -(-n // CHUNK)), len(panels), CHUNK + 1, _SIDE), np.float32)
    highest, total = -math.inf, torch.zeros(m)
    for start in range(0, n if m else 0, chunks * CHUNK):
        part = slice(start, start + chunks * CHUNK)
        used = -(-len(left[part]) // CHUNK)
        partial, tops = torch.empty(used, len(panels) * _SIDE), torch.empty(used)
        _share(left[part], panels.reshape(-1), m, np.float32(threshold), np.arange(CHUNK), similarities,
               np.zeros(1, np.int64), columns[part], logits[part], shares[part], counts[part], partial.numpy(),
               tops.numpy())  # fmt: skip
        before, highest = highest, max(highest, float(tops.max()))
        total = total * math.exp(before - highest) + (torch.exp(tops - highest)[:, None] * partial[:, :m]).sum(0)
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
def _share(
    left, panels, m, threshold, places, similarities, tickets, columns, logits, shares, counts, partial, tops
):  # pragma: no cover (compiled)
    """Per row the columns whose softmax exceeds the threshold; per chunk of rows the columns' sums of exponentials,
    relative to the chunk's greatest similarity, which `tops` takes. similarities: memory [thread, panel, row, side]."""
    c = left.shape[1]
    for worker in prange(similarities.shape[0]):
        mine = similarities[worker]
        flat = mine.reshape(-1)
        high, sums = np.empty((CHUNK, _SIDE), np.float32), np.empty((CHUNK, _SIDE), np.float32)
        best, least, weight = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
        while True:
            chunk = take_ticket(tickets)
            first = chunk * CHUNK
            if first >= len(left):
                break
            count = min(CHUNK, len(left) - first)
            rows = left[first : first + count]
            high[:] = np.float32(-np.inf)
            mine[:] = np.float32(0)
            for p in range(len(mine)):
                to = p * (CHUNK + 1) * _SIDE
                for t in range(0, count, _ROWS):
                    add_rows(_VECTORS, rows, panels, p * c * _SIDE, flat, to, places, places, t, min(_ROWS, count - t),
                             0, CHUNK, c, _SIDE)  # fmt: skip
                if (p + 1) * _SIDE > m:
                    mine[p, :, m - p * _SIDE :] = np.float32(-np.inf)  # there is no such column
                for i in range(count):
                    for k in range(_SIDE):
                        high[i, k] = max(high[i, k], mine[p, i, k])
            top = np.float32(-np.inf)
            for i in range(count):
                best[i] = high[i].max()
                top = max(top, best[i])
            tops[chunk] = top
            for i in range(count):
                down = (best[i] - top) * _LOG2E
                weight[i] = fast_exp2(down) if down > _LOWEST else np.float32(0)
            sums[:] = np.float32(0)
            for p in range(len(mine)):
                below = partial[chunk, p * _SIDE : (p + 1) * _SIDE]
                below[:] = np.float32(0)
                for i in range(count):
                    for k in range(_SIDE):
                        t = (mine[p, i, k] - best[i]) * _LOG2E
                        e = fast_exp2(t)
                        e = e if t > _LOWEST else np.float32(0)
                        sums[i, k] += e
                        below[k] += weight[i] * e
            for i in range(count):
                sums[i, 0] = sums[i].sum()
                least[i] = threshold * sums[i, 0]
            for p in range(len(mine)):
                for i in range(count):
                    if least[i] < np.float32(1):
                        near = np.float32(-np.inf)
                        for k in range(_SIDE):
                            near = max(near, mine[p, i, k])
                        t = (near - best[i]) * _LOG2E
                        if t > _LOWEST and fast_exp2(t) > least[i]:
                            for k in range(_SIDE):
                                t = (mine[p, i, k] - best[i]) * _LOG2E
                                e = fast_exp2(t) if t > _LOWEST else np.float32(0)
                                at = counts[first + i]
                                if e > least[i] and at < columns.shape[1]:
                                    columns[first + i, at], logits[first + i, at] = p * _SIDE + k, mine[p, i, k]
                                    shares[first + i, at] = e / sums[i, 0]
                                    counts[first + i] = at + 1
