"""Fine features at 1/2 of the photo: coarse features and two levels of the backbone fused top-down (section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vision3d.matching.eloftr.backbone import fold_norm
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.doubling import double_and_add
from vision3d.matching.eloftr.fast_conv import FastConv
from vision3d.matching.eloftr.valid import Extents
from vision3d.matching.winograd import TILE, all_tiles, with_neighbours
from vision3d.sparse.microkernels import lanes

SLOPE = 0.01


class Merge(nn.Module):
    """Two 3x3 convolutions with batch norm and leaky ReLU between them; after `fuse` without the batch norm.

    Its parts are numbered as the published weights number them.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.add_module("0", nn.Conv2d(inputs, inputs, 3, padding=1, bias=False))
        self.add_module("1", nn.BatchNorm2d(inputs))
        self.add_module("3", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        self.first: FastConv | None = None
        self.second: FastConv | None = None
        self.register_load_state_dict_post_hook(_fuse_again)  # type: ignore[no-untyped-call, unused-ignore]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        extents: Extents,
        step: int,
        tiles: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
    ) -> Float[Tensor, "b d h w"]:
        """The merged map; the second convolution sees zeros beyond the photos. tiles: that each must make, if fused."""
        if self.first is not None and self.second is not None:
            y: Tensor = self.second(extents.clear(self.first(x, tiles[0]), step), tiles[1])
            return y
        y = F.leaky_relu(self.get_submodule("1")(self.get_submodule("0")(x)), SLOPE)
        merged: Tensor = self.get_submodule("3")(extents.clear(y, step))
        return merged

    @torch.no_grad()
    def fuse(self) -> None:
        """Prepares fast convolutions beside the weights, which stay the network's state; again after they change."""
        short = self.first is not None and self.first.short
        norm = self.get_submodule("1")
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = fold_norm(self.get_parameter("0.weight"), norm)
        self.first = FastConv(weight, bias, 1, SLOPE, saved=False)
        self.second = FastConv(self.get_parameter("3.weight"), None, 1, 1.0, saved=False)
        self.first.short = self.second.short = short


def _fuse_again(merge: nn.Module, _: object) -> None:
    """After weights were loaded."""
    assert isinstance(merge, Merge)
    if merge.first is not None:
        merge.fuse()


def _pointwise(layer: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
    """A 1x1 convolution without bias as one product, channels last in memory."""
    return F.linear(x.permute(0, 2, 3, 1), layer.weight[:, :, 0, 0]).permute(0, 3, 1, 2)


def _add_doubled(
    coarse: Float[Tensor, "b d h w"], layer: nn.Conv2d, fine: Float[Tensor, "b c h2 w2"], tiles: Tensor | None
) -> Float[Tensor, "b d h2 w2"]:
    """The coarse map, doubled, plus the layer's response to the fine one.

    tiles [n 3]: that a convolution of 3 x 3 px must make of the sum; None: all.
    """
    plain = fine.dtype == torch.float32 and fine.device.type == "cpu" and not torch.is_grad_enabled()
    if not plain or layer.out_channels % lanes(4):
        doubled = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return doubled + _pointwise(layer, fine)
    grid = (len(fine), fine.shape[2] // TILE, fine.shape[3] // TILE)
    read = all_tiles(len(fine), *fine.shape[2:]) if tiles is None else with_neighbours(tiles, grid)
    maps = [m.permute(0, 2, 3, 1).contiguous() for m in (coarse, fine)]
    return double_and_add(maps[0], maps[1], layer.weight[:, :, 0, 0], read).permute(0, 3, 1, 2)


def _near(mask: Bool[Tensor, "b h w"], scale: int, reach: int) -> Int[Tensor, "n 3"]:
    """Tiles of a map `scale` times as fine as the cells' that hold pixels within `reach` px of a wanted cell."""
    height, width = mask.shape[1] * scale, mask.shape[2] * scale
    item, row, column = mask.nonzero().T
    tops, lefts = ((scale * at - reach).clamp(min=0) // TILE for at in (row, column))
    bottoms = (scale * row + scale - 1 + reach).clamp(max=height - 1) // TILE
    rights = (scale * column + scale - 1 + reach).clamp(max=width - 1) // TILE
    grid = mask.new_zeros(len(mask), height // TILE, width // TILE)
    most = (scale + 2 * reach - 2) // TILE + 2  # tiles that so many pixels lie in, at most
    for i in range(most):
        for j in range(most):
            grid[item, (tops + i).clamp(max=bottoms), (lefts + j).clamp(max=rights)] = True
    return grid.nonzero()


class FineFeatures(nn.Module):
    """From the transformed cells (1/8) and the backbone's maps at 1/4 and 1/2 to fine features at 1/2.

    The published network doubles these once more; windows are interpolated from 1/2 where they are needed instead
    (`fine.py`), which gives the same numbers.
    """

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        _, half, quarter, coarse = config.widths
        self.layer3_outconv = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.layer2_outconv = nn.Conv2d(quarter, coarse, 1, bias=False)
        self.layer2_outconv2 = Merge(coarse, quarter)
        self.layer1_outconv = nn.Conv2d(half, quarter, 1, bias=False)
        self.layer1_outconv2 = Merge(quarter, half)

    def forward(
        self,
        cells: Float[Tensor, "b c h w"],
        quarter: Float[Tensor, "b d h2 w2"],
        half: Float[Tensor, "b e h4 w4"],
        extents: Extents,
        wanted: Bool[Tensor, "b h w"] | None = None,
    ) -> Float[Tensor, "b e h4 w4"]:
        """cells: of the transformer, as they are (they are divided by the root of their width here).

        wanted: cells around whose windows the features must be right; a fused network leaves the others out.
        """
        coarse_tiles: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)
        fine_tiles = coarse_tiles
        if wanted is not None:
            # A window needs 1 px at 1/2 around its cell, hence 1 + 2 px of input there and, of the map at 1/4, 2 px
            # around its cell and 1 more for the first of the two convolutions.
            coarse_tiles = (_near(wanted, 2, 3), _near(wanted, 2, 2))
            fine_tiles = (_near(wanted, 4, 2), _near(wanted, 4, 1))
        x = _pointwise(self.layer3_outconv, cells / cells.shape[1] ** 0.5)
        x = _add_doubled(extents.extend(x, 8), self.layer2_outconv, quarter, coarse_tiles[0])
        x = self.layer2_outconv2(extents.clear(x, 4), extents, 4, coarse_tiles)
        x = _add_doubled(extents.extend(x, 4), self.layer1_outconv, half, fine_tiles[0])
        y: Tensor = self.layer1_outconv2(extents.clear(x, 2), extents, 2, fine_tiles)
        return y
