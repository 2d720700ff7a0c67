"""FCGF: one feature per occupied voxel from a sparse residual U-Net.

C. Choy, J. Park, V. Koltun, "Fully Convolutional Geometric Features", ICCV 2019, section 4 and figure 2 (ResUNetBN2C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.matching.hough.fpfh import DIM
from vision3d.matching.hough.residual import ResidualBlock, convolve, widen
from vision3d.sparse import CellConv, InverseConv, SparseBatchNorm, SubmanifoldConv, concatenate


@dataclass(frozen=True, slots=True, kw_only=True)
class FcgfConfig:
    """Widths of the network.

    inputs: what the network sees of a voxel. "occupancy": that it is there, as in the paper. "fpfh": the square
    roots of its FPFH, and the output is a linear map of these plus what the U-Net makes of them.
    first_kernel: of the first convolution (7 for 3DMatch, 5 for KITTI in the published models).
    channels: of the encoder at strides 1, 2, 4, 8. up_channels: of the last layer, and of the decoder at
    strides 1, 2, 4.
    out_channels: length of a feature. momentum: of the batch norms (weight of the newest batch).
    """

    inputs: Literal["occupancy", "fpfh"] = "occupancy"
    first_kernel: int = 7
    channels: tuple[int, int, int, int] = (32, 64, 128, 256)
    up_channels: tuple[int, int, int, int] = (64, 64, 64, 128)
    out_channels: int = 32
    momentum: float = 0.05


THREEDMATCH = FcgfConfig()
KITTI = FcgfConfig(first_kernel=5)
COMPACT = FcgfConfig(inputs="fpfh", first_kernel=3, channels=(24, 32, 48, 56), up_channels=(32, 32, 32, 48))


class Fcgf(nn.Module):
    """Voxels with what `voxels.voxel_inputs` says of them in, unit features on the same voxels out.

    Strided convolutions lead to the cells that hold a voxel, transposed ones back to the encoder's sites, whose
    features are put beside them.
    """

    def __init__(self, config: FcgfConfig) -> None:
        super().__init__()
        self.config = config
        c, up, momentum = config.channels, config.up_channels, config.momentum
        self.shortcut = Shortcut(config.out_channels) if config.inputs == "fpfh" else None
        self.conv1 = SubmanifoldConv(3, 1 if self.shortcut is None else DIM, c[0], config.first_kernel, bias=False)
        self.norm1 = SparseBatchNorm(c[0], momentum=momentum)
        self.block1 = ResidualBlock(3, c[0], momentum)
        self.conv2 = CellConv(3, c[0], c[1], 3, 2, bias=False)
        self.norm2 = SparseBatchNorm(c[1], momentum=momentum)
        self.block2 = ResidualBlock(3, c[1], momentum)
        self.conv3 = CellConv(3, c[1], c[2], 3, 2, bias=False)
        self.norm3 = SparseBatchNorm(c[2], momentum=momentum)
        self.block3 = ResidualBlock(3, c[2], momentum)
        self.conv4 = CellConv(3, c[2], c[3], 3, 2, bias=False)
        self.norm4 = SparseBatchNorm(c[3], momentum=momentum)
        self.block4 = ResidualBlock(3, c[3], momentum)
        self.conv4_tr = InverseConv(3, c[3], up[3], 3, 2, 1, bias=False)
        self.norm4_tr = SparseBatchNorm(up[3], momentum=momentum)
        self.block4_tr = ResidualBlock(3, up[3], momentum)
        self.conv3_tr = InverseConv(3, c[2] + up[3], up[2], 3, 2, 1, bias=False)
        self.norm3_tr = SparseBatchNorm(up[2], momentum=momentum)
        self.block3_tr = ResidualBlock(3, up[2], momentum)
        self.conv2_tr = InverseConv(3, c[1] + up[2], up[1], 3, 2, 1, bias=False)
        self.norm2_tr = SparseBatchNorm(up[1], momentum=momentum)
        self.block2_tr = ResidualBlock(3, up[1], momentum)
        self.conv1_tr = SubmanifoldConv(3, c[0] + up[1], up[0], 1, bias=False)
        self.final = SubmanifoldConv(3, up[0], config.out_channels, 1, bias=True)
        if self.shortcut is not None:
            nn.init.zeros_(self.final.weight)
            assert self.final.bias is not None
            nn.init.zeros_(self.final.bias)

    def forward(self, x: SparseTensor) -> Float[Tensor, "m c"]:
        """Features of the voxels of x, in their order, each of length 1 (or 0 for an exact zero)."""
        s1 = self.block1(convolve(x, self.conv1, self.norm1, relu=False))
        s2 = self.block2(convolve(s1, self.conv2, self.norm2, relu=False))
        s4 = self.block3(convolve(s2, self.conv3, self.norm3, relu=False))
        s8 = self.block4(convolve(s4, self.conv4, self.norm4, relu=False))
        # The paper's ReLUs before each convolution change nothing: a block ends with one.
        up = self.block4_tr(widen(s8, self.conv4_tr, self.norm4_tr, s4, relu=False))
        up = self.block3_tr(widen(concatenate(up, s4), self.conv3_tr, self.norm3_tr, s2, relu=False))
        up = self.block2_tr(widen(concatenate(up, s2), self.conv2_tr, self.norm2_tr, s1, relu=False))
        up = self.conv1_tr(concatenate(up, s1))
        out = self.final(up.with_features(up.features.relu())).features
        if self.shortcut is not None:
            out = out + self.shortcut(x.features)
        return nn.functional.normalize(out, dim=1)


class Shortcut(nn.Module):
    """FPFH of zero mean and unit variance under a linear map, which keeps distances at first."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM, affine=False)
        self.map = nn.Linear(DIM, out_channels, bias=False)
        nn.init.orthogonal_(self.map.weight)

    def forward(self, inputs: Float[Tensor, "m i"]) -> Float[Tensor, "m c"]:
        """One feature a voxel."""
        out: Tensor = self.map(self.norm(inputs))
        return out
