"""Cross-entropy between the similarity maps of teachers and of a student.

F. Fundel et al., "Distillation of Diffusion Features for Semantic Correspondence", WACV 2025, section 3: the softmax of
the similarities of every cell of one picture with all of the other, the teacher's as truth of the student's. Several
teachers speak as one by unit vectors put side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def joint_grid(grids: Sequence[Float[Tensor, "_ _ _"]], size: tuple[int, int]) -> Float[Tensor, "c h w"]:
    """Grids [c h w] of one picture as one of (columns, rows): resampled, unit vectors each, put side by side. The
    cosine of two of its cells is the mean of the teachers' cosines."""
    parts = [
        F.normalize(
            F.interpolate(grid[None], (size[1], size[0]), mode="bilinear", align_corners=False, antialias=True)[0],
            dim=0,
        )
        for grid in grids
    ]
    out: Tensor = torch.cat(parts) / len(parts) ** 0.5
    return out


def similarity_cross_entropy(
    teacher0: Float[Tensor, "t h0 w0"],
    teacher1: Float[Tensor, "t h1 w1"],
    student0: Float[Tensor, "c h0 w0"],
    student1: Float[Tensor, "c h1 w1"],
    temperature: float,
) -> Float[Tensor, ""]:
    """The mean over the cells of both pictures of the cross-entropy of the student's softmax over the other picture's
    cells with the teacher's; both softmaxes are of cosines divided by `temperature`. All grids hold unit vectors."""
    truth = teacher0.flatten(1).T @ teacher1.flatten(1) / temperature
    logits = student0.flatten(1).T @ student1.flatten(1) / temperature
    forward = -(truth.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)
    backward = -(truth.softmax(dim=0) * logits.log_softmax(dim=0)).sum(dim=0)
    out: Tensor = 0.5 * (forward.mean() + backward.mean())
    return out
