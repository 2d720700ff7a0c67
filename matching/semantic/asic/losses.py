"""The losses of ASIC, section 3.3: contrastive over pseudo-matches, reconstruction of features, smoothness.

Each is checked against plain loops in the tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def keypoint_loss(
    ends0: Float[Tensor, "k 2"], ends1: Float[Tensor, "k 2"], weights: Float[Tensor, " k"], temperature: float
) -> Float[Tensor, ""]:
    """Matched points are nearer to each other in the canonical space than to the pair's other matched points.

    Cross-entropy of softmax(-distance / temperature) from either side, the other side held fixed, weighted.
    """
    label = torch.arange(len(ends0), device=ends0.device)
    towards1 = -torch.cdist(ends0, ends1.detach()) / temperature
    towards0 = -torch.cdist(ends1, ends0.detach()) / temperature
    each = F.cross_entropy(towards1, label, reduction="none") + F.cross_entropy(towards0, label, reduction="none")
    return (weights * each).sum()


def reconstruction_loss(
    rebuilt: Float[Tensor, "b c h w"], features: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """1 - cosine between the embedding at a cell's coordinates and the cell's features, mean over the objects."""
    return 1 - F.cosine_similarity(rebuilt, features, dim=1)[mask].mean()


def smoothness_loss(residual: Float[Tensor, "b 2 h w"]) -> Float[Tensor, ""]:
    """Total variation of what the network adds, with Huber's distance: mean over neighbours along x plus along y."""
    along_y = residual[:, :, 1:] - residual[:, :, :-1]
    along_x = residual[:, :, :, 1:] - residual[:, :, :, :-1]
    return huber(along_y).mean() + huber(along_x).mean()


def huber(values: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 2 h w"]:
    """x^2 / 2 up to 1, |x| - 1/2 beyond."""
    size = values.abs()
    return torch.where(size <= 1, 0.5 * size**2, size - 0.5)
