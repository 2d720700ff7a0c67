"""Products of features and weights along a rulebook, in plain torch: gather, multiply, scatter per kernel element.

The twin of the CPU kernels, and the engine on CUDA. Every row stands at most once within a kernel element, so the
additions of a scatter never race: results do not depend on threads. Sums of half precision are kept in float32.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.sparse.kernel_map import KernelMap


def convolve(
    features: Float[Tensor, "n i"],
    weight: Float[Tensor, "k i o"],
    rulebook: KernelMap,
    bias: Float[Tensor, " o"] | None = None,
    relu: bool = False,
) -> Float[Tensor, "m o"]:
    """out[v] = bias + sum over kernel elements k and pairs (u, v) of features[u] @ weight[k], above 0 if relu."""
    out = features.new_zeros(rulebook.outputs, weight.shape[2], dtype=_sum_type(features))
    if bias is not None:
        out += bias
    for k, (first, last) in enumerate(zip(rulebook.starts, rulebook.starts[1:], strict=False)):
        if last > first:
            rows = features.index_select(0, rulebook.in_rows[first:last])
            out.index_add_(0, rulebook.out_rows[first:last], (rows @ weight[k]).to(out.dtype))
    if relu:
        out.relu_()
    return out.to(features.dtype)


def correlate(
    features: Float[Tensor, "n i"], gradient: Float[Tensor, "m o"], rulebook: KernelMap
) -> Float[Tensor, "k i o"]:
    """out[k] = sum over pairs (u, v) of features[u] gradient[v]^T: the gradient of the weights."""
    shape = (rulebook.volume, features.shape[1], gradient.shape[1])
    out = features.new_zeros(shape, dtype=_sum_type(features))
    for k, (first, last) in enumerate(zip(rulebook.starts, rulebook.starts[1:], strict=False)):
        if last > first:
            left = features.index_select(0, rulebook.in_rows[first:last])
            right = gradient.index_select(0, rulebook.out_rows[first:last])
            out[k] = left.T.to(out.dtype) @ right.to(out.dtype)
    return out.to(features.dtype)


def column_sums(gradient: Float[Tensor, "m o"]) -> Float[Tensor, " o"]:
    """The gradient of the bias."""
    return gradient.sum(dim=0, dtype=_sum_type(gradient)).to(gradient.dtype)


def _sum_type(features: Tensor) -> torch.dtype:
    return torch.float32 if features.dtype in (torch.bfloat16, torch.float16) else features.dtype
