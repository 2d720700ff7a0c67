"""bfloat16 for evaluation, on processors that multiply it and on others."""

from __future__ import annotations

import torch

from vision3d.matching.eloftr.fast_conv import FastConv
from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.matching.eloftr.transformer import AggregatedAttention
from vision3d.sparse.microkernels import HAS_BFLOAT16, HAS_SHORT_PAIRS


@torch.no_grad()
def to_bfloat16(net: EfficientLoFTR) -> EfficientLoFTR:
    """The network with products of 16 bits, in place: bfloat16 where the processor multiplies it.

    A CPU without bfloat16 products would emulate them, at ten times the time of float32. There 3x3 convolutions and the
    cells' MLP multiply 16-bit integers instead, which share scales by tiles and cells and are about as exact
    (`matching/short_products.py`); all else stays float32, and on a CPU that has not even these (no AVX2), everything.
    """
    if next(net.parameters()).device.type != "cpu" or HAS_BFLOAT16:
        return net.to(torch.bfloat16)
    net.fuse()
    for module in net.modules():
        if isinstance(module, FastConv | AggregatedAttention):
            module.short = HAS_SHORT_PAIRS
    return net
