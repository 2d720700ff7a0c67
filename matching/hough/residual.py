"""Convolution, batch norm and ReLU on sparse tensors, and the residual block made of them (He et al., CVPR 2016)."""

from __future__ import annotations

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.sparse import InverseConv, SparseBatchNorm, SparseModule, SubmanifoldConv
from vision3d.sparse.layers import ConvolutionLayer
from vision3d.sparse.sequential import apply_folded, foldable


def convolve(x: SparseTensor, conv: ConvolutionLayer, norm: SparseBatchNorm, *, relu: bool) -> SparseTensor:
    """relu(norm(conv(x))), or without the ReLU; one product where no gradient is asked for."""
    if foldable([conv, norm]):
        return apply_folded(x, conv, norm, relu)
    out: SparseTensor = norm(conv(x))
    return out.with_features(out.features.relu()) if relu else out


def widen(x: SparseTensor, conv: InverseConv, norm: SparseBatchNorm, onto: SparseTensor, *, relu: bool) -> SparseTensor:
    """The transposed convolution onto known sites, with batch norm, and ReLU."""
    out: SparseTensor = norm(conv(x, onto=onto))
    return out.with_features(out.features.relu()) if relu else out


class ResidualBlock(SparseModule):
    """relu(norm2(conv2(relu(norm1(conv1(x))))) + x), kernels of 3 along each of the dimensions."""

    def __init__(self, dimensions: int, channels: int, momentum: float) -> None:
        super().__init__()
        self.conv1 = SubmanifoldConv(dimensions, channels, channels, 3, bias=False)
        self.norm1 = SparseBatchNorm(channels, momentum=momentum)
        self.conv2 = SubmanifoldConv(dimensions, channels, channels, 3, bias=False)
        self.norm2 = SparseBatchNorm(channels, momentum=momentum)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The same sites and channels."""
        out = convolve(x, self.conv1, self.norm1, relu=True)
        out = convolve(out, self.conv2, self.norm2, relu=False)
        return x.with_features((out.features + x.features).relu())
