"""EfficientNet-lite0 in plain torch, with its intermediate maps: M. Tan and Q. Le, "EfficientNet", ICML 2019, table 1.

The lite variant (Google, 2020) has no squeeze-and-excitation, ReLU6 for swish, and a stem and head that do not scale.
Batch normalisation is folded into the convolutions when weights are read: the network is for features, frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.errors import Vision3DError
from vision3d.weights import load_weights

BN_EPS = 1e-3
SOURCE = "efficientnet-lite0"  # in vision3d.weights


@dataclass(frozen=True, slots=True)
class Stage:
    """Table 1: blocks of the same kind; the first one strides. expand: of the channels inside a block."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


STEM, HEAD, CLASSES = 32, 1280, 1000
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# Stride of each stage's map, and its channels; stages count from 1 as in the paper, 2 being the first of STAGES.
STRIDES = {2: 2, 3: 4, 4: 8, 5: 16, 6: 16, 7: 32, 8: 32}
CHANNELS = {number: stage.channels for number, stage in enumerate(STAGES, 2)}


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding: ceil(n / stride) outputs, the odd pixel of padding at the far side."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)
        if stride == 1:
            self.padding = (kernel // 2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[b c h w] to [b c' ceil(h / stride) ceil(w / stride)]."""
        if self.stride[0] > 1:
            x = F.pad(x, (*self._pad(x.shape[3]), *self._pad(x.shape[2])))
        return super().forward(x)

    def _pad(self, size: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; added to its input where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = inputs * expand
        self.expand = SameConv(inputs, middle, 1) if expand > 1 else None
        self.depthwise = SameConv(middle, middle, kernel, stride, groups=middle)
        self.project = SameConv(middle, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[b c h w] to [b c' h' w']."""
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        out: Tensor = x + y if self.residual else y
        return out


class EfficientNetLite0(nn.Module):
    """The network; `forward` gives classes, `stages` the maps in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        stages, channels = [], STEM
        for stage in STAGES:
            blocks = []
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                blocks.append(Block(channels, stage.channels, stage.kernel, stride, stage.expand))
                channels = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.ModuleList(stages)
        self.head = SameConv(channels, HEAD, 1)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def stages(self, rgb: Float[Tensor, "b 3 h w"], last: int = 8) -> dict[int, Float[Tensor, "b _ _ _"]]:
        """Maps of the stages 2 to `last` (table 1's numbers) at STRIDES with CHANNELS; rgb in [0, 1].

        TensorFlow's padding at the far side moves the middle of what a cell can see by half a cell, but not what it
        responds to: against mirrored pictures, stages 4 to 8 lie within 2 px (0.13 cells) of their cells' middle.
        """
        x = ((rgb * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self.stages_after(F.relu6(self.stem(x), inplace=True), 1, last)

    def stages_after(
        self, x: Float[Tensor, "b _ _ _"], done: int, last: int = 8
    ) -> dict[int, Float[Tensor, "b _ _ _"]]:
        """Maps of the stages `done` + 1 to `last`; x: the map of stage `done`, of the stem if 1."""
        maps = {}
        for number in range(done + 1, last + 1):
            x = maps[number] = self.blocks[number - 2](x)
        return maps

    def forward(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        """Logits of ImageNet's classes; rgb in [0, 1]."""
        x = F.relu6(self.head(self.stages(rgb)[8]))
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


def load_efficientnet(path: Path | None = None) -> EfficientNetLite0:
    """The network with its ImageNet weights, frozen, in evaluation mode.

    Raises:
        Vision3DError: the file has other or missing tensors (or is missing: MissingWeightsError).
    """
    net = EfficientNetLite0()
    net.load_state_dict(folded(load_weights(SOURCE, path)))
    net.eval().requires_grad_(False)
    return net.to(memory_format=torch.channels_last)


def folded(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under this module's names, batch normalisation folded in; every tensor must fit.

    Raises:
        Vision3DError: missing, unknown or wrongly shaped tensors.
    """
    left = {key: value for key, value in published.items() if not key.endswith("num_batches_tracked")}
    expected = EfficientNetLite0().state_dict()
    out: dict[str, Tensor] = {}

    def take(key: str) -> Tensor:
        if key not in left:
            raise Vision3DError(f"these are no weights of EfficientNet-lite0: {key} is missing")
        return left.pop(key)

    def convolution(name: str, conv: str, norm: str) -> None:
        weight, gamma, beta = take(f"{conv}.weight"), take(f"{norm}.weight"), take(f"{norm}.bias")
        scale = gamma / (take(f"{norm}.running_var") + BN_EPS).sqrt()
        out[f"{name}.weight"] = weight * scale[:, None, None, None]
        out[f"{name}.bias"] = beta - take(f"{norm}.running_mean") * scale

    convolution("stem", "_conv_stem", "_bn0")
    index = 0
    for s, stage in enumerate(STAGES):
        for b in range(stage.blocks):
            ours, theirs = f"blocks.{s}.{b}", f"_blocks.{index}"
            if stage.expand > 1:
                convolution(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
            convolution(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            convolution(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
            index += 1
    convolution("head", "_conv_head", "_bn1")
    out["classifier.weight"], out["classifier.bias"] = take("_fc.weight"), take("_fc.bias")
    if left:
        raise Vision3DError(f"these are no weights of EfficientNet-lite0: {min(left)} is unknown")
    for key, value in out.items():
        if value.shape != expected[key].shape:
            raise Vision3DError(
                f"these are no weights of EfficientNet-lite0: {key} has the shape {tuple(value.shape)}, "
                f"expected {tuple(expected[key].shape)}"
            )
    return out
