"""Convolution weights that look alike in all directions, and stay so in training.

Elements of a kernel that lie at the same distances along the axes, in any order and direction (the orbits of the cube's
48 symmetries), share one weight. A network of such kernels hardly changes its answer when the grid is turned, and
learns from fewer turned copies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision3d.sparse import InverseConv
from vision3d.sparse.layers import ConvolutionLayer


def orbits(size: int, dimensions: int) -> Int[Tensor, " k"]:
    """The number of the orbit of each element of a cubic kernel, in the order of kernel elements."""
    along = torch.arange(size) - size // 2
    offsets = torch.stack(torch.meshgrid(*[along] * dimensions, indexing="ij"), dim=-1)
    kinds = offsets.abs().reshape(-1, dimensions).sort(dim=1).values
    out: Tensor = torch.unique(kinds, dim=0, return_inverse=True)[1]
    return out


def isotropic(weight: Float[Tensor, "*k i o"]) -> Float[Tensor, "*k i o"]:
    """The mean of a weight over each orbit."""
    orbit = orbits(weight.shape[0], weight.ndim - 2).to(weight.device)
    count = torch.bincount(orbit).to(weight.dtype)
    rows = weight.flatten(0, -3).flatten(1)
    means = rows.new_zeros(len(count), rows.shape[1]).index_add_(0, orbit, rows) / count[:, None]
    return means[orbit].view_as(weight)


def keep_isotropic(net: nn.Module) -> None:
    """Makes all kernels isotropic, and their gradients from now on: steps of any optimiser then keep them so."""
    averaged: Callable[[Tensor], Tensor] = isotropic
    for layer in net.modules():
        if isinstance(layer, ConvolutionLayer | InverseConv) and layer.window.volume > 1:
            with torch.no_grad():
                layer.weight.copy_(isotropic(layer.weight))
            layer.weight.register_hook(averaged)  # type: ignore[no-untyped-call]
