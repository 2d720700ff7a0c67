"""Cross-entropy over similarity maps, the loss of heads trained with keypoints.

X. Li et al., "SimSC: A Simple Framework for Semantic Correspondence with Temperature Learning", 2023, section 3, and
"SD4Match", CVPR 2024, section 3: the softmax of a keypoint's similarities with every cell of the other picture against
a smoothed truth.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.matching.semantic.transfer import sample, similarities


def smoothed_truth(
    cells: Float[Tensor, "n 2"], grid: tuple[int, int], sigma: float
) -> tuple[Float[Tensor, "n hw"], Bool[Tensor, " n"]]:
    """A Gaussian of `sigma` cells around each of the points as shares of the grid's (columns, rows) that sum to 1, and
    which points lie in the grid (the others have no truth)."""
    columns, rows = grid
    x = torch.arange(columns, device=cells.device) - cells[:, :1]
    y = torch.arange(rows, device=cells.device) - cells[:, 1:]
    exponent = -(x.square()[:, None, :] + y.square()[:, :, None]) / (2 * sigma**2)
    limit = cells.new_tensor([columns, rows]) - 0.5
    inside = ((cells >= -0.5) & (cells <= limit)).all(dim=1)
    return exponent.flatten(1).softmax(dim=1), inside


def keypoint_cross_entropy(
    grid0: Float[Tensor, "c h w"],
    grid1: Float[Tensor, "c h w"],
    cells0: Float[Tensor, "n 2"],
    cells1: Float[Tensor, "n 2"],
    *,
    temperature: float,
    sigma: float,
) -> Float[Tensor, " n"]:
    """The loss of each pair of points, in both directions (their mean): cross-entropy of the softmax of the cosines
    divided by `temperature` with the smoothed truth; 0 for points outside either grid."""
    size = (grid0.shape[2], grid0.shape[1])
    truth0, inside0 = smoothed_truth(cells0, size, sigma)
    truth1, inside1 = smoothed_truth(cells1, size, sigma)
    total = torch.zeros(len(cells0), dtype=grid0.dtype, device=grid0.device)
    for a, at, b, truth in ((grid0, cells0, grid1, truth1), (grid1, cells1, grid0, truth0)):
        logits = similarities(sample(a, at), b).flatten(1) / temperature
        total = total - 0.5 * (truth * logits.log_softmax(dim=1)).sum(dim=1)
    return torch.where(inside0 & inside1, total, 0.0)
