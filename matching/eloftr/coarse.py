"""Coarse matching of cells: dual softmax and mutual nearest neighbours (Efficient LoFTR, section 3.3; LoFTR, eq. 2).

The similarity matrix is walked through in blocks of rows, so that memory does not grow with its square; with a usual
threshold once. The readable twin that holds the whole matrix is `confidence_matrix`, which training uses too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.likely_pairs import likely_pairs

BLOCK = 1 << 20  # similarities held at once
FEW = 0.01  # from this threshold on, few pairs of a row can exceed it: their number is at most its reciprocal


@dataclass(frozen=True, slots=True)
class CellPairs:
    """Cells that match: the pair of photos they belong to, their numbers row by row, confidence in [0, 1]."""

    item: Int[Tensor, " m"]
    cells0: Int[Tensor, " m"]
    cells1: Int[Tensor, " m"]
    confidence: Float[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.item)


def confidence_matrix(
    rows0: Float[Tensor, "*b n c"], rows1: Float[Tensor, "*b m c"], temperature: float
) -> Float[Tensor, "*b n m"]:
    """Dual softmax of the similarities, the latter divided by the width and the temperature."""
    similarity = rows0 @ rows1.transpose(-1, -2) / (rows0.shape[-1] * temperature)
    return similarity.softmax(-1) * similarity.softmax(-2)


@torch.no_grad()
def match_cells(
    cells0: Float[Tensor, "b c h w"],
    cells1: Float[Tensor, "b c i j"],
    valid0: Bool[Tensor, "b h w"],
    valid1: Bool[Tensor, "b i j"],
    config: EfficientLoFTRConfig,
) -> CellPairs:
    """Mutual nearest cells above the threshold, none within `border` cells of the edge of a photo's own area.

    Confidence is the dual softmax ("full") or similarity / (similarity + threshold) ("optimised").
    """
    found = []
    for item in range(len(cells0)):
        keep0, keep1 = valid0[item].flatten().nonzero()[:, 0], valid1[item].flatten().nonzero()[:, 0]
        rows0, rows1 = (c[item].flatten(1).T[k].float() for c, k in ((cells0, keep0), (cells1, keep1)))
        rows0 = rows0 / (rows0.shape[1] * config.temperature)
        if config.mode == "optimised":
            best, value, back = _best_by_similarity(rows0, rows1)
        elif config.threshold >= FEW:
            best, value, back = _best_of_few(rows0, rows1, config.threshold)
        else:
            best, value, back = _best_by_confidence(rows0, rows1)
        good = back[best] == torch.arange(len(best), device=best.device)
        good &= value > config.threshold
        inner0, inner1 = _inner(valid0[item], config.border), _inner(valid1[item], config.border)
        good &= inner0.flatten()[keep0] & inner1.flatten()[keep1][best]
        value = value[good] if config.mode == "full" else value[good] / (value[good] + config.threshold)
        chosen0, chosen1 = keep0[good], keep1[best[good]]
        found.append((torch.full_like(chosen0, item), chosen0, chosen1, value))
    return CellPairs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _inner(valid: Bool[Tensor, "h w"], border: int) -> Bool[Tensor, "h w"]:
    """Valid cells that are not within `border` cells of the valid area's edge (it is a rectangle at the top left)."""
    if border == 0:
        return valid
    inner = torch.zeros_like(valid)
    rows, columns = int(valid[:, 0].sum()), int(valid[0].sum())
    inner[border : max(border, rows - border), border : max(border, columns - border)] = True
    return inner


Nearest = tuple[Int[Tensor, " n"], Float[Tensor, " n"], Int[Tensor, " m"]]


def _best_by_similarity(rows0: Tensor, rows1: Tensor) -> Nearest:
    """Per row of 0 the most similar row of 1 and that similarity; per row of 1 the most similar row of 0."""
    columns = rows1.T
    best = torch.empty(len(rows0), dtype=torch.int64, device=rows0.device)
    value = rows0.new_empty(len(rows0))
    top, back = rows0.new_full((len(rows1),), -torch.inf), torch.zeros_like(best[:1]).repeat(len(rows1))
    for start, block in _blocks(rows0, len(rows1)):
        similarity = block @ columns
        value[start : start + len(block)], best[start : start + len(block)] = similarity.max(1)
        _take_over(top, back, similarity, start)
    return best, value, back


def _best_of_few(rows0: Tensor, rows1: Tensor, threshold: float) -> Nearest:
    """As `_best_by_confidence` where the confidence exceeds the threshold; elsewhere the confidence is zero."""
    if rows0.device.type == "cpu":
        row, column, confidence = likely_pairs(rows0, rows1, threshold)
    else:
        row, column, confidence = _likely_pairs(rows0, rows1, threshold)
    best, top = _best_in_group(row, column, confidence, len(rows0))
    back, _ = _best_in_group(column, row, confidence, len(rows1))
    return best, top, back


def _likely_pairs(rows0: Tensor, rows1: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of 0 and of 1 and their confidence, where the softmax over the row of 0 exceeds the threshold.

    A confidence is at most that softmax; when the columns' sums are known, the best of these are the best of all.
    """
    columns = rows1.T
    highest, total = rows0.new_full((len(rows1),), -torch.inf), rows0.new_zeros(len(rows1))
    kept = []
    for start, block in _blocks(rows0, len(rows1)):
        similarity = block @ columns
        before, highest = highest, torch.maximum(highest, similarity.amax(0))
        share = torch.exp(similarity - highest)
        total = total * torch.exp(before - highest) + share.sum(0)
        share = similarity.softmax(1)
        row, column = (share > threshold).nonzero().T
        kept.append((row + start, column, similarity[row, column], share[row, column]))
    row, column, value, share = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return row, column, share * torch.exp(value - highest[column]) / total[column]


def _best_in_group(group: Tensor, member: Tensor, value: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Per group its member of the greatest value (the first of several) and that value; 0 and 0 for an empty one."""
    top = value.new_zeros(groups).scatter_reduce(0, group, value, "amax")
    winner = value == top[group]
    best = torch.full((groups,), torch.iinfo(torch.int64).max, device=group.device)
    best = best.scatter_reduce(0, group[winner], member[winner], "amin")
    return torch.where(best < torch.iinfo(torch.int64).max, best, 0), top


def _best_by_confidence(rows0: Tensor, rows1: Tensor) -> Nearest:
    """The same by dual softmax: a pair's logarithm is twice the similarity less both sides' log-sum-exp."""
    columns = rows1.T
    sums0, sums1 = rows0.new_empty(len(rows0)), rows0.new_full((len(rows1),), -torch.inf)
    for start, block in _blocks(rows0, len(rows1)):
        similarity = block @ columns
        sums0[start : start + len(block)] = similarity.logsumexp(1)
        torch.logaddexp(sums1, similarity.logsumexp(0), out=sums1)
    best = torch.empty(len(rows0), dtype=torch.int64, device=rows0.device)
    value = torch.empty_like(sums0)
    top, back = torch.full_like(sums1, -torch.inf), torch.zeros(len(rows1), dtype=torch.int64, device=rows0.device)
    for start, block in _blocks(rows0, len(rows1)):
        part = slice(start, start + len(block))
        logarithm = (2 * block @ columns).sub_(sums1).sub_(sums0[part, None])
        value[part], best[part] = logarithm.max(1)
        _take_over(top, back, logarithm, start)
    return best, value.exp_(), back


def _blocks(rows: Tensor, others: int) -> list[tuple[int, Tensor]]:
    size = max(1, BLOCK // max(1, others))
    return [(start, rows[start : start + size]) for start in range(0, len(rows), size)]


def _take_over(top: Tensor, back: Tensor, values: Tensor, start: int) -> None:
    """Brings the columns' best values and rows so far up to date with the block that starts at row `start`."""
    here, row = values.max(0)
    better = here > top
    top.copy_(torch.where(better, here, top))
    back.copy_(torch.where(better, row + start, back))
