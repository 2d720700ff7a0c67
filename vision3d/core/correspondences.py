"""Point correspondences between two images or clouds, and dense warps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Correspondences:
    """points0[i] matches points1[i]; d=2: px of the original images, d=3: metres. scores in [0, 1], 1 is certain."""

    points0: Float[Tensor, "n d"]
    points1: Float[Tensor, "n d"]
    scores: Float[Tensor, " n"]

    @classmethod
    def empty(cls, dim: int = 2) -> Correspondences:
        """No correspondences."""
        return cls(torch.zeros(0, dim), torch.zeros(0, dim), torch.zeros(0))

    def __len__(self) -> int:
        return int(self.points0.shape[0])

    def select(self, keep: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Correspondences:
        """Those at a mask or at indices."""
        return Correspondences(self.points0[keep], self.points1[keep], self.scores[keep])

    def swap(self) -> Correspondences:
        """The same matches from 1 to 0."""
        return Correspondences(self.points1, self.points0, self.scores)


@dataclass(frozen=True, slots=True)
class Warp:
    """Dense correspondence: pixel (x, y) of image 0 lies at target[y, x] px in image 1, with certainty in [0, 1].

    `original_from_grid` are per image the (x, y) factors from px of this grid (image 0) or of target (image 1) to px
    of the original images.
    """

    target: Float[Tensor, "h w 2"]
    certainty: Float[Tensor, "h w"]
    original_from_grid: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 1.0), (1.0, 1.0))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Correspondences:
        """At most n matches, drawn without replacement in proportion to certainty, in px of the originals."""
        weight = self.certainty.flatten().clamp(min=0)
        n = min(n, int((weight > 0).sum()))
        if n == 0:
            return Correspondences.empty()
        index = torch.multinomial(weight, n, replacement=False, generator=generator)
        width = self.target.shape[1]
        points0 = torch.stack([index % width + 0.5, index // width + 0.5], dim=1).to(self.target.dtype)
        scale0, scale1 = (self.target.new_tensor(s) for s in self.original_from_grid)
        return Correspondences(points0 * scale0, self.target.reshape(-1, 2)[index] * scale1, weight[index])
