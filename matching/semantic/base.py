"""The protocol of semantic matchers: each picture is described once, then points are carried from one to another.

Pictures are squashed to a square of the matcher's choice, so a picture's features are a grid that covers all of it
and nothing else; cell (row i, column j) of h x w is centred at ((j + 0.5) W / w, (i + 0.5) H / h) px of the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from vision3d.core import Image, Progress, silent


@dataclass(frozen=True, slots=True)
class DenseFeatures:
    """A grid of features over a whole picture. grid: unit vectors along c; image_size: (width, height) px of the
    original. mirrored: the grid of the picture's mirror image (left and right swapped), where the matcher wants it."""

    grid: Float[Tensor, "c h w"]
    image_size: tuple[int, int]
    mirrored: Float[Tensor, "c h w"] | None = None

    def to_cells(self, points: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """px of the original to (column, row); a cell's centre is at whole numbers."""
        return points * self._cells_per_px(points) - 0.5

    def to_pixels(self, cells: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """(column, row) to px of the original."""
        return (cells + 0.5) / self._cells_per_px(cells)

    def _cells_per_px(self, like: Tensor) -> Tensor:
        _, height, width = self.grid.shape
        return like.new_tensor([width / self.image_size[0], height / self.image_size[1]])


@runtime_checkable
class SemanticMatcher(Protocol):
    """Points of one picture to the same parts in another. `name` and `settings` identify it in caches and reports.

    max_size: longer side in px at which pictures should be loaded for it.
    """

    name: str
    max_size: int

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        ...

    def describe(self, image: Image) -> DenseFeatures:
        """What transfer needs of one picture.

        Raises:
            ValueError: pixels that are not finite, or a picture too small to describe.
        """
        ...

    def transfer(
        self, source: DenseFeatures, target: DenseFeatures, points: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "n 2"]:
        """Where the points (px of the source's original) lie in the target (px of its original); always finite and
        inside the picture."""
        ...


@runtime_checkable
class CollectionMatcher(SemanticMatcher, Protocol):
    """A semantic matcher that is fitted to collections of pictures first, without labels, and then describes these."""

    def fit(
        self, collections: Mapping[str, Sequence[Path]], folder: Path, progress: Progress = silent
    ) -> dict[str, object]:
        """Fits the collections (files by name) that have no fit in `folder` yet, and takes them into use.

        Returns a digest of each. Errors as in the matcher.
        """
        ...

    def use(self, folder: Path) -> None:
        """Takes the fits in `folder` into use. Vision3DError if there is none."""
        ...
