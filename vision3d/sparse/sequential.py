"""Layers in sequence; convolution, batch norm and ReLU are one product where no gradient is asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.sparse import fused_forward, products
from vision3d.sparse.convolution import has_kernels
from vision3d.sparse.layers import ConvolutionLayer, SparseModule
from vision3d.sparse.norm import SparseReLU


def foldable(layers: list[nn.Module]) -> int:
    """How many of the first layers can be one: 3 with ReLU, 2 without, 0 if they are something else.

    None while gradients are recorded.
    """
    if torch.is_grad_enabled():
        return 0
    if len(layers) < 2 or not isinstance(layers[0], ConvolutionLayer) or not isinstance(layers[1], nn.BatchNorm1d):
        return 0
    norm = layers[1]
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return 0
    return 3 if len(layers) > 2 and isinstance(layers[2], nn.ReLU | SparseReLU) else 2


def apply_folded(x: SparseTensor, layer: ConvolutionLayer, norm: nn.BatchNorm1d, relu: bool) -> SparseTensor:
    """relu(norm(layer(x))) up to rounding, without gradients. Half precision rounds once, at the end."""
    layer.check(x)
    sites, rulebook = layer.find(x.sites)
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift: Tensor = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    weight = (layer.weight.flatten(0, -3) * scale).to(x.features.dtype)
    convolve = fused_forward.convolve if has_kernels(x.features) else products.convolve
    return SparseTensor.at(sites, convolve(x.features, weight, rulebook, shift, relu))


class SparseSequential(nn.Sequential):
    """Layers one after another; those that are not SparseModules (batch norm, ReLU, Linear) see the features alone.

    Under torch.no_grad, a convolution with batch norm in evaluation mode (and ReLU) behind it is computed as one.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Features and sites after the last layer."""
        layers = list(self)
        while layers:
            together = foldable(layers)
            if together:
                assert isinstance(layers[0], ConvolutionLayer) and isinstance(layers[1], nn.BatchNorm1d)
                x = apply_folded(x, layers[0], layers[1], relu=together == 3)
            elif isinstance(layers[0], SparseModule | SparseSequential):
                x = layers[0](x)
            else:
                x = x.with_features(layers[0](x.features))
            layers = layers[max(1, together) :]
        return x
