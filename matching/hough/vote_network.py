"""The network that cleans a Hough space of rigid motions: one logit for each bin with votes.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, section 3.3: a U-Net of 6-D sparse
convolutions with two strided layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.matching.hough.residual import convolve, widen
from vision3d.sparse import CellConv, InverseConv, SparseBatchNorm, SubmanifoldConv, concatenate


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteNetworkConfig:
    """Widths of the network.

    channels: of the encoder at strides 1, 2, 4. up_channels: of the last layer, and of the decoder at strides 1, 2.
    momentum: of the batch norms (weight of the newest batch).
    """

    channels: tuple[int, int, int] = (32, 64, 128)
    up_channels: tuple[int, int, int] = (32, 32, 64)
    momentum: float = 0.05


PAPER = VoteNetworkConfig()
COMPACT = VoteNetworkConfig(channels=(8, 8, 8), up_channels=(8, 8, 8))


class VoteNetwork(nn.Module):
    """Bins (rotation vector, translation) with one channel of votes in, a logit per bin out; kernels 3 along all axes.

    Encoder features are put beside the decoder's before their ReLU.
    """

    def __init__(self, config: VoteNetworkConfig) -> None:
        super().__init__()
        self.config = config
        c, up, momentum = config.channels, config.up_channels, config.momentum
        self.conv1 = SubmanifoldConv(6, 1, c[0], 3, bias=False)
        self.norm1 = SparseBatchNorm(c[0], momentum=momentum)
        self.conv2 = CellConv(6, c[0], c[1], 3, 2, bias=False)
        self.norm2 = SparseBatchNorm(c[1], momentum=momentum)
        self.conv3 = CellConv(6, c[1], c[2], 3, 2, bias=False)
        self.norm3 = SparseBatchNorm(c[2], momentum=momentum)
        self.conv3_tr = InverseConv(6, c[2], up[2], 3, 2, 1, bias=False)
        self.norm3_tr = SparseBatchNorm(up[2], momentum=momentum)
        self.conv2_tr = InverseConv(6, c[1] + up[2], up[1], 3, 2, 1, bias=False)
        self.norm2_tr = SparseBatchNorm(up[1], momentum=momentum)
        self.conv1_tr = SubmanifoldConv(6, c[0] + up[1], up[0], 3, bias=False)
        self.norm1_tr = SparseBatchNorm(up[0], momentum=momentum)
        self.final = SubmanifoldConv(6, up[0], 1, 1, bias=True)

    def forward(self, votes: SparseTensor) -> Float[Tensor, " m"]:
        """Logits of the bins of `votes`, in their order. ValueError unless it has 6 dimensions and 1 channel."""
        s1 = convolve(votes, self.conv1, self.norm1, relu=False)
        s2 = convolve(_relu(s1), self.conv2, self.norm2, relu=False)
        s4 = convolve(_relu(s2), self.conv3, self.norm3, relu=True)
        up = widen(s4, self.conv3_tr, self.norm3_tr, s2, relu=True)
        up = widen(concatenate(up, s2), self.conv2_tr, self.norm2_tr, s1, relu=True)
        up = convolve(concatenate(up, s1), self.conv1_tr, self.norm1_tr, relu=True)
        return self.final(up).features[:, 0]


def _relu(x: SparseTensor) -> SparseTensor:
    return x.with_features(x.features.relu())
