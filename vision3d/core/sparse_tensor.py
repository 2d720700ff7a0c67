"""Features on the active sites of an otherwise empty grid of any dimension, and the rulebooks known for these sites."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_DIMENSIONS = 6
MAX_EXTENT = 2**31 - 1
INDEX_TYPES = (torch.int32, torch.int64)
FEATURE_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, eq=False)
class Sites:
    """The active sites of a batch of grids: indices [m 1+D], batch first, each row once and inside the grid.

    cache holds what layers have computed about these sites (hash table, rulebooks, output sites): layers that meet the
    same `Sites` object share it. It is filled by `vision3d.sparse` only. Not checked; `SparseTensor` checks.
    """

    indices: Int[Tensor, "m n"]
    spatial_shape: tuple[int, ...]
    batch_size: int
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return int(self.indices.shape[0])

    @property
    def extents(self) -> tuple[int, ...]:
        """Number of values of each column of `indices`."""
        return (self.batch_size, *self.spatial_shape)


@dataclass(frozen=True, slots=True, eq=False)
class SparseTensor:
    """m active sites of batch_size grids of D dimensions (1 to 6), with c features each; all other sites are zero.

    indices: batch, then the grid index in the order of spatial_shape (z, y, x for LiDAR); int32 or int64. The order of
    rows is free and kept. sites carries the rulebooks and is made when it is not given.

    ValueError for shapes or types that do not fit together, indices that are negative, beyond the grid or duplicate.
    """

    features: Float[Tensor, "m c"]
    indices: Int[Tensor, "m n"]
    spatial_shape: tuple[int, ...]
    batch_size: int
    sites: Sites = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "spatial_shape", tuple(int(extent) for extent in self.spatial_shape))
        if self.features.ndim != 2:
            raise ValueError(f"features must be [m c], got {list(self.features.shape)}")
        if self.features.dtype not in FEATURE_TYPES:
            raise ValueError(f"features must be floating point, got {self.features.dtype}")
        if self.features.device != self.indices.device:
            raise ValueError(f"features are on {self.features.device}, indices on {self.indices.device}")
        if self.sites is None:
            check_indices(self.indices, self.spatial_shape, self.batch_size)
            object.__setattr__(self, "sites", Sites(self.indices, self.spatial_shape, self.batch_size))
        elif (
            self.sites.indices is not self.indices
            or self.sites.spatial_shape != self.spatial_shape
            or self.sites.batch_size != self.batch_size
        ):
            raise ValueError("sites belong to other indices, another spatial_shape or another batch_size")
        if len(self.features) != len(self.indices):
            raise ValueError(f"{len(self.features)} rows of features for {len(self.indices)} rows of indices")

    @classmethod
    def at(cls, sites: Sites, features: Float[Tensor, "m c"]) -> SparseTensor:
        """Features on sites that are known to be right."""
        return cls(features, sites.indices, sites.spatial_shape, sites.batch_size, sites)

    def __len__(self) -> int:
        return int(self.features.shape[0])

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.spatial_shape)

    @property
    def channels(self) -> int:
        """c."""
        return int(self.features.shape[1])

    def with_features(self, features: Float[Tensor, "m k"]) -> SparseTensor:
        """Other features on the same sites, which keep their rulebooks."""
        return SparseTensor.at(self.sites, features)

    def to(self, device: torch.device | str) -> SparseTensor:
        """On another device; rulebooks are made anew there."""
        if self.features.device == torch.device(device):
            return self
        sites = Sites(self.indices.to(device), self.spatial_shape, self.batch_size)
        return SparseTensor.at(sites, self.features.to(device))


def check_indices(indices: Tensor, spatial_shape: tuple[int, ...], batch_size: int) -> None:
    """ValueError unless indices [m 1+D] name sites of the grids, each at most once."""
    if not 1 <= len(spatial_shape) <= MAX_DIMENSIONS:
        raise ValueError(f"spatial_shape must have 1 to {MAX_DIMENSIONS} dimensions, got {spatial_shape}")
    if any(not 1 <= extent <= MAX_EXTENT for extent in (*spatial_shape, batch_size)):
        raise ValueError(f"extents must lie in 1..2^31-1, got spatial_shape {spatial_shape}, batch_size {batch_size}")
    if indices.ndim != 2 or indices.shape[1] != 1 + len(spatial_shape):
        raise ValueError(
            f"indices must be [m {1 + len(spatial_shape)}] (batch first) for spatial_shape {spatial_shape}, "
            f"got {list(indices.shape)}"
        )
    if indices.dtype not in INDEX_TYPES:
        raise ValueError(f"indices must be int32 or int64, got {indices.dtype}")
    if len(indices) == 0:
        return
    low, high = indices.amin(dim=0).tolist(), indices.amax(dim=0).tolist()
    for column, extent in enumerate((batch_size, *spatial_shape)):
        if low[column] < 0 or high[column] >= extent:
            name = "batch index" if column == 0 else f"index of dimension {column - 1}"
            raise ValueError(f"the {name} runs from {low[column]} to {high[column]}, allowed is 0 to {extent - 1}")
    distinct = _count_distinct(indices, (batch_size, *spatial_shape))
    if distinct < len(indices):
        raise ValueError(
            f"indices name {len(indices) - distinct} sites more than once; merge them first, "
            "by the sum, mean or maximum of their features"
        )


def _count_distinct(indices: Tensor, extents: tuple[int, ...]) -> int:
    if math.prod(extents) >= 2**63:
        return len(torch.unique(indices, dim=0))
    keys = indices[:, 0].long()
    for column, extent in enumerate(extents[1:], 1):
        keys = keys * extent + indices[:, column]
    if bool((keys[1:] > keys[:-1]).all()):  # in order already, as our own layers leave them
        return len(keys)
    keys = keys.sort().values
    return 1 + int((keys[1:] > keys[:-1]).sum())
