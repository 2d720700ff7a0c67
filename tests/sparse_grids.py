"""Small sparse grids for tests, and convolution as plain loops over a dictionary of sites."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from vision3d.core import SparseTensor
from vision3d.sparse import Window

Sites = dict[tuple[int, ...], Tensor]


def random_tensor(
    shape: tuple[int, ...],
    count: int,
    channels: int,
    batch_size: int = 2,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> SparseTensor:
    """`count` random sites in random order."""
    generator = torch.Generator().manual_seed(seed)
    extents = (batch_size, *shape)
    chosen = torch.randperm(math.prod(extents), generator=generator)[:count]
    indices = torch.stack(torch.unravel_index(chosen, extents), 1).int()
    features = torch.randn(count, channels, generator=generator, dtype=torch.float64).to(dtype)
    return SparseTensor(features, indices, shape, batch_size)


def dense(x: SparseTensor) -> Tensor:
    """[batch channels *shape], zero where there is no site; gradients flow."""
    grid = x.features.new_zeros(x.batch_size, *x.spatial_shape, x.channels)
    return grid.index_put(tuple(x.indices.long().T), x.features).movedim(-1, 1)


def rows(x: SparseTensor) -> Sites:
    """Features by site."""
    return {tuple(site): row for site, row in zip(x.indices.tolist(), x.features, strict=True)}


def convolve_by_loops(x: SparseTensor, weight: Tensor, window: Window, shape: tuple[int, ...]) -> Sites:
    """What every output site of a grid `shape` that sees an input gets; weight is [*kernel in out]."""
    out: Sites = {}
    for site, row in rows(x).items():
        for element in itertools.product(*(range(k) for k in window.kernel_size)):
            target = [site[0]]
            for d, k in enumerate(element):
                at = site[d + 1] + window.padding[d] - k * window.dilation[d]
                if at % window.stride[d] or not 0 <= at // window.stride[d] < shape[d]:
                    break
                target.append(at // window.stride[d])
            else:
                out[tuple(target)] = out.get(tuple(target), torch.zeros(())) + row @ weight[element]
    return out


def transpose_by_loops(x: SparseTensor, weight: Tensor, window: Window, shape: tuple[int, ...]) -> Sites:
    """The transposed convolution, likewise."""
    out: Sites = {}
    for site, row in rows(x).items():
        for element in itertools.product(*(range(k) for k in window.kernel_size)):
            at = [
                i * s - p + k * d
                for i, k, s, p, d in zip(site[1:], element, window.stride, window.padding, window.dilation, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, shape, strict=True)):
                target = (site[0], *at)
                out[target] = out.get(target, torch.zeros(())) + row @ weight[element]
    return out
