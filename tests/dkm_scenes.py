"""Seeded weights and photos for the tests of DKM; the fixture of the authors' outputs is made of the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vision3d.matching.dkm import DKM


def seeded_weights(net: DKM, seed: int = 0) -> dict[str, Tensor]:
    """A state whose activations keep their size from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = value
        elif name.endswith("running_var"):
            state[name] = 0.8 + 0.4 * torch.rand(value.shape, generator=generator)
        elif value.dim() == 4:
            gain = (2 / value[0].numel()) ** 0.5
            if name.endswith(("out_conv.weight", "pos_conv.weight")):
                gain = 0.3 * value[0].numel() ** -0.5
            state[name] = gain * torch.randn(value.shape, generator=generator)
        elif name.endswith("bn3.weight"):
            state[name] = 0.2 + 0.2 * torch.rand(value.shape, generator=generator)
        elif name.endswith("weight"):
            state[name] = 0.8 + 0.4 * torch.rand(value.shape, generator=generator)
        else:
            state[name] = 0.1 * torch.randn(value.shape, generator=generator)
    for scale in ("32", "16"):  # a coarse warp that mostly stays in the photo
        state[f"decoder.embedding_decoder.terminal_module.{scale}.weight"] *= 0.02
    return state


def photos(height: int, width: int, seed: int = 0) -> Tensor:
    """Two photos [2, 3, h, w] of one smooth texture, the second moved by a few px."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 3, width // 8 + 3, generator=generator)
    large = F.interpolate(coarse, (height + 16, width + 16), mode="bilinear", align_corners=False)[0]
    return torch.stack([large[:, 8 : 8 + height, 8 : 8 + width], large[:, 3 : 3 + height, 12 : 12 + width]])
