"""16 bits for evaluation: bfloat16 on a GPU, integers on a CPU."""

from __future__ import annotations

import torch

from vision3d.matching.eloftr.fast_conv import FastConv
from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.matching.eloftr.transformer import AggregatedAttention
from vision3d.sparse.microkernels import HAS_SHORT_PAIRS


@torch.no_grad()
def to_16_bits(net: EfficientLoFTR) -> EfficientLoFTR:
    """The network with products of 16 bits, in place: of bfloat16, but on a CPU of integers.

    Those have units by points of tiles, cells and outputs, and are several times closer to float32
    (`matching/short_products.py`): with seeded weights the cells' features are off by 20 % in bfloat16, by 0.7 % with
    integers. Only 3x3 convolutions and the cells' MLP of widths in multiples of 16 use them, all else is float32; on a
    CPU that does not multiply pairs of them (x86 without AVX2, ARM), everything is.
    """
    if next(net.parameters()).device.type != "cpu":
        return net.to(torch.bfloat16)
    net.fuse()
    for module in net.modules():
        if isinstance(module, FastConv | AggregatedAttention):
            module.short = HAS_SHORT_PAIRS
    return net
