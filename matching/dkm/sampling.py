"""Balanced sampling of a dense warp (DKM, section 3.4): certain pixels, fewer where samples lie close together."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.matching.dkm.config import DKMConfig

EXPANSION = 4  # candidates per sample
ROWS = 1024  # of the matrix of distances at once


def density(points: Float[Tensor, "n d"], std: float) -> Float[Tensor, " n"]:
    """Sum of Gaussians of the distances to all points, each point's own (1) included."""
    sums = [torch.cdist(part, points).square_().mul_(-0.5 / std**2).exp_().sum(1) for part in torch.split(points, ROWS)]
    return torch.cat(sums) if sums else points.new_zeros(0)


def balanced_sample(
    matches: Float[Tensor, "n 4"],
    certainty: Float[Tensor, " n"],
    count: int,
    config: DKMConfig,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " m"]:
    """Indices of at most `count` matches (both photos' coordinates in [-1, 1]), none of certainty 0, each once."""
    weight = torch.where(certainty > config.certainty_threshold, 1.0, certainty)
    candidates = _draw(weight, EXPANSION * count, generator)
    near = density(matches[candidates], config.density_std)
    # too lonely ones are drawn only where nothing else is left
    share = torch.where(near < config.min_density, 1e-7, 1 / (near + 1))
    return candidates[_draw(share, count, generator)]


def _draw(weight: Float[Tensor, " n"], count: int, generator: torch.Generator | None) -> Int[Tensor, " m"]:
    count = min(count, int((weight > 0).sum()))
    if count == 0:
        return torch.zeros(0, dtype=torch.int64, device=weight.device)
    return torch.multinomial(weight, count, replacement=False, generator=generator)
