"""A trained head on frozen features: residual bottlenecks after He et al., "Deep Residual Learning", CVPR 2016, fig. 5.

As adapter of frozen features for semantic correspondence: J. Zhang et al., "Telling Left from Right: Identifying
Geometry-Aware Semantic Correspondence", CVPR 2024, section 4.2 (bottlenecks on the features of frozen networks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Size of the head."""

    hidden: int = 128
    """channels inside a bottleneck"""
    blocks: int = 4
    """bottlenecks, one after the other; the second and later ones look twice as far as the one before"""
    dropout: float = 0.2
    """share of the input's channels that are left out while training"""

    def __post_init__(self) -> None:
        if self.hidden < 8 or self.hidden % 8 or self.blocks < 1:
            raise ValueError(f"hidden is a multiple of 8, blocks 1 or more, got {self.hidden}, {self.blocks}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout lies in [0, 1), got {self.dropout}")


class Bottleneck(nn.Module):
    """x + 1x1(3x3(1x1(x))), with group norms (batches are a few pictures); starts as the identity."""

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm2 = nn.GroupNorm(8, hidden)
        self.expand = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)  # type: ignore[arg-type]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """See the class."""
        inner = F.relu(self.norm1(self.reduce(x)))
        inner = F.relu(self.norm2(self.mix(inner)))
        out: Tensor = x + self.expand(inner)
        return out


class BottleneckHead(nn.Module):
    """Grids of unit vectors to grids of unit vectors, of the same size. Untrained it changes nothing."""

    def __init__(self, channels: int, config: HeadConfig) -> None:
        super().__init__()
        self.channels = channels
        self.scale = channels**0.5  # of a unit vector, so that its entries are about 1
        self.drop = nn.Dropout2d(config.dropout)
        self.blocks = nn.Sequential(
            *(Bottleneck(channels, config.hidden, 2**number) for number in range(config.blocks))
        )

    def forward(self, grid: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The adapted features, unit vectors along c."""
        return F.normalize(self.blocks(self.drop(grid * self.scale)), dim=1)
