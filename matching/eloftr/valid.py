"""Which part of a padded map is photo: what lies beyond is kept at zero, so that padding never changes a match."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Extents:
    """Sizes of the photos in a batch of padded pictures.

    sizes: (height, width) px of each photo, at the top left of its canvas. canvas: (height, width) px of all.
    """

    sizes: Int[Tensor, "b 2"]
    canvas: tuple[int, int]

    def at(self, step: int) -> Int[Tensor, "b 2"]:
        """Rows and columns of a map of one value per `step` px that hold photo, the last perhaps in part."""
        return torch.div(self.sizes + step - 1, step, rounding_mode="floor")

    def padded(self, step: int) -> bool:
        """Whether some photo leaves a part of its map at `step` px unused."""
        rows, columns = self.canvas[0] // step, self.canvas[1] // step
        return bool((self.at(step) < self.sizes.new_tensor([rows, columns])).any())

    def mask(self, step: int) -> Bool[Tensor, "b h w"]:
        """True where the map at `step` px holds photo."""
        return _mask(self.at(step), self.canvas[0] // step, self.canvas[1] // step)

    def clear(self, maps: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h w"]:
        """The maps with zeros beyond the photos, where convolutions would look."""
        return maps * self.mask(step)[:, None].to(maps.dtype) if self.padded(step) else maps

    def extend(self, maps: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h w"]:
        """The maps with each photo's last row and column repeated beyond it, where interpolation would look."""
        if not self.padded(step):
            return maps
        extent = self.at(step)
        rows = torch.arange(maps.shape[2], device=maps.device).minimum(extent[:, :1] - 1)
        columns = torch.arange(maps.shape[3], device=maps.device).minimum(extent[:, 1:] - 1)
        item = torch.arange(len(maps), device=maps.device)[:, None, None]
        return maps[item, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _mask(extent: Int[Tensor, "b 2"], height: int, width: int) -> Bool[Tensor, "b h w"]:
    rows = torch.arange(height, device=extent.device) < extent[:, :1]
    columns = torch.arange(width, device=extent.device) < extent[:, 1:]
    return rows[:, :, None] & columns[:, None, :]
