"""Strided convolution onto the cells that hold an input: activity moves to the coarser grid and does not spread.

C. Choy et al., "4D Spatio-Temporal ConvNets", CVPR 2019, section 3.2: output coordinates are floor(u / stride).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vision3d.core.sparse_tensor import Sites
from vision3d.sparse import rulebooks
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.layers import ConvolutionLayer
from vision3d.sparse.sorted_maps import Ranks
from vision3d.sparse.window import PerDimension, Window


class CellConv(ConvolutionLayer):
    """Cells of stride^D sites; outputs are those that hold an input. `SparseConv` also gives the cells around them.

    An odd kernel of size k is centred on a cell's first site, u * stride, and sees k // 2 sites on either side; an even
    one begins there, as MinkowskiEngine's does: with size = stride it sees just the cell. `InverseConv` with the same
    window (padding k // 2 for odd sizes, 0 for even ones) leads back.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        kernel_size: PerDimension,
        stride: PerDimension,
        bias: bool = True,
    ) -> None:
        window = cell_window(dimensions, kernel_size, stride)
        super().__init__(window, in_channels, out_channels, bias)

    def find(self, sites: Sites) -> tuple[Sites, KernelMap]:
        """The cells that hold one of `sites`, in lexicographic order."""
        key = ("cells", self.window)
        if key not in sites.cache:
            coarse = _cells(sites, self.window)
            sites.cache[key] = (coarse, rulebooks.between(sites, coarse, self.window))
        coarse, rulebook = sites.cache[key]
        assert isinstance(coarse, Sites) and isinstance(rulebook, KernelMap)
        return coarse, rulebook


def cell_window(dimensions: int, kernel_size: PerDimension, stride: PerDimension) -> Window:
    """The window whose middle element, or whose first one where the size is even, lies on the cell's first site."""
    window = Window.of(dimensions, kernel_size, stride)
    return replace(window, padding=tuple(k // 2 if k % 2 else 0 for k in window.kernel_size))


def _cells(sites: Sites, window: Window) -> Sites:
    stride = torch.tensor((1, *window.stride), device=sites.indices.device)
    indices = torch.div(sites.indices.long(), stride, rounding_mode="floor")
    shape = window.cells(sites.spatial_shape)
    ranks = Ranks(indices, (sites.batch_size, *shape))
    coarse = torch.empty(ranks.size, indices.shape[1], dtype=sites.indices.dtype, device=indices.device)
    coarse[ranks.rank] = indices.to(coarse.dtype)
    return Sites(coarse, shape, sites.batch_size)
