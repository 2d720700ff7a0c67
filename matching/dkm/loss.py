"""The losses of DKM (Edstedt et al., CVPR 2023, section 3.4): distance of the warp and certainty, at every stride.

As in the authors' training code, except where the truth comes from: it is a warp here (`DensePair`), interpolated for
coarse strides, where they interpolate the depth at a coarse pixel's centre and project that; so it also serves for
homographies. Their test of depths (5 %) is in `warp_by_depth`, on the nearest pixel's depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.matching.dkm.model import Estimate


@dataclass(frozen=True, kw_only=True)
class WarpLossConfig:
    """Weights of the terms; the published setting by default."""

    certainty_weight: float = 0.01
    """of the certainty's cross entropy beside the warp's distance; the authors take 0 on ScanNet, whose depth has holes
    where surfaces are seen"""
    local_from: int = 8
    """strides up to this one learn only where the stride before was near the truth; 0: learn everywhere"""
    local_distance: float = 4.0
    """how near: px at that stride, of a photo of 512 px"""

    def __post_init__(self) -> None:
        if self.certainty_weight < 0 or self.local_from < 0 or self.local_distance <= 0:
            raise ValueError("certainty_weight and local_from must not be negative, local_distance must be positive")


def true_warp(
    to1: Float[Tensor, "b h w 2"], grid: tuple[int, int], size1: tuple[int, int]
) -> tuple[Float[Tensor, "b i j 2"], Bool[Tensor, "b i j"]]:
    """The truth at the centres of a coarser grid of (rows, columns), [-1, 1] across photo 1, and where it is known.

    to1: px of photo 1 of (height, width) size1, NaN where unknown. Between pixels it is interpolated; a centre is known
    if all pixels that enter are. Unknown values are 0.
    """
    known = torch.isfinite(to1).all(-1)
    unit = to1 / to1.new_tensor([size1[1] / 2, size1[0] / 2]) - 1
    values = torch.cat([torch.where(known[..., None], unit, 0), known[..., None].to(to1.dtype)], -1).permute(0, 3, 1, 2)
    if grid != tuple(to1.shape[1:3]):
        b, (rows, columns) = len(to1), grid
        y, x = ((2 * torch.arange(n, device=to1.device, dtype=to1.dtype) + 1) / n - 1 for n in (rows, columns))
        at = torch.stack([x[None].expand(rows, -1), y[:, None].expand(-1, columns)], -1)[None].expand(b, -1, -1, -1)
        values = F.grid_sample(values, at, align_corners=False, padding_mode="border")
    sure = values[:, 2] > 0.999
    return torch.where(sure[..., None], values[:, :2].permute(0, 2, 3, 1), 0), sure


def warp_losses(
    made: Mapping[int, Estimate],
    to1: Float[Tensor, "b h w 2"],
    size1: tuple[int, int],
    config: WarpLossConfig,
) -> dict[str, Tensor]:
    """The sum over strides, "loss", and its parts "distance" ([-1, 1] across photo 1) and "certainty" (unweighted).

    made: estimates by stride, coarse to fine, as the network returns them; to1, size1: see `true_warp`. Pixels without
    truth teach the certainty to be low. At fine strides so do those that the stride before put too far away, and their
    distance does not count: a refiner is not to answer for coarse mistakes. How far is measured at the coarse pixel;
    where that has no truth (at the rim of what both photos show), at the fine one.
    """
    some = next(iter(made.values())).warp
    distance, certainty = some.new_zeros(()), some.new_zeros(())
    before: Estimate | None = None
    before_away = some.new_zeros(())  # at the stride before, NaN without truth
    for stride, estimate in made.items():
        grid = (estimate.warp.shape[2], estimate.warp.shape[3])
        truth, known = true_warp(to1, grid, size1)
        away = _distance(estimate, truth)
        counted = known
        if stride <= config.local_from and before is not None:
            coarse = F.interpolate(before_away[:, None], size=grid, mode="nearest")[:, 0]
            start = torch.where(coarse.isnan(), _distance(before.resized(grid), truth), coarse)
            counted = known & (start < 2 / 512 * config.local_distance * stride)
        certainty = certainty + F.binary_cross_entropy_with_logits(estimate.logit[:, 0], counted.to(some.dtype))
        distance = distance + (away[counted].mean() if bool(counted.any()) else away.sum() * 0)
        before, before_away = estimate.detach(), torch.where(known, away.detach(), torch.nan)
    return {"loss": distance + config.certainty_weight * certainty, "distance": distance, "certainty": certainty}


def _distance(estimate: Estimate, truth: Float[Tensor, "b i j 2"]) -> Float[Tensor, "b i j"]:
    """[-1, 1] across photo 1; its gradient is finite also where it is 0."""
    return (estimate.warp.permute(0, 2, 3, 1) - truth).square().sum(-1).add(1e-12).sqrt()
