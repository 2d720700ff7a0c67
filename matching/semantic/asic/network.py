"""From a picture's features to canonical coordinates, and the learned canonical embedding: ASIC, section 3.2.

The paper's U-Net reads pixels; this one reads frozen features, at their resolution, and where in its object a cell is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EMBEDDING_CELLS = 24  # of the canonical space, along a side


class CanonicalNetwork(nn.Module):
    """A U-Net with one step down. Its output, added to the start, is zero before training."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(inputs, channels, 1)
        self.fine = nn.Conv2d(channels, channels, 3, padding=1)
        self.down = nn.Conv2d(channels, 2 * channels, 3, padding=1, stride=2)
        self.coarse = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.merge = nn.Conv2d(3 * channels, channels, 3, padding=1)
        self.write = nn.Conv2d(channels, 2, 1)
        for parameter in self.write.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2 h w"]:
        """What to add to the canonical coordinates of every cell."""
        fine = F.gelu(self.fine(F.gelu(self.read(inputs))))
        coarse = F.gelu(self.coarse(F.gelu(self.down(fine))))
        coarse = F.interpolate(coarse, fine.shape[2:], mode="bilinear", align_corners=False)
        residual: Tensor = self.write(F.gelu(self.merge(torch.cat([fine, coarse], dim=1))))
        return residual


class CanonicalEmbedding(nn.Module):
    """A grid over the canonical space of what lies there, in channels of reduced features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.grid = nn.Parameter(0.05 * torch.randn(1, channels, EMBEDDING_CELLS, EMBEDDING_CELLS))

    def forward(self, coordinates: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b c h w"]:
        """The embedding at canonical coordinates, its border's values beyond [-1, 1]."""
        return F.grid_sample(
            self.grid.expand(len(coordinates), -1, -1, -1),
            coordinates.permute(0, 2, 3, 1),
            padding_mode="border",
            align_corners=False,
        )
