"""The network that cleans a Hough space of rigid motions: one logit for each bin with votes.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, section 3.3: a U-Net of 6-D sparse
convolutions with two strided layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.matching.hough.residual import convolve, widen
from vision3d.matching.hough.voting import HoughSpace
from vision3d.sparse import CellConv, InverseConv, SparseBatchNorm, SubmanifoldConv, concatenate


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteNetworkConfig:
    """Widths of the network.

    inputs: "votes": of each bin, as in the paper. "smoothed": two channels, see `vote_inputs`, and the output is a
    multiple of the smoothed votes' logarithm plus what the U-Net makes of both.
    channels: of the encoder at strides 1, 2, 4. up_channels: of the last layer, and of the decoder at strides 1, 2.
    momentum: of the batch norms (weight of the newest batch).
    """

    inputs: Literal["votes", "smoothed"] = "votes"
    channels: tuple[int, int, int] = (32, 64, 128)
    up_channels: tuple[int, int, int] = (32, 32, 64)
    momentum: float = 0.05


PAPER = VoteNetworkConfig()
COMPACT = VoteNetworkConfig(inputs="smoothed", channels=(8, 8, 8), up_channels=(8, 8, 8))
_LEAST = -12.0  # of logarithms of shares of votes


class VoteNetwork(nn.Module):
    """Bins (rotation vector, translation) with their `vote_inputs` in, a logit per bin out; kernels 3 along all axes.

    Encoder features are put beside the decoder's before their ReLU.
    """

    def __init__(self, config: VoteNetworkConfig) -> None:
        super().__init__()
        self.config = config
        c, up, momentum = config.channels, config.up_channels, config.momentum
        self.conv1 = SubmanifoldConv(6, 1 if config.inputs == "votes" else 2, c[0], 3, bias=False)
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
        self.slope = nn.Parameter(torch.ones(1)) if config.inputs == "smoothed" else None
        if self.slope is not None:
            nn.init.zeros_(self.final.weight)
            assert self.final.bias is not None
            nn.init.zeros_(self.final.bias)

    def forward(self, votes: SparseTensor) -> Float[Tensor, " m"]:
        """Logits of the bins of `votes`, in their order. ValueError for other dimensions or channels."""
        s1 = convolve(votes, self.conv1, self.norm1, relu=False)
        s2 = convolve(_relu(s1), self.conv2, self.norm2, relu=False)
        s4 = convolve(_relu(s2), self.conv3, self.norm3, relu=True)
        up = widen(s4, self.conv3_tr, self.norm3_tr, s2, relu=True)
        up = widen(concatenate(up, s2), self.conv2_tr, self.norm2_tr, s1, relu=True)
        up = convolve(concatenate(up, s1), self.conv1_tr, self.norm1_tr, relu=True)
        logits: Tensor = self.final(up).features[:, 0]
        return logits if self.slope is None else logits + self.slope * votes.features[:, 1]


def _relu(x: SparseTensor) -> SparseTensor:
    return x.with_features(x.features.relu())


def vote_inputs(space: HoughSpace, kind: Literal["votes", "smoothed"]) -> Float[Tensor, "m c"]:
    """What the network sees of bins: votes; or the logarithms of bare and smoothed votes over the highest peak."""
    if kind == "votes" or len(space.bins) == 0:
        return torch.from_numpy(space.votes).float()[:, None].expand(-1, 1 if kind == "votes" else 2)
    both = torch.from_numpy(np.stack([space.votes, space.smooth], axis=1))
    return (both / float(space.smooth.max())).log().clamp(min=_LEAST).float()


def vote_tensor(bins: Int[np.ndarray, "m 6"], inputs: Float[Tensor, "m c"]) -> SparseTensor:
    """Bins, which may be negative, and their inputs as a tensor; coarser bins begin at multiples of 4.

    ValueError without bins.
    """
    if len(bins) == 0:
        raise ValueError("a Hough space without votes is no input")
    moved = torch.from_numpy(bins - 4 * np.floor_divide(bins.min(axis=0), 4))
    shape = tuple(int(n) + 1 for n in moved.amax(dim=0))
    indices = torch.cat([torch.zeros(len(bins), 1, dtype=torch.int64), moved], dim=1).int()
    return SparseTensor(inputs, indices, shape, 1)


def rank_bins(network: VoteNetwork, space: HoughSpace) -> Float[np.ndarray, " m"]:
    """The network's probability of each bin."""
    if len(space.bins) == 0:
        return space.smooth
    with torch.no_grad():
        logits = network(vote_tensor(space.bins, vote_inputs(space, network.config.inputs)))
    out: np.ndarray = logits.sigmoid().double().numpy()
    return out
