"""The feature pyramid of DKM v3: a ResNet-50 without its classifier (Edstedt et al., CVPR 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import resnet50  # type: ignore[import-untyped, unused-ignore]

from vision3d.matching.lightglue import load_strictly

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSIFIER = {"fc.weight": (1000, 2048), "fc.bias": (1000,)}  # of ImageNet's classes, never used


class Encoder(nn.Module):
    """Features at strides 1 (the normalised photo itself), 2, 4, 8, 16 and 32, with 3 to 2048 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet50(weights=None)
        del self.net.fc
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def load_imagenet(self, state: Mapping[str, Tensor], source: str) -> None:
        """Takes the weights of torchvision's ResNet-50; Vision3DError names the first tensor that does not fit."""
        kept = {k: v for k, v in state.items() if tuple(v.shape) != CLASSIFIER.get(k)}
        load_strictly(self.net, kept, source, [k for k in self.net.state_dict() if k.endswith("num_batches_tracked")])

    def forward(self, rgb: Float[Tensor, "b 3 h w"], coarsest: int = 32) -> dict[int, Float[Tensor, "b c i j"]]:
        """rgb in [0, 1]; maps by stride up to `coarsest`, of ceil(h / stride) rows, channels last in memory."""
        net = self.net
        assert isinstance(self.mean, Tensor) and isinstance(self.std, Tensor)
        x = ((rgb - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        maps = {1: x}
        x = maps[2] = net.relu(net.bn1(net.conv1(x)))
        x = net.maxpool(x)
        for stride, layer in ((4, net.layer1), (8, net.layer2), (16, net.layer3), (32, net.layer4)):
            if stride <= coarsest:
                x = maps[stride] = layer(x)
        return maps
