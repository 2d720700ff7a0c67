"""RepVGG backbone (Ding et al., CVPR 2021) as Efficient LoFTR uses it (section 3.1), with fused convolutions.

Trained as the sum of a 3x3, a 1x1 and an identity branch, each with batch norm; `fused()` makes one 3x3 of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.fast_conv import FastConv
from vision3d.matching.eloftr.valid import Extents


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The normalised response."""
        y: Tensor = self.bn(self.conv(x))
        return y

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that this is in evaluation."""
        return fold_norm(self.conv.weight, self.bn)


def fold_norm(weight: Float[Tensor, "d c k l"], norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution (without bias) followed by a batch norm in evaluation."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


class RepVGGBlock(nn.Module):
    """ReLU(3x3 + 1x1 + identity), the identity where the shapes agree; after `fuse`, ReLU(3x3 with bias)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.rbr_dense: ConvNorm | None = ConvNorm(inputs, outputs, 3, stride)
        self.rbr_1x1: ConvNorm | None = ConvNorm(inputs, outputs, 1, stride)
        same = inputs == outputs and stride == 1
        self.rbr_identity: nn.BatchNorm2d | None = nn.BatchNorm2d(outputs) if same else None
        self.rbr_reparam: FastConv | None = None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """The block's response."""
        if self.rbr_reparam is not None:
            y: Tensor = self.rbr_reparam(x)
            return y
        assert self.rbr_dense is not None and self.rbr_1x1 is not None
        total = self.rbr_dense(x) + self.rbr_1x1(x)
        return F.relu(total + self.rbr_identity(x) if self.rbr_identity is not None else total)

    @torch.no_grad()
    def fuse(self) -> None:
        """Replaces the branches by their sum, one 3x3 convolution; for evaluation only, there is no way back."""
        if self.rbr_reparam is not None:
            return
        assert self.rbr_dense is not None and self.rbr_1x1 is not None
        weight, bias = self.rbr_dense.folded()
        point, point_bias = self.rbr_1x1.folded()
        weight, bias = weight + F.pad(point, (1, 1, 1, 1)), bias + point_bias
        if self.rbr_identity is not None:
            unit = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)[:, :, None, None]
            same, same_bias = fold_norm(unit, self.rbr_identity)
            weight, bias = weight + F.pad(same, (1, 1, 1, 1)), bias + same_bias
        self.rbr_reparam = FastConv(weight, bias, self.stride, 0.0, saved=True)
        self.rbr_dense = self.rbr_1x1 = self.rbr_identity = None


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*(RepVGGBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1)
                           for i in range(blocks)))  # fmt: skip


class Backbone(nn.Module):
    """Features at 1/2, 1/4 and 1/8 of a grey photo."""

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        w, n = config.widths, config.blocks
        self.layer0: nn.Module = RepVGGBlock(1, w[0], 2) if n[0] == 1 else _stage(1, w[0], n[0], 2)
        self.layer1 = _stage(w[0], w[1], n[1], 1)
        self.layer2 = _stage(w[1], w[2], n[2], 2)
        self.layer3 = _stage(w[2], w[3], n[3], 2)

    def forward(self, grey: Float[Tensor, "b 1 h w"], extents: Extents) -> tuple[Tensor, Tensor, Tensor]:
        """grey: in [0, 1], zero beyond the photos; sides multiples of 32 px. Maps at 1/2, 1/4 and 1/8."""
        x = extents.clear(self.layer0(grey), 2)
        maps = []
        for stage, step in ((self.layer1, 2), (self.layer2, 4), (self.layer3, 8)):
            for block in stage:
                x = extents.clear(block(x), step)
            maps.append(x)
        return maps[0], maps[1], maps[2]
