"""The grid of voxels that a LiDAR detector sees: where it lies, how fine it is, from metres to indices and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Point = tuple[float, float, float]
Steps = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class VoxelGrid:
    """Voxels of `size` (x, y, z) m between `low` and `high` (x, y, z) m in the LiDAR's frame; KITTI's by default.

    ValueError: not finite, empty, sides that are no multiples of the voxel, or too many voxels for 63-bit keys.
    """

    low: Point = (0.0, -40.0, -3.0)
    high: Point = (70.4, 40.0, 1.0)
    size: Point = (0.05, 0.05, 0.1)

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (*self.low, *self.high, *self.size)):
            raise ValueError(f"the grid's limits and voxel size must be finite, got {self}")
        if any(s <= 0 for s in self.size) or any(b <= a for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"high must lie above low, and the voxel size above 0, got {self}")
        for n, low, high, size in zip(self.cells, self.low, self.high, self.size, strict=True):
            if n < 1 or abs(n * size - (high - low)) > 0.01 * size:
                raise ValueError(f"{low} to {high} m is no whole number of voxels of {size} m")
        if math.prod(self.cells) >= 2**40:
            raise ValueError(f"a grid of {self.cells} voxels is too large: take larger voxels or a smaller range")

    @property
    def cells(self) -> Steps:
        """Voxels along x, y, z."""
        x, y, z = (round((b - a) / s) for a, b, s in zip(self.low, self.high, self.size, strict=True))
        return x, y, z

    @property
    def spatial_shape(self) -> Steps:
        """(z, y, x) of the sparse tensor: one layer more in height, so that 40 layers become 41, 21, 11, 5 and 2."""
        x, y, z = self.cells
        return z + 1, y, x

    def centers(self, indices: Int[Tensor, "m 4"], stride: Steps = (1, 1, 1)) -> Float[Tensor, "m 3"]:
        """Centres (x, y, z), m, of voxels (batch, z, y, x) after layers of this total stride (z, y, x)."""
        size = torch.tensor(self.size, device=indices.device) * torch.tensor(stride[::-1], device=indices.device)
        return (indices[:, [3, 2, 1]] + 0.5) * size + torch.tensor(self.low, device=indices.device)
