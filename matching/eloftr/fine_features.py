"""Fine features at 1/2 of the photo: coarse features and two levels of the backbone fused top-down (section 3.4)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.valid import Extents


def _merge(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
    )


def _double(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)


class FineFeatures(nn.Module):
    """From the transformed cells (1/8) and the backbone's maps at 1/4 and 1/2 to fine features at 1/2.

    The published network doubles these once more; windows are interpolated from 1/2 where they are needed instead
    (`fine.py`), which gives the same numbers.
    """

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        _, half, quarter, coarse = config.widths
        self.layer3_outconv = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.layer2_outconv = nn.Conv2d(quarter, coarse, 1, bias=False)
        self.layer2_outconv2 = _merge(coarse, quarter)
        self.layer1_outconv = nn.Conv2d(half, quarter, 1, bias=False)
        self.layer1_outconv2 = _merge(quarter, half)

    def forward(
        self,
        cells: Float[Tensor, "b c h w"],
        quarter: Float[Tensor, "b d h2 w2"],
        half: Float[Tensor, "b e h4 w4"],
        extents: Extents,
    ) -> Float[Tensor, "b e h4 w4"]:
        """cells: of the transformer, as they are (they are divided by the root of their width here)."""
        x = self.layer3_outconv(cells / cells.shape[1] ** 0.5)
        x = _double(extents.extend(x, 8)) + self.layer2_outconv(quarter)
        x = _merged(self.layer2_outconv2, extents.clear(x, 4), extents, 4)
        x = _double(extents.extend(x, 4)) + self.layer1_outconv(half)
        return _merged(self.layer1_outconv2, extents.clear(x, 2), extents, 2)


def _merged(layers: nn.Sequential, x: Tensor, extents: Extents, step: int) -> Tensor:
    """The two convolutions, the second seeing zeros beyond the photos."""
    y: Tensor = layers[3](extents.clear(layers[2](layers[1](layers[0](x))), step))
    return y
