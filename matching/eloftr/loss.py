"""The losses of Efficient LoFTR (section 3.5): focal on true cells, focal on true pixels, L2 on sub-pixel places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.matching.eloftr.coarse import CellPairs
from vision3d.matching.eloftr.fine import WINDOW, subpixel, windows
from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.matching.eloftr.supervision import pixel_targets, true_cells
from vision3d.matching.eloftr.transformer import CELL


@dataclass(frozen=True, kw_only=True)
class MatchingLossConfig:
    """Weights of the terms and how much of a batch enters the fine ones."""

    focal_alpha: float = 0.25
    """factor of the coarse focal loss"""
    focal_gamma: float = 2.0
    """power of the focal losses"""
    fine_weight: float = 1.0
    """of the first fine stage"""
    subpixel_weight: float = 0.25
    """of the second, on px^2 of the window's half width"""
    fine_cells: int = 128
    """true pairs of cells per pair of photos that the fine stages see"""

    def __post_init__(self) -> None:
        if min(self.focal_alpha, self.focal_gamma, self.fine_weight, self.subpixel_weight) < 0 or self.fine_cells < 1:
            raise ValueError("weights of the loss must not be negative, and fine_cells at least 1")


def matching_losses(
    net: EfficientLoFTR,
    grey0: Float[Tensor, "b 1 h w"],
    grey1: Float[Tensor, "b 1 i j"],
    to1: Float[Tensor, "b h w 2"],
    to0: Float[Tensor, "b i j 2"],
    config: MatchingLossConfig,
    sizes: tuple[Int[Tensor, "b 2"], Int[Tensor, "b 2"]] | tuple[None, None] = (None, None),
) -> dict[str, Tensor]:
    """The terms and their sum, "loss"; all zero, with a gradient, where the photos share no cell.

    to1: px of photo 1 where each pixel of photo 0 lies, NaN where unknown. sizes: see `EfficientLoFTR.forward`. Which
    cells enter the fine terms is drawn at random.
    """
    features = net.features(grey0, grey1, *sizes)
    cells0, cells1 = features.cells
    columns = (cells0.shape[3], cells1.shape[3])
    masks = (features.extents[0].mask(CELL).flatten(1), features.extents[1].mask(CELL).flatten(1))
    pairs = true_cells(to1, to0, columns)
    if len(pairs) == 0:
        nothing = sum((p.sum() for p in net.parameters()), cells0.sum()) * 0
        return dict.fromkeys(("loss", "coarse", "fine", "subpixel"), nothing)
    half0, half1 = (h.float() for h in net.fine(features))
    with torch.autocast(cells0.device.type, enabled=False):  # similarities need float32
        rows0, rows1 = (c.flatten(2).transpose(1, 2).float() for c in (cells0, cells1))
        coarse = coarse_loss(rows0, rows1, pairs, net.config.temperature, config, masks)

        count = min(len(pairs), config.fine_cells * len(grey0))
        chosen = torch.randperm(len(pairs))[:count].to(pairs.item.device)
        few = CellPairs(*(t[chosen] for t in (pairs.item, pairs.cells0, pairs.cells1, pairs.confidence)))
        targets = pixel_targets(to1, few, columns)
        windows0 = windows(half0, few.item, few.cells0, columns[0], 0, features.extents[0])
        windows1 = windows(half1, few.item, few.cells1, columns[1], 1, features.extents[1])
        fine = fine_loss(windows0, windows1, targets.pixel1, net.config.fine_extra, config.focal_gamma)

        match, pixel0 = (targets.pixel1 >= 0).nonzero(as_tuple=True)
        kept = torch.randperm(len(match))[: 4 * count].to(match.device)
        match, pixel0 = match[kept], pixel0[kept]
        if len(match):
            moved = subpixel(windows0[match], windows1[match], pixel0, targets.pixel1[match, pixel0], net.config)
            near = (moved - targets.offset[match, pixel0]).square().sum(1).mean()
        else:
            near = windows0.sum() * 0
    loss = coarse + config.fine_weight * fine + config.subpixel_weight * near
    return {"loss": loss, "coarse": coarse, "fine": fine, "subpixel": near}


def coarse_loss(
    rows0: Float[Tensor, "b n c"],
    rows1: Float[Tensor, "b m c"],
    pairs: CellPairs,
    temperature: float,
    config: MatchingLossConfig,
    masks: tuple[Bool[Tensor, "b n"], Bool[Tensor, "b m"]] | None = None,
) -> Float[Tensor, ""]:
    """Focal loss of the true cells' confidence under the dual softmax, weighted by the share of pixels they have in
    common; the softmax itself presses on all other cells. masks: of cells that hold photo; None: all."""
    similarity = rows0 @ rows1.transpose(1, 2) / (rows0.shape[2] * temperature)
    if masks is not None and not (masks[0].all() and masks[1].all()):
        similarity = similarity.masked_fill(~(masks[0][:, :, None] & masks[1][:, None, :]), -1e9)
    at = (pairs.item, pairs.cells0, pairs.cells1)
    chosen = 2 * similarity[at] - similarity.logsumexp(2)[at[0], at[1]] - similarity.logsumexp(1)[at[0], at[2]]
    weight = pairs.confidence / pairs.confidence.sum().clamp(min=1e-6)
    return config.focal_alpha * (focal(chosen, config.focal_gamma) * weight).sum()


def fine_loss(
    windows0: Float[Tensor, "m 64 c"],
    windows1: Float[Tensor, "m 100 c"],
    pixel1: Int[Tensor, "m 64"],
    extra: int,
    gamma: float,
) -> Float[Tensor, ""]:
    """Focal loss of the true pixels' confidence under the dual softmax of the windows, ring included."""
    similarity = windows0[..., :-extra] @ windows1[..., :-extra].transpose(1, 2) / windows0.shape[2]
    match, pixel0 = (pixel1 >= 0).nonzero(as_tuple=True)
    if len(match) == 0:
        return similarity.sum() * 0
    target = pixel1[match, pixel0]
    ringed = (torch.div(target, WINDOW, rounding_mode="floor") + 1) * (WINDOW + 2) + target % WINDOW + 1
    logs = 2 * similarity[match, pixel0, ringed]
    logs = logs - similarity.logsumexp(2)[match, pixel0] - similarity.logsumexp(1)[match, ringed]
    return focal(logs, gamma).mean()


def focal(logs: Float[Tensor, " n"], gamma: float) -> Float[Tensor, " n"]:
    """(1 - p)^gamma * -log p of logarithms of probabilities (Lin et al., ICCV 2017)."""
    rest: Tensor = -torch.expm1(logs.clamp(max=-1e-7))
    return -logs * rest.pow(gamma)
