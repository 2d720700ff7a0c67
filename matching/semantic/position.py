"""The baseline that looks at no pixel: every point goes to the same relative place of the other picture.

What it scores is how much the pictures of a data set are framed alike: the floor that other methods must beat.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Image
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.frozen import squash


class Position:
    """Same relative place in the picture."""

    name = "position"
    max_size = 64  # px; only the size of the original counts

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        return {"name": self.name}

    def describe(self, image: Image) -> DenseFeatures:
        """The picture's size, with a grid of one cell. Errors as in `SemanticMatcher`."""
        squash(image, 1)
        return DenseFeatures(torch.ones(1, 1, 1), image.original_size)

    def transfer(
        self, source: DenseFeatures, target: DenseFeatures, points: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "n 2"]:
        """See `SemanticMatcher`. ValueError for points that are not finite."""
        if not torch.isfinite(points).all():
            raise ValueError("points to carry over must be finite")
        share = points / points.new_tensor(source.image_size)
        return share.clamp(0, 1) * points.new_tensor(target.image_size)
