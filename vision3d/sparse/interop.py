"""To and from spconv: its tensors, and weights in the layouts of spconv 1, spconv 2 and MinkowskiEngine."""

from __future__ import annotations

import importlib
import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.errors import Vision3DError


@runtime_checkable
class SpconvTensor(Protocol):
    """What is used of spconv.pytorch.SparseConvTensor."""

    features: Tensor
    indices: Tensor
    spatial_shape: Any
    batch_size: int


def from_spconv(tensor: SpconvTensor) -> SparseTensor:
    """The same features on the same sites, checked; spconv's indices are batch first too. Its rulebooks stay."""
    shape = tuple(int(extent) for extent in tensor.spatial_shape)
    return SparseTensor(tensor.features, tensor.indices, shape, int(tensor.batch_size))


def to_spconv(x: SparseTensor) -> Any:
    """A spconv.pytorch.SparseConvTensor. Vision3DError if spconv cannot be imported; it takes 1 to 4 dimensions."""
    if x.dimensions > 4:
        raise ValueError(f"spconv takes at most 4 dimensions, got {x.dimensions}")
    try:
        spconv = importlib.import_module("spconv.pytorch")
    except ImportError as error:
        raise Vision3DError(
            f"spconv cannot be imported ({error}); install a build for your CUDA, for example pip install spconv-cu120"
        ) from error
    return spconv.SparseConvTensor(x.features, x.indices.int(), list(x.spatial_shape), x.batch_size)


def weight_from_spconv2(weight: Float[Tensor, "o *k i"]) -> Float[Tensor, "*k i o"]:
    """spconv 2 keeps [out, *kernel, in] (its weight layout KRSC); kernel elements mean the same as ours."""
    _require_kernel(weight)
    return weight.movedim(0, -1).contiguous()


def weight_to_spconv2(weight: Float[Tensor, "*k i o"]) -> Float[Tensor, "o *k i"]:
    """The inverse of `weight_from_spconv2`."""
    _require_kernel(weight)
    return weight.movedim(-1, 0).contiguous()


def weight_from_spconv1(weight: Float[Tensor, "*k i o"]) -> Float[Tensor, "*k i o"]:
    """spconv 1 keeps [*kernel, in, out], which is our layout."""
    _require_kernel(weight)
    return weight.contiguous()


def weight_from_minkowski(weight: Tensor, kernel_size: tuple[int, ...]) -> Float[Tensor, "*k i o"]:
    """MinkowskiEngine keeps [K, in, out], or [in, out] for K = 1; the first spatial dimension runs fastest.

    That order is the one in which kernel_region_iterator of its src/kernel_region.hpp (0.5.4) counts: axis 0 steps
    first. There too: odd kernels are centred, even ones begin at the output itself (k = 0..K-1). So use padding
    (k - 1) // 2 * dilation for odd and 0 for even sizes in a strided layer, and our columns of indices in the order
    of its coordinates. kernel_size: in that order. ValueError for another number of kernel elements.
    """
    volume = math.prod(kernel_size)
    if weight.ndim == 2:
        weight = weight[None]
    if weight.ndim != 3 or weight.shape[0] != volume:
        raise ValueError(f"a weight for kernel size {kernel_size} is [{volume} in out], got {list(weight.shape)}")
    dimensions = len(kernel_size)
    grid = weight.reshape(*reversed(kernel_size), *weight.shape[1:])
    return grid.permute(*reversed(range(dimensions)), dimensions, dimensions + 1).contiguous()


def weight_to_minkowski(weight: Float[Tensor, "*k i o"]) -> Tensor:
    """The inverse of `weight_from_minkowski`: [K, in, out], or [in, out] for K = 1."""
    _require_kernel(weight)
    dimensions = weight.ndim - 2
    flat = weight.permute(*reversed(range(dimensions)), dimensions, dimensions + 1).flatten(0, dimensions - 1)
    return (flat[0] if len(flat) == 1 else flat).contiguous()


def _require_kernel(weight: Tensor) -> None:
    if not 3 <= weight.ndim <= 8:
        raise ValueError(f"a weight has 1 to 6 kernel dimensions besides in and out, got {list(weight.shape)}")
    if not torch.is_floating_point(weight):
        raise ValueError(f"a weight is floating point, got {weight.dtype}")
