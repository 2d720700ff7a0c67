"""Seeded weights and photos on which Efficient LoFTR is compared with outputs of the authors' code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision3d.matching.eloftr import EfficientLoFTR, EfficientLoFTRConfig

# The published network with a quarter of its channels.
NARROW = EfficientLoFTRConfig(widths=(16, 16, 32, 64), threshold=1e-7)


def seeded_weights(net: EfficientLoFTR, statistics: Tensor | None = None) -> dict[str, Tensor]:
    """A state of `net` that is the same on every machine; statistics: of all its batch norms, one after the other.

    Without them those are measured on `shifted_photos`, so that activations keep their scale through all layers.
    """
    generator = torch.Generator().manual_seed(1)
    state = net.state_dict()
    for name, value in state.items():
        if value.dim() > 1:  # convolutions and linear layers
            state[name] = torch.randn(value.shape, generator=generator) * (1.0 / value[0].numel()) ** 0.5
        elif name.endswith("weight"):
            state[name] = 0.5 + torch.rand(value.shape, generator=generator)
        elif name.endswith("bias"):
            state[name] = 0.5 * torch.randn(value.shape, generator=generator)
    if statistics is None:
        net.load_state_dict(state)
        measure_statistics(net)
        return net.state_dict()
    for name in statistics_names(state):
        count = state[name].numel()
        state[name], statistics = statistics[:count], statistics[count:]
    return state


def statistics_names(state: dict[str, Tensor]) -> list[str]:
    """The batch norms' running means and variances, in order."""
    return [name for name in state if name.endswith(("running_mean", "running_var"))]


@torch.no_grad()
def measure_statistics(net: EfficientLoFTR) -> None:
    """Sets the batch norms' running statistics from `shifted_photos`; the net is in evaluation mode afterwards."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0
    net.train()
    net.fine(net.features(*shifted_photos()))
    net.eval()


def texture(height: int, width: int, seed: int = 2) -> Tensor:
    """A grey picture [1 1 h w] in [0, 1] with detail at several scales."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 1, height, width)
    for cell, weight in ((64, 1.0), (16, 0.7), (4, 0.5)):
        noise = torch.rand(1, 1, -(-height // cell) + 1, -(-width // cell) + 1, generator=generator)
        total += weight * F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    return (total - total.min()) / (total.max() - total.min())


def shifted_photos(size: tuple[int, int] = (160, 224)) -> tuple[Tensor, Tensor]:
    """Two views [1 1 h w] of one texture, the second 37 px further right and 21 px further down."""
    big = texture(256, 320)
    return big[..., : size[0], : size[1]], big[..., 21 : 21 + size[0], 37 : 37 + size[1]]
