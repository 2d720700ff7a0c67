"""Strided convolution onto the cells that hold an input: activity moves to the coarser grid and does not spread.

C. Choy et al., "4D Spatio-Temporal ConvNets", CVPR 2019, section 3.2: output coordinates are floor(u / stride).
"""

from __future__ import annotations

import torch

from vision3d.core.sparse_tensor import Sites
from vision3d.sparse import rulebooks
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.layers import ConvolutionLayer
from vision3d.sparse.sorted_maps import Ranks
from vision3d.sparse.window import PerDimension, Window


class CellConv(ConvolutionLayer):
    """Kernel centred on the first site of each cell of stride^D sites; outputs are the cells with an input.

    `SparseConv` also gives the cells around them. An odd kernel of size k sees sites u * stride - k // 2 to + k // 2.
    `InverseConv` with the same window (padding kernel_size // 2) leads back. ValueError for even kernel sizes.
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
        window = centred_window(dimensions, kernel_size, stride)
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


def centred_window(dimensions: int, kernel_size: PerDimension, stride: PerDimension) -> Window:
    """The window whose middle element lies on the output's site times the stride."""
    window = Window.of(dimensions, kernel_size, stride)
    if any(k % 2 == 0 for k in window.kernel_size):
        raise ValueError(f"only odd kernels have a middle, got {window.kernel_size}")
    return Window(window.kernel_size, window.stride, tuple(k // 2 for k in window.kernel_size), window.dilation)


def _cells(sites: Sites, window: Window) -> Sites:
    stride = torch.tensor((1, *window.stride), device=sites.indices.device)
    indices = torch.div(sites.indices.long(), stride, rounding_mode="floor")
    shape = tuple((n - 1) // s + 1 for n, s in zip(sites.spatial_shape, window.stride, strict=True))
    ranks = Ranks(indices, (sites.batch_size, *shape))
    coarse = torch.empty(ranks.size, indices.shape[1], dtype=sites.indices.dtype, device=indices.device)
    coarse[ranks.rank] = indices.to(coarse.dtype)
    return Sites(coarse, shape, sites.batch_size)
