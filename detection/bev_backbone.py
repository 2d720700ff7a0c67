"""The 2D backbone on the view from above: blocks of convolutions at falling resolution, brought together again.

Yan et al., "SECOND", Sensors 2018, section 3.3. Parameter names and the order of layers are OpenPCDet's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BevConfig:
    """For each block: layers after the first one, stride, channels; channels and stride of the way back up.

    The first block's stride must equal its way back up times the output's stride, and so on: all come out alike.
    """

    layers: tuple[int, ...] = (5, 5)
    strides: tuple[int, ...] = (1, 2)
    channels: tuple[int, ...] = (128, 256)
    up_strides: tuple[int, ...] = (1, 2)
    up_channels: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        fields = (self.layers, self.strides, self.channels, self.up_strides, self.up_channels)
        if len({len(field) for field in fields}) != 1 or not self.layers:
            raise ValueError(f"layers, strides and channels must be as many as there are blocks, got {self}")


class BevBackbone(nn.Module):
    """[b c y x] to [b sum(up_channels) y x]; y and x must be multiples of the product of the strides."""

    def __init__(self, config: BevConfig, in_channels: int) -> None:
        super().__init__()
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for layers, stride, channels, up_stride, up_channels in zip(
            config.layers, config.strides, config.channels, config.up_strides, config.up_channels, strict=True
        ):
            block = [nn.ZeroPad2d(1), nn.Conv2d(in_channels, channels, 3, stride, bias=False), *_after(channels)]
            for _ in range(layers):
                block += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), *_after(channels)]
            self.blocks.append(nn.Sequential(*block))
            up = nn.ConvTranspose2d(channels, up_channels, up_stride, up_stride, bias=False)
            self.deblocks.append(nn.Sequential(up, *_after(up_channels)))
            in_channels = channels
        self.out_channels = sum(config.up_channels)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """All blocks' results beside each other."""
        ups = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            x = block(x)
            ups.append(deblock(x))
        return torch.cat(ups, dim=1)


def _after(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU()]
