"""MinkowskiEngine's convolutions in loops over coordinates, from its sources (0.5.4), for networks in its layout.

`coordinate_at` in src/kernel_region.hpp: axis a of kernel element k is (k // size^a) % size - size // 2, times the
stride of the finer tensor. A strided layer's outputs are floor(c / stride) * stride; a transposed one uses the strided
one's pairs backwards and returns to the coordinates there were.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

Site = tuple[int, ...]
Sparse = dict[Site, np.ndarray]


class MinkowskiTwin:
    """Layers by their names in a state dict, everything in float64, batch norm in evaluation mode."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: tensor.double().numpy() for name, tensor in state.items()}

    def conv(self, x: Sparse, name: str, stride_in: int, factor: int = 1) -> Sparse:
        """Strided by `factor`; coordinates are multiples of stride_in."""
        step = stride_in * factor
        outputs = {tuple(c // step * step for c in site) for site in x}
        out = {}
        for site in outputs:
            total = 0.0
            for offset, kernel in self._kernel(name, len(site)):
                seen = tuple(c + o * stride_in for c, o in zip(site, offset, strict=True))
                if seen in x:
                    total = total + x[seen] @ kernel
            out[site] = np.asarray(total) + self._bias(name)
        return out

    def transposed(self, x: Sparse, name: str, onto: Iterable[Site], stride_out: int) -> Sparse:
        """From the stride 2 * stride_out to the known sites `onto`."""
        out = {}
        for site in onto:
            total = np.zeros(self.state[f"{name}.kernel"].shape[-1])
            for offset, kernel in self._kernel(name, len(site)):
                coarse = tuple(c - o * stride_out for c, o in zip(site, offset, strict=True))
                if coarse in x:
                    total = total + x[coarse] @ kernel
            out[site] = total
        return out

    def norm(self, x: Sparse, name: str) -> Sparse:
        """Batch norm with running statistics."""
        mean, var, weight, bias = (
            self.state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return {site: (value - mean) / np.sqrt(var + 1e-5) * weight + bias for site, value in x.items()}

    def block(self, x: Sparse, name: str, stride: int) -> Sparse:
        """The residual block."""
        out = relu(self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.norm1"))
        out = self.norm(self.conv(out, f"{name}.conv2", stride), f"{name}.norm2")
        return {site: np.maximum(out[site] + x[site], 0) for site in x}

    def _bias(self, name: str) -> np.ndarray:
        bias = self.state.get(f"{name}.bias")
        return np.zeros(1) if bias is None else bias[0]

    def _kernel(self, name: str, dimensions: int) -> list[tuple[Site, np.ndarray]]:
        kernel = self.state[f"{name}.kernel"]
        if kernel.ndim == 2:
            return [((0,) * dimensions, kernel)]
        size = round(len(kernel) ** (1 / dimensions))
        # product counts its last factor fastest: turned round, the first axis is the fastest.
        offsets = [tuple(reversed(o)) for o in itertools.product(range(-(size // 2), size // 2 + 1), repeat=dimensions)]
        return list(zip(offsets, kernel, strict=True))


def relu(x: Sparse) -> Sparse:
    """max(0, x)."""
    return {site: np.maximum(value, 0) for site, value in x.items()}


def beside(x: Sparse, y: Sparse) -> Sparse:
    """Channels of x, then of y."""
    return {site: np.concatenate([x[site], y[site]]) for site in x}


def random_checkpoint(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Values for all tensors of a state dict that no two layers share, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            out[name] = tensor
        elif name.endswith("running_var"):
            out[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            out[name] = torch.randn(tensor.shape, generator=generator) * (0.3 if tensor.ndim > 1 else 0.5)
    return out
