"""Two-stage fine matching inside pairs of windows, to sub-pixel accuracy (Efficient LoFTR, section 3.4).

First the best of 64 x 64 pixel pairs by dual softmax, then the expectation over 3 x 3 pixels of photo 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.matching.eloftr.coarse import CellPairs
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.match_windows import match_windows_in_cache
from vision3d.matching.eloftr.valid import Extents

WINDOW = 8  # px a side of a window, the size of a cell
PATCH = 6  # half-resolution pixels a side that a window (and the ring around it) is interpolated from
BLOCK = 512  # windows at once


def interpolation(first: int, count: int) -> Float[Tensor, "count 6"]:
    """Weights that make `count` pixels of a cell, from number `first` on, of its 6 half-resolution neighbours.

    Bilinear doubling: pixel u lies at u / 2 - 1 / 4 of the half-resolution map; the patch begins at -1.
    """
    weights = torch.zeros(count, PATCH)
    for i, u in enumerate(range(first, first + count)):
        near, far = (u // 2, u // 2 - 1) if u % 2 == 0 else (u // 2, u // 2 + 1)
        weights[i, near + 1] += 0.75
        weights[i, far + 1] += 0.25
    return weights


def windows(
    half: Float[Tensor, "b c h w"],
    item: Int[Tensor, " m"],
    cell: Int[Tensor, " m"],
    columns: int,
    ring: int,
    extents: Extents,
) -> Float[Tensor, "m n c"]:
    """Full-resolution features of each cell's window, `ring` px larger on each side, row by row; zero off the photo."""
    limit = (extents.at(2) - 1)[item]
    row, column = torch.div(cell, columns, rounding_mode="floor"), cell % columns
    offset = torch.arange(-1, PATCH - 1, device=cell.device)
    y = torch.minimum((row[:, None] * 4 + offset).clamp_(min=0), limit[:, :1])
    x = torch.minimum((column[:, None] * 4 + offset).clamp_(min=0), limit[:, 1:])
    patch = half.permute(0, 2, 3, 1)[item[:, None, None], y[:, :, None], x[:, None, :]]
    side = WINDOW + 2 * ring
    weights = interpolation(-ring, side).to(patch)
    made = torch.einsum("ap,mpqc->maqc", weights, patch)
    made = torch.einsum("bq,maqc->mabc", weights, made)
    if ring:
        full = 2 * extents.at(2)[item]
        place = torch.arange(-ring, WINDOW + ring, device=cell.device)
        v, u = row[:, None] * WINDOW + place, column[:, None] * WINDOW + place
        inside = ((v >= 0) & (v < full[:, :1]))[:, :, None] & ((u >= 0) & (u < full[:, 1:]))[:, None, :]
        made = made * inside[..., None].to(made.dtype)
    return made.flatten(1, 2)


def pixel_confidence(
    windows0: Float[Tensor, "m 64 c"], windows1: Float[Tensor, "m 100 c"], extra: int
) -> Float[Tensor, "m 64 64"]:
    """Dual softmax over the pixels of both windows, the ring of photo 1 taking part and then cut off."""
    width = windows0.shape[2]
    similarity = windows0[..., :-extra] @ windows1[..., :-extra].transpose(1, 2) / width
    confidence = similarity.softmax(1) * similarity.softmax(2)
    side = WINDOW + 2
    return confidence.reshape(len(confidence), -1, side, side)[:, :, 1:-1, 1:-1].flatten(2)


def subpixel(
    windows0: Float[Tensor, "m 64 c"],
    windows1: Float[Tensor, "m 100 c"],
    pixel0: Int[Tensor, " m"],
    pixel1: Int[Tensor, " m"],
    config: EfficientLoFTRConfig,
) -> Float[Tensor, "m 2"]:
    """px (x, y) in [-1, 1] by which photo 1's point moves: expectation over 3 x 3 pixels around pixel1 (of 64)."""
    extra, side = config.fine_extra, WINDOW + 2
    match = torch.arange(len(pixel0), device=pixel0.device)
    query = windows0[match, pixel0, -extra:]
    step = torch.arange(-1, 2, device=pixel0.device) + config.fine_centre
    row, column = torch.div(pixel1, WINDOW, rounding_mode="floor"), pixel1 % WINDOW
    around = (row[:, None] + step)[:, :, None] % side * side + (column[:, None] + step)[:, None, :] % side
    keys = windows1[match[:, None], around.flatten(1), -extra:]
    logits = torch.einsum("mc,mkc->mk", query, keys) / (extra**0.5 * config.fine_temperature)
    return F.softmax(logits, dim=1) @ _steps(pixel0.device).to(logits.dtype)


def _steps(device: torch.device) -> Float[Tensor, "9 2"]:
    step = torch.tensor([-1.0, 0.0, 1.0], device=device)
    return torch.stack([step.repeat(3), step.repeat_interleave(3)], dim=1)


def refine(
    half0: Float[Tensor, "b c h w"],
    half1: Float[Tensor, "b c i j"],
    pairs: CellPairs,
    grids: tuple[int, int],
    extents0: Extents,
    extents1: Extents,
    config: EfficientLoFTRConfig,
) -> tuple[Float[Tensor, "m 2"], Float[Tensor, "m 2"]]:
    """px of both photos (0.5 is the centre of the first pixel) of each pair of cells; `grids`: cells per row."""
    plain = half0.device.type == "cpu" and half0.dtype == torch.float32 and not torch.is_grad_enabled()
    if plain:
        halves = (half0.permute(0, 2, 3, 1).contiguous(), half1.permute(0, 2, 3, 1).contiguous())
        cells, limits = (pairs.cells0, pairs.cells1), (extents0.at(2), extents1.at(2))
        extra, centre, temperature = config.fine_extra, config.fine_centre, config.fine_temperature
        pixel0, pixel1, move = match_windows_in_cache(
            *halves, pairs.item, cells, grids, limits, extra, centre, temperature
        )
        origin = config.fine_origin
        return place(cells[0], pixel0, grids[0], origin), place(cells[1], pixel1, grids[1], origin) + move
    points0, points1 = half0.new_empty(len(pairs), 2), half0.new_empty(len(pairs), 2)
    for start in range(0, len(pairs), BLOCK):
        part = slice(start, start + BLOCK)
        item, cells0, cells1 = pairs.item[part], pairs.cells0[part], pairs.cells1[part]
        windows0 = windows(half0, item, cells0, grids[0], 0, extents0)
        windows1 = windows(half1, item, cells1, grids[1], 1, extents1)
        pixel0, pixel1, move = match_windows(windows0, windows1, config)
        points0[part] = place(cells0, pixel0, grids[0], config.fine_origin)
        points1[part] = place(cells1, pixel1, grids[1], config.fine_origin) + move
    return points0, points1


def match_windows(
    windows0: Float[Tensor, "m 64 c"], windows1: Float[Tensor, "m 100 c"], config: EfficientLoFTRConfig
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, "m 2"]]:
    """The best pixel of each window (of 64) and by how many px (x, y) the one in photo 1 moves."""
    best = pixel_confidence(windows0, windows1, config.fine_extra).flatten(1).argmax(1)
    pixel0, pixel1 = torch.div(best, WINDOW * WINDOW, rounding_mode="floor"), best % (WINDOW * WINDOW)
    return pixel0, pixel1, subpixel(windows0, windows1, pixel0, pixel1, config)


def place(cell: Int[Tensor, " m"], pixel: Int[Tensor, " m"], columns: int, origin: float) -> Float[Tensor, "m 2"]:
    """px of a window's pixel; `origin` is EfficientLoFTRConfig.fine_origin."""
    x = cell % columns * WINDOW + pixel % WINDOW
    y = torch.div(cell, columns, rounding_mode="floor") * WINDOW + torch.div(pixel, WINDOW, rounding_mode="floor")
    return torch.stack([x, y], dim=1) + origin
