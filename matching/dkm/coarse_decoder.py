"""The embedding decoder of DKM: the Gaussian process' output and features to a coarse warp (section 3.2).

A network of refinement residual blocks and channel attention (Yu et al., "Learning a Discriminative Feature Network for
Semantic Segmentation", CVPR 2018), from stride 32 to stride 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 384


class ResidualBlock(nn.Module):
    """1x1 convolution, then two 3x3 ones around which it is added."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The same size, `width` channels."""
        x = self.conv1(x)
        return F.relu(x + self.conv3(F.relu(self.bn(self.conv2(x)))))


class ChannelAttention(nn.Module):
    """Adds new features to the context, each channel weighted by what the means of both say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 1)

    def forward(self, context: Float[Tensor, "b c h w"], new: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The context with `new` added."""
        means = torch.cat([context, new], 1).mean((2, 3), keepdim=True)
        return context + torch.sigmoid(self.conv2(F.relu(self.conv1(means)))) * new


class CoarseDecoder(nn.Module):
    """Warp and certainty logits at strides 32 and 16."""

    def __init__(self) -> None:
        super().__init__()
        scales = ("32", "16")
        self.feat_input_modules = nn.ModuleDict({s: nn.Conv2d(512, 256, 1) for s in scales})
        self.rrb_d = nn.ModuleDict({s: ResidualBlock(512, WIDTH) for s in scales})
        self.cab = nn.ModuleDict({s: ChannelAttention(WIDTH) for s in scales})
        self.rrb_u = nn.ModuleDict({s: ResidualBlock(WIDTH, WIDTH) for s in scales})
        self.terminal_module = nn.ModuleDict({s: nn.Conv2d(WIDTH, 3, 1) for s in scales})

    def forward(
        self,
        posterior: Float[Tensor, "b 256 h w"],
        features: Float[Tensor, "b 512 h w"],
        context: Float[Tensor, "b 384 h w"] | None,
        stride: int,
    ) -> tuple[Float[Tensor, "b 2 h w"], Float[Tensor, "b 1 h w"], Float[Tensor, "b 384 h w"]]:
        """The warp ([-1, 1] across photo 1), certainty logits and the context for the next stride."""
        scale = str(stride)
        new = self.rrb_d[scale](torch.cat([self.feat_input_modules[scale](features), posterior], 1))
        context = self.rrb_u[scale](self.cab[scale](torch.zeros_like(new) if context is None else context, new))
        made = self.terminal_module[scale](context)
        return made[:, 1:], made[:, :1], context
