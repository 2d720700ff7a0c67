"""Sparse convolution along a rulebook as a differentiable function, to any order."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from vision3d.sparse import fused_forward, fused_weights, products
from vision3d.sparse.kernel_map import KernelMap


def sparse_convolution(
    features: Float[Tensor, "n i"],
    weight: Float[Tensor, "k i o"],
    rulebook: KernelMap,
    bias: Float[Tensor, " o"] | None = None,
) -> Float[Tensor, "m o"]:
    """out[v] = bias + sum over kernel elements k and pairs (u, v) of features[u] @ weight[k].

    Computed in the type of the features (half precision adds up in float32); weight and bias are converted to it.
    The same input gives the same bits, whatever the number of threads. ValueError if shapes do not fit.
    """
    if weight.shape[0] != rulebook.volume or weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"weight {list(weight.shape)} must be [{rulebook.volume} {features.shape[1]} c] for a rulebook of "
            f"{rulebook.volume} kernel elements and {features.shape[1]} channels"
        )
    if len(features) != rulebook.inputs:
        raise ValueError(f"{len(features)} rows of features, the rulebook is for {rulebook.inputs}")
    bias = None if bias is None else bias.to(features.dtype)
    return cast(Tensor, _Convolve.apply(features, weight.to(features.dtype), bias, rulebook))


class _Convolve(torch.autograd.Function):
    """Linear in features and in weights, so both gradients are products along the same rulebook."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, weight: Tensor, bias: Tensor | None, rulebook: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rulebook = rulebook  # type: ignore[attr-defined]
        convolve = fused_forward.convolve if has_kernels(features) else products.convolve
        return convolve(features, weight, rulebook, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        to_features = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_features = _backwards(gradient, weight, ctx.rulebook)
        if ctx.needs_input_grad[1]:
            to_weight = cast(Tensor, _Correlate.apply(features, gradient, ctx.rulebook))
        if ctx.needs_input_grad[2]:
            to_bias = cast(Tensor, _SumRows.apply(gradient))
        return to_features, to_weight, to_bias, None


class _Correlate(torch.autograd.Function):
    """The gradient of the weights, linear in features and in the gradient of the output."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, gradient: Tensor, rulebook: KernelMap) -> Tensor:
        ctx.save_for_backward(features, gradient)
        ctx.rulebook = rulebook  # type: ignore[attr-defined]
        correlate = fused_weights.correlate if has_kernels(features) else products.correlate
        return correlate(features, gradient, rulebook)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, gradient = ctx.saved_tensors
        to_features = to_gradient = None
        if ctx.needs_input_grad[0]:
            to_features = _backwards(gradient, weight, ctx.rulebook)
        if ctx.needs_input_grad[1]:
            to_gradient = cast(Tensor, _Convolve.apply(features, weight, None, ctx.rulebook))
        return to_features, to_gradient, None


class _SumRows(torch.autograd.Function):
    """The gradient of the bias."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        ctx.rows = len(gradient)
        sums = fused_weights.column_sums if has_kernels(gradient) else products.column_sums
        return sums(gradient)

    @staticmethod
    def backward(ctx: Any, bias: Tensor) -> Tensor:
        return bias.expand(ctx.rows, -1)


def _backwards(gradient: Tensor, weight: Tensor, rulebook: KernelMap) -> Tensor:
    """From gradients at the outputs to gradients at the inputs."""
    if rulebook.symmetric:
        return cast(Tensor, _Convolve.apply(gradient, weight.flip(0).transpose(1, 2), None, rulebook))
    return cast(Tensor, _Convolve.apply(gradient, weight.transpose(1, 2), None, rulebook.transposed()))


def has_kernels(features: Tensor) -> bool:
    """Whether the Numba kernels work on this device and type."""
    return features.device.type == "cpu" and features.dtype in (torch.float32, torch.float64, torch.bfloat16)
