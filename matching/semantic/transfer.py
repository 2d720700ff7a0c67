"""Carries points between two grids of features: nearest neighbour, mutual neighbours, window soft-argmax.

Window soft-argmax: J. Zhang et al., "Telling Left from Right: Identifying Geometry-Aware Semantic Correspondence",
CVPR 2024, section 4.3. Mutual neighbours and their mean distance, which tells a picture from its mirror image: section
4.1 there. Grids hold unit vectors [c h w]; cells are (column, row), a cell's middle at whole numbers.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rule = Literal["nearest", "mutual", "soft"]
RULES: tuple[str, ...] = get_args(Rule)
BLOCK = 1 << 22  # similarities held at a time by `neighbours`: 16 MB


def sample(grid: Float[Tensor, "c h w"], cells: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    """Unit features at cells, linear between four cells' middles; beyond the outermost middles these are repeated."""
    _, h, w = grid.shape
    x, y = cells[:, 0].clamp(0, w - 1), cells[:, 1].clamp(0, h - 1)
    x0, y0 = x.floor().long().clamp(max=max(w - 2, 0)), y.floor().long().clamp(max=max(h - 2, 0))
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    u, v = (x - x0).to(grid), (y - y0).to(grid)
    top = grid[:, y0, x0] * (1 - u) + grid[:, y0, x1] * u
    bottom = grid[:, y1, x0] * (1 - u) + grid[:, y1, x1] * u
    return F.normalize(top * (1 - v) + bottom * v, dim=0).T


def similarities(features: Float[Tensor, "n c"], grid: Float[Tensor, "c h w"]) -> Float[Tensor, "n h w"]:
    """Cosine of every feature with every cell."""
    _, h, w = grid.shape
    return (features @ grid.flatten(1)).reshape(-1, h, w)


def peak(scores: Float[Tensor, "n h w"], allowed: Bool[Tensor, "n h w"] | None = None) -> Float[Tensor, "n 2"]:
    """The cell of the highest score, moved by up to half a cell to the top of a parabola through its neighbours along
    each axis (not at the border). Ties go to the first cell, row by row.

    allowed: the cells to choose from; at least one in every row.
    """
    n, h, w = scores.shape
    choice = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
    best = choice.flatten(1).argmax(dim=1)
    x, y = best % w, best // w
    rows = torch.arange(n, device=scores.device)
    cells = torch.stack([x, y], dim=1).to(scores)
    for axis, (at, size) in enumerate(((x, w), (y, h))):
        if size < 3:
            continue
        inner = at.clamp(1, size - 2)
        left, middle, right = (
            scores[rows, y, inner + d] if axis == 0 else scores[rows, inner + d, x] for d in (-1, 0, 1)
        )
        bend = left - 2 * middle + right
        shift = torch.where(bend < -1e-9, (left - right) / (2 * bend.clamp(max=-1e-9)), 0.0).clamp(-0.5, 0.5)
        cells[:, axis] += torch.where(inner == at, shift, 0.0)
    return cells


def soft_peak(scores: Float[Tensor, "n h w"], window: int, temperature: float) -> Float[Tensor, "n 2"]:
    """Mean cell under softmax(scores / temperature) within `window` cells of the highest score along both axes.

    window: 0 takes all cells into the mean, as in the paper.
    """
    n, h, w = scores.shape
    best = scores.flatten(1).argmax(dim=1)
    dx = (torch.arange(w, device=scores.device)[None] - (best % w)[:, None]).abs()
    dy = (torch.arange(h, device=scores.device)[None] - (best // w)[:, None]).abs()
    logits = scores / temperature
    if window > 0:
        outside = (dx[:, None, :] > window) | (dy[:, :, None] > window)
        logits = logits.masked_fill(outside, -torch.inf)
    share = logits.flatten(1).softmax(dim=1).reshape(n, h, w)
    x = (share.sum(dim=1) * torch.arange(w, device=scores.device)).sum(dim=1)
    y = (share.sum(dim=2) * torch.arange(h, device=scores.device)).sum(dim=1)
    return torch.stack([x, y], dim=1)


def neighbours(
    grid0: Float[Tensor, "c h0 w0"], grid1: Float[Tensor, "c h1 w1"]
) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"], Float[Tensor, " n"]]:
    """Of each cell of grid0 (row by row) its most similar of grid1, of each of grid1 that of grid0, and the first's
    similarity. Ties go to the first cell."""
    a, b = grid0.flatten(1).T, grid1.flatten(1)
    rows = max(1, BLOCK // b.shape[1])
    forward, similarity = [], []
    back_value = b.new_full((b.shape[1],), -torch.inf)
    back = torch.zeros(b.shape[1], dtype=torch.int64, device=b.device)
    for start in range(0, len(a), rows):
        scores = a[start : start + rows] @ b
        best = scores.max(dim=1)
        forward.append(best.indices)
        similarity.append(best.values)
        value, index = scores.max(dim=0)
        back = torch.where(value > back_value, index + start, back)
        back_value = torch.maximum(back_value, value)
    return torch.cat(forward), back, torch.cat(similarity)


def mutual_cells(
    grid0: Float[Tensor, "c h0 w0"], grid1: Float[Tensor, "c h1 w1"]
) -> tuple[Float[Tensor, "k 2"], Float[Tensor, "k 2"], Float[Tensor, " k"]]:
    """Cells that are each other's most similar, and their similarity. Never empty: the best pair of all is mutual."""
    forward, back, similarity = neighbours(grid0, grid1)
    index0 = torch.arange(len(forward), device=forward.device)
    keep = index0[back[forward] == index0]
    if not len(keep):  # ties only
        keep = similarity.argmax()[None]
    cells0, cells1 = (
        torch.stack([index % grid.shape[2], index // grid.shape[2]], dim=1).to(grid)
        for index, grid in ((keep, grid0), (forward[keep], grid1))
    )
    return cells0, cells1, similarity[keep]


def mutual_distance(grid0: Float[Tensor, "c h0 w0"], grid1: Float[Tensor, "c h1 w1"]) -> float:
    """Mean distance between the unit features of mutual neighbours: small for pictures that look alike."""
    return float((2 - 2 * mutual_cells(grid0, grid1)[2]).clamp(min=0).sqrt().mean())


def coming_back(
    grid0: Float[Tensor, "c h0 w0"], grid1: Float[Tensor, "c h1 w1"], cells: Float[Tensor, "n 2"], within: float
) -> Bool[Tensor, "n h1 w1"]:
    """Which cells of grid1 have their own most similar cell of grid0 within `within` cells (along both axes) of the
    point; all of them for a point to which none comes back."""
    _, back, _ = neighbours(grid0, grid1)
    home = torch.stack([back % grid0.shape[2], back // grid0.shape[2]], dim=1).to(cells)
    near = ((home[None] - cells[:, None]).abs() <= within).all(dim=2)
    near |= ~near.any(dim=1, keepdim=True)
    return near.reshape(-1, *grid1.shape[1:])
