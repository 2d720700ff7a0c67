"""Rotary positions on the aggregated grid (Su et al., 2021; Efficient LoFTR, section 3.2)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_table(
    rows: int, columns: int, width: int, scale: tuple[float, float], device: torch.device
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """Cosine and sine of each grid position, row by row; channel pairs alternate between rows and columns.

    Positions count from 1 and are multiplied by `scale` (rows, columns): training size over test size.
    """
    frequency = torch.exp(torch.arange(width // 4, device=device) * (-math.log(10000.0) / (width // 4)))
    row = (torch.arange(1, rows + 1, device=device) * scale[0])[:, None, None] * frequency
    column = (torch.arange(1, columns + 1, device=device) * scale[1])[None, :, None] * frequency
    shape = (rows, columns, width // 4)
    angle = torch.stack([row.expand(shape), column.expand(shape)], dim=-1).reshape(rows * columns, width // 2)
    angle = angle.repeat_interleave(2, dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "b n c"], table: tuple[Tensor, Tensor]) -> Float[Tensor, "b n c"]:
    """Each pair of neighbouring channels turned by its position's angle."""
    cosine, sine = table
    turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cosine.to(x.dtype) + turned * sine.to(x.dtype)
