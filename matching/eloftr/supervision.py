"""True matches of cells and of pixels within them (Efficient LoFTR, section 3.5; LoFTR, section 3.5 and supplement A).

Cells match where the centre of each lies in the other. Everything comes from where each pixel of a photo lies in the
other, so that depth with pose and homographies supervise alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.matching.eloftr.coarse import CellPairs
from vision3d.matching.eloftr.fine import WINDOW


@dataclass(frozen=True, slots=True)
class PixelTargets:
    """For each pair of cells and each pixel of cell 0: the pixel of cell 1 that holds its match (-1: none does), and
    where in that pixel the match lies, px (x, y) from its centre, in [-0.5, 0.5]."""

    pixel1: Int[Tensor, "m 64"]
    offset: Float[Tensor, "m 64 2"]


def true_cells(to1: Float[Tensor, "b h w 2"], to0: Float[Tensor, "b i j 2"], columns: tuple[int, int]) -> CellPairs:
    """Pairs of cells whose centres lie in each other; confidence is the share of cell 0's pixels that cell 1 holds.

    to1: px of photo 1 where pixels of photo 0 lie, NaN where unknown; to0 the other way. columns: cells per row of the
    network's maps, which may be wider than the photos. Cells that hang over a photo's edge take no part.
    """
    cell1, cell0 = (
        _centers(to1, columns[1], (to0.shape[1], to0.shape[2])),
        _centers(to0, columns[0], (to1.shape[1], to1.shape[2])),
    )
    rows, across = to1.shape[1] // WINDOW, to1.shape[2] // WINDOW
    own = (
        torch.arange(rows, device=to1.device)[:, None] * columns[0] + torch.arange(across, device=to1.device)
    ).expand(len(to1), -1, -1)
    item = torch.arange(len(to1), device=to1.device)[:, None, None].expand_as(own)
    found = cell1 >= 0
    number = cell1.clamp(min=0)
    row, column = torch.div(number, columns[1], rounding_mode="floor"), number % columns[1]
    back = cell0[item, row, column]
    mutual = found & (back == own)
    item, cells0, cells1 = item[mutual], own[mutual], cell1[mutual]
    share = (pixel_targets(to1, CellPairs(item, cells0, cells1, cells0.float()), columns).pixel1 >= 0).float().mean(1)
    return CellPairs(item, cells0, cells1, share)


def pixel_targets(to1: Float[Tensor, "b h w 2"], pairs: CellPairs, columns: tuple[int, int]) -> PixelTargets:
    """The matches of the pixels of the cells 0 within the cells 1."""
    place = torch.arange(WINDOW, device=to1.device)
    y0 = (torch.div(pairs.cells0, columns[0], rounding_mode="floor") * WINDOW)[:, None] + place
    x0 = (pairs.cells0 % columns[0] * WINDOW)[:, None] + place
    at = to1[pairs.item[:, None, None], y0[:, :, None], x0[:, None, :]].flatten(1, 2)
    corner = torch.stack([pairs.cells1 % columns[1], torch.div(pairs.cells1, columns[1], rounding_mode="floor")], 1)
    local = at - (corner * WINDOW)[:, None].to(at.dtype)
    inside = ((local >= 0) & (local < WINDOW)).all(-1)  # false for NaN
    pixel = torch.where(inside[..., None], local, 0.0).floor()
    number = (pixel[..., 1] * WINDOW + pixel[..., 0]).long()
    offset = torch.where(inside[..., None], local - pixel - 0.5, 0.0)
    return PixelTargets(torch.where(inside, number, -1), offset)


def _centers(to: Float[Tensor, "b h w 2"], columns: int, size: tuple[int, int]) -> Int[Tensor, "b r c"]:
    """The cell of the other photo (height, width) that holds each cell's centre, -1 where none does."""
    rows, across = to.shape[1] // WINDOW, to.shape[2] // WINDOW
    cut = to[:, : rows * WINDOW, : across * WINDOW]
    # The centre of a cell is the corner of its four middle pixels.
    half = WINDOW // 2
    fours = [cut[:, half + a :: WINDOW, half + b :: WINDOW] for a in (-1, 0) for b in (-1, 0)]
    center = torch.stack(fours).mean(0)
    limit = center.new_tensor([size[1] // WINDOW * WINDOW, size[0] // WINDOW * WINDOW])
    known = torch.isfinite(center[..., 0]) & (center >= 0).all(-1) & (center < limit).all(-1)
    cell = torch.where(known[..., None], center / WINDOW, 0.0).floor().long()
    return torch.where(known, cell[..., 1] * columns + cell[..., 0], -1)
