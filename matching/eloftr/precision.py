"""bfloat16 for evaluation, on processors that multiply it and on others."""

from __future__ import annotations

import torch

from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.sparse.microkernels import HAS_BFLOAT16


@torch.no_grad()
def to_bfloat16(net: EfficientLoFTR) -> EfficientLoFTR:
    """The network in bfloat16, in place.

    A CPU without bfloat16 products would emulate them, at ten times the time of float32: there the weights are rounded
    to bfloat16 and computed with in float32, so that the result is at least as exact as on other machines.
    """
    if next(net.parameters()).device.type != "cpu" or HAS_BFLOAT16:
        return net.to(torch.bfloat16)
    state = net.state_dict()
    net.load_state_dict({name: v.bfloat16().float() if v.is_floating_point() else v for name, v in state.items()})
    return net.fuse()
