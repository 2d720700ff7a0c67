"""Sparse convolutions as layers, for grids of 1 to 6 dimensions: submanifold, strided, transposed and inverse.

Weights are [*kernel_size, in, out]; `interop.py` reads other libraries' layouts. Submanifold: Graham et al., "3D
Semantic Segmentation with Submanifold Sparse Convolutional Networks", CVPR 2018, section 3.
"""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor, nn

from vision3d.core.sparse_tensor import Sites, SparseTensor
from vision3d.sparse import rulebooks
from vision3d.sparse.convolution import sparse_convolution
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.window import PerDimension, Window, per_dimension


class SparseModule(nn.Module):
    """A layer that takes a SparseTensor; `SparseSequential` gives all others its features."""


class _Weighted(SparseModule):
    """Weight and bias, drawn uniformly as torch's dense convolutions do."""

    def __init__(self, window: Window, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"channels must be at least 1, got {in_channels} and {out_channels}")
        self.window = window
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.empty(*window.kernel_size, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = 1 / math.sqrt(in_channels * window.volume)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.window.kernel_size)

    def extra_repr(self) -> str:
        window = ", ".join(f"{name}={getattr(self.window, name)}" for name in self.window.__slots__)
        return f"{self.in_channels}, {self.out_channels}, {window}, bias={self.bias is not None}"

    def check(self, x: SparseTensor) -> None:
        """ValueError for other dimensions or channels than the layer's."""
        if x.dimensions != self.dimensions or x.channels != self.in_channels:
            raise ValueError(
                f"the layer takes {self.dimensions} dimensions and {self.in_channels} channels, "
                f"got {x.dimensions} and {x.channels}"
            )

    def _apply_along(self, features: Tensor, rulebook: KernelMap) -> Tensor:
        return sparse_convolution(features, self.weight.flatten(0, -3), rulebook, self.bias)


class ConvolutionLayer(_Weighted, abc.ABC):
    """A convolution whose output sites follow from the input's."""

    @abc.abstractmethod
    def find(self, sites: Sites) -> tuple[Sites, KernelMap]:
        """The output sites and the rulebook to them, kept with the input sites."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """out_channels on the output sites. ValueError for other dimensions or channels, or a small grid."""
        self.check(x)
        sites, rulebook = self.find(x.sites)
        return SparseTensor.at(sites, self._apply_along(x.features, rulebook))


class SubmanifoldConv(ConvolutionLayer):
    """Stride 1; outputs are exactly the input sites, so activity does not spread."""

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        kernel_size: PerDimension,
        dilation: PerDimension = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(Window.submanifold(dimensions, kernel_size, dilation), in_channels, out_channels, bias)

    def find(self, sites: Sites) -> tuple[Sites, KernelMap]:
        """The same sites."""
        return sites, rulebooks.submanifold(sites, self.window)


class SparseConv(ConvolutionLayer):
    """Regular sparse convolution: outputs are all sites that see an active input, in lexicographic order."""

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        kernel_size: PerDimension,
        stride: PerDimension = 1,
        padding: PerDimension = 0,
        dilation: PerDimension = 1,
        bias: bool = True,
    ) -> None:
        window = Window.of(dimensions, kernel_size, stride, padding, dilation)
        super().__init__(window, in_channels, out_channels, bias)

    def find(self, sites: Sites) -> tuple[Sites, KernelMap]:
        """All sites that see one of `sites`."""
        return rulebooks.strided(sites, self.window)


class SparseConvTranspose(ConvolutionLayer):
    """Transposed convolution as torch's ConvTranspose; outputs are all sites touched, in lexicographic order."""

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        kernel_size: PerDimension,
        stride: PerDimension = 1,
        padding: PerDimension = 0,
        output_padding: PerDimension = 0,
        dilation: PerDimension = 1,
        bias: bool = True,
    ) -> None:
        window = Window.of(dimensions, kernel_size, stride, padding, dilation)
        super().__init__(window, in_channels, out_channels, bias)
        self.output_padding = per_dimension("output_padding", output_padding, dimensions, 0)

    def find(self, sites: Sites) -> tuple[Sites, KernelMap]:
        """All sites that one of `sites` touches."""
        return rulebooks.transposed(sites, self.window, self.output_padding)


class InverseConv(_Weighted):
    """Transposed convolution back onto known sites: undoes the change of sites of a SparseConv with the same window."""

    def __init__(
        self,
        dimensions: int,
        in_channels: int,
        out_channels: int,
        kernel_size: PerDimension,
        stride: PerDimension = 1,
        padding: PerDimension = 0,
        dilation: PerDimension = 1,
        bias: bool = True,
    ) -> None:
        window = Window.of(dimensions, kernel_size, stride, padding, dilation)
        super().__init__(window, in_channels, out_channels, bias)

    def forward(self, x: SparseTensor, onto: SparseTensor) -> SparseTensor:
        """out_channels on the sites of `onto`, usually the input of the strided convolution, whose rulebook is reused.

        ValueError if a convolution with this window does not lead from the grid of `onto` to that of x.
        """
        self.check(x)
        rulebook = rulebooks.inverse(x.sites, onto.sites, self.window)
        return onto.with_features(self._apply_along(x.features, rulebook))
