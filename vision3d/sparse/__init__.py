"""Sparse convolution on grids of 1 to 6 dimensions."""

from vision3d.sparse.cells import CellConv
from vision3d.sparse.convolution import sparse_convolution
from vision3d.sparse.interop import (
    from_spconv,
    to_spconv,
    weight_from_minkowski,
    weight_from_spconv1,
    weight_from_spconv2,
    weight_to_minkowski,
    weight_to_spconv2,
)
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.layers import (
    InverseConv,
    SparseConv,
    SparseConvTranspose,
    SparseModule,
    SubmanifoldConv,
)
from vision3d.sparse.norm import SparseBatchNorm, SparseReLU
from vision3d.sparse.pooling import SparseAvgPool, SparseMaxPool, global_pool
from vision3d.sparse.sequential import SparseSequential
from vision3d.sparse.sets import concatenate, from_dense, to_dense, union
from vision3d.sparse.window import Window

__all__ = [
    "CellConv",
    "InverseConv",
    "KernelMap",
    "SparseAvgPool",
    "SparseBatchNorm",
    "SparseConv",
    "SparseConvTranspose",
    "SparseMaxPool",
    "SparseModule",
    "SparseReLU",
    "SparseSequential",
    "SubmanifoldConv",
    "Window",
    "concatenate",
    "from_dense",
    "from_spconv",
    "global_pool",
    "sparse_convolution",
    "to_dense",
    "to_spconv",
    "union",
    "weight_from_minkowski",
    "weight_from_spconv1",
    "weight_from_spconv2",
    "weight_to_minkowski",
    "weight_to_spconv2",
]
