"""Tensors on the same or on different sites put together, and the way to and from dense grids."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core.sparse_tensor import Sites, SparseTensor
from vision3d.sparse.sorted_maps import Ranks


def concatenate(*tensors: SparseTensor) -> SparseTensor:
    """Channels beside each other, on sites that all tensors share in the same order.

    ValueError for other sites; `union` adds up tensors on different ones.
    """
    if not tensors:
        raise ValueError("nothing to concatenate")
    first = tensors[0]
    for other in tensors[1:]:
        if other.sites is not first.sites and not (
            other.sites.extents == first.sites.extents and torch.equal(other.indices, first.indices)
        ):
            raise ValueError(
                "tensors on different sites cannot be concatenated; use union, or layers that keep the sites"
            )
    return first.with_features(torch.cat([tensor.features for tensor in tensors], dim=1))


def union(*tensors: SparseTensor) -> SparseTensor:
    """The sum on all sites of any of the tensors, in lexicographic order; a tensor is zero where it has no site.

    ValueError for different grids, batch sizes or channels.
    """
    if not tensors:
        raise ValueError("nothing to unite")
    first = tensors[0]
    for other in tensors[1:]:
        if other.sites.extents != first.sites.extents or other.channels != first.channels:
            raise ValueError(
                f"tensors of {first.sites.extents} with {first.channels} channels and of "
                f"{other.sites.extents} with {other.channels} cannot be added"
            )
    if all(tensor.sites is first.sites for tensor in tensors):
        return first.with_features(torch.stack([tensor.features for tensor in tensors]).sum(dim=0))
    sites, rows = _unite([tensor.sites for tensor in tensors])
    kind = first.features.dtype
    for tensor in tensors[1:]:
        kind = torch.promote_types(kind, tensor.features.dtype)
    out = first.features.new_zeros(len(sites), first.channels, dtype=kind)
    for tensor, at in zip(tensors, rows, strict=True):
        out = out.index_add(0, at, tensor.features.to(kind))
    return SparseTensor.at(sites, out)


def _unite(parts: list[Sites]) -> tuple[Sites, list[Tensor]]:
    """The union of sites, and where each part's rows are in it."""
    first = parts[0]
    stacked = torch.cat([part.indices.long() for part in parts])
    ranks = Ranks(stacked, first.extents)
    indices = torch.empty(ranks.size, stacked.shape[1], dtype=first.indices.dtype, device=stacked.device)
    indices[ranks.rank] = stacked.to(indices.dtype)
    sites = Sites(indices, first.spatial_shape, first.batch_size)
    return sites, list(torch.split(ranks.rank, [len(part) for part in parts]))


def to_dense(x: SparseTensor) -> Float[Tensor, "b c *shape"]:
    """The whole grid, zero where there is no site; gradients flow back. ValueError where it cannot be held."""
    numbers = x.batch_size * x.channels
    for extent in x.spatial_shape:
        numbers *= extent
    if numbers >= 2**40:
        raise ValueError(f"a dense grid of {x.spatial_shape} with {x.channels} channels has {numbers} numbers")
    grid = x.features.new_zeros(x.batch_size, *x.spatial_shape, x.channels)
    return grid.index_put(tuple(x.indices.long().T), x.features).movedim(-1, 1).contiguous()


def from_dense(grid: Float[Tensor, "b c *shape"], active: Bool[Tensor, b * shape] | None = None) -> SparseTensor:
    """Sites in lexicographic order: those of the mask, or all with a channel that is not zero; gradients flow back."""
    if grid.ndim < 3:
        raise ValueError(f"a dense grid is [batch channels *shape], got {list(grid.shape)}")
    if active is None:
        active = (grid != 0).any(dim=1)
    elif active.shape != (grid.shape[0], *grid.shape[2:]):
        raise ValueError(f"the mask must be {[grid.shape[0], *grid.shape[2:]]}, got {list(active.shape)}")
    indices = active.nonzero()
    features = grid.movedim(1, -1)[tuple(indices.T)]
    shape = tuple(grid.shape[2:])
    return SparseTensor(features, indices.int(), shape, grid.shape[0])
