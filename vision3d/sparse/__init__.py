"""Sparse convolution on grids of 1 to 6 dimensions."""

from vision3d.sparse.convolution import sparse_convolution
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.layers import (
    InverseConv,
    SparseConv,
    SparseConvTranspose,
    SparseModule,
    SparseSequential,
    SubmanifoldConv,
)
from vision3d.sparse.window import Window

__all__ = [
    "InverseConv",
    "KernelMap",
    "SparseConv",
    "SparseConvTranspose",
    "SparseModule",
    "SparseSequential",
    "SubmanifoldConv",
    "Window",
    "sparse_convolution",
]
