"""Low-rank adapters of frozen layers: E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.

Section 4.1 there: the weight W of a layer becomes W + (alpha / rank) B A, where only A and B are trained; B starts at
zero, so that training starts at the frozen network. For linear layers and for convolutions without groups, whose
kernels count as part of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize


@dataclass(frozen=True, kw_only=True)
class LowRankConfig:
    """Size of the adapters."""

    rank: int = 8
    """of the change of every weight, at most (layers with fewer inputs or outputs take these)"""
    alpha: float = 8.0
    """over rank: the factor of the change"""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < float("inf"):
            raise ValueError(f"rank must be 1 or more and alpha above 0, got {self.rank} and {self.alpha:g}")


class LowRankChange(nn.Module):
    """One weight's change: adds (alpha / rank) `up` @ `down` to a weight [outputs inputs ...] of the given shape."""

    def __init__(self, shape: Sequence[int], config: LowRankConfig) -> None:
        super().__init__()
        outputs, inputs = shape[0], torch.Size(shape[1:]).numel()
        rank = min(config.rank, outputs, inputs)
        self.factor = config.alpha / config.rank
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, weight: Float[Tensor, "outputs inputs ..."]) -> Float[Tensor, "outputs inputs ..."]:
        """See the class."""
        return weight + (self.factor * (self.up @ self.down)).reshape(weight.shape)


class LowRankAdapters(nn.Module):
    """Adapters of some layers of a network, whose own weights are frozen and no part of this module.

    While they live the network computes with the changed weights; its layers are used as ever. `merge` writes the
    changes into the weights.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], config: LowRankConfig) -> None:
        """layers: names of submodules of the network.

        Raises:
            ValueError: no layers, one that is no linear layer and no convolution without groups, or that has adapters.
        """
        super().__init__()
        if not layers:
            raise ValueError("adapters need at least one layer")
        network.requires_grad_(False)
        self.changes = nn.ModuleDict()
        self._layers: dict[str, nn.Module] = {}  # a plain dict, so that the layers are not part of this module
        known = dict(network.named_modules())
        for name in layers:
            layer = known.get(name)
            grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
            if not isinstance(layer, nn.Linear | nn.Conv2d) or grouped:
                raise ValueError(f"{name} is no linear layer and no convolution without groups of the network")
            if parametrize.is_parametrized(layer, "weight"):
                raise ValueError(f"{name} has adapters already")
            change = LowRankChange(layer.weight.shape, config).to(layer.weight)
            parametrize.register_parametrization(layer, "weight", change)
            self.changes[name.replace(".", "/")] = change
            self._layers[name] = layer

    def merge(self) -> None:
        """Writes the changed weights into the network, which then has plain layers again. Once only."""
        for layer in self._layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            layer.requires_grad_(False)
        self._layers.clear()
