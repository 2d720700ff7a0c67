"""A collection in its canonical space: points carried through it, what tells whether it aligns, and its file.

ASIC, section 3.2: a point's canonical coordinates, then the cell of the other picture's object with the nearest ones.
`guided` is ours: the most similar features, less the squared canonical distance, so that both have a say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.errors import Vision3DError
from vision3d.io.atomic import atomic_file
from vision3d.matching.semantic.asic.collection import Collection
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.transfer import peak, sample, similarities

GUIDE = 0.4  # cosine that a canonical distance of 1 costs; chosen on the val split of the synthetic set
OUTSIDE = 16.0  # squared canonical distance added to cells outside the object
# From these on a collection counts as aligned, measured at 32 x 32 cells of EfficientNet-lite0's features: photos of
# unrelated things 0.66 and 0.13, furniture of five categories 0.73 to 0.77 and 0.14 to 0.16, of one 0.76 and 0.163 on.
LEAST_CONSISTENCY, LEAST_MATCHED = 0.70, 0.16


@dataclass(frozen=True, slots=True, kw_only=True)
class CanonicalFeatures(DenseFeatures):
    """Features with the canonical coordinates (x, y) and the object's cells."""

    coordinates: Float[Tensor, "2 h w"]
    mask: Bool[Tensor, "h w"]


@dataclass(frozen=True, slots=True)
class Alignment:
    """What a fit leaves: names of the pictures, their canonical coordinates and objects. key: of all that it came
    from."""

    key: str
    names: tuple[str, ...]
    coordinates: Float[Tensor, "n 2 h w"]
    mask: Bool[Tensor, "n h w"]

    def save(self, path: Path) -> None:
        """Writes an npz file without objects. Vision3DError if it cannot be written."""
        with atomic_file(path) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(
                stream,
                key=np.array(self.key),
                names=np.array(self.names),
                coordinates=self.coordinates.numpy(),
                mask=self.mask.numpy(),
            )

    @classmethod
    def load(cls, path: Path) -> Alignment:
        """Reads what `save` wrote. Vision3DError if it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as data:
                return cls(
                    str(data["key"]),
                    tuple(str(name) for name in data["names"]),
                    torch.from_numpy(data["coordinates"]),
                    torch.from_numpy(data["mask"]),
                )
        except Exception as error:  # damaged files raise nearly anything
            raise Vision3DError(f"cannot read the alignment {path}: {error}; remove it and run again") from None


def carry_canonical(
    source: CanonicalFeatures, target: CanonicalFeatures, points: Float[Tensor, "n 2"], *, guided: bool
) -> Float[Tensor, "n 2"]:
    """Points of the source (px of its original) to the target; inside the picture.

    Raises:
        ValueError: points that are not finite.
    """
    if not torch.isfinite(points).all():
        raise ValueError("points to carry over must be finite")
    cells = source.to_cells(points.float())
    apart = (target.coordinates[None] - at_cells(source.coordinates, cells)[:, :, None, None]).square().sum(dim=1)
    if guided:
        scores = similarities(sample(source.grid, cells), target.grid) - GUIDE * apart
    else:
        scores = -apart - OUTSIDE * (~target.mask).float()
    limit = points.new_tensor(target.image_size)
    return torch.minimum(target.to_pixels(peak(scores)).to(points).clamp(min=0), limit)


def at_cells(values: Float[Tensor, "c h w"], cells: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    """Values at cells (column, row), linear between cells' middles, the outermost beyond them."""
    _, h, w = values.shape
    place = (cells + 0.5) / cells.new_tensor([w, h]) * 2 - 1
    found = F.grid_sample(values[None], place[None, None], padding_mode="border", align_corners=False)
    return found[0, :, 0].T


def consistency(collection: Collection, coordinates: Float[Tensor, "n 2 h w"]) -> float | None:
    """Whether the collection has a common space: how often a pseudo-match that the fit did not see lies nearer in it
    than a chance pair of ends of the same two pictures. 0.5 is chance, 1 perfect; None without such matches."""
    nearer, count = 0.0, 0
    for (i, j), matches in collection.matches.items():
        held = matches.held_out()
        ends0 = coordinates[i].flatten(1)[:, held.cells0].T
        ends1 = coordinates[j].flatten(1)[:, held.cells1].T
        k = len(ends0)
        if k < 2:
            continue
        apart = torch.cdist(ends0, ends1)
        own = apart.diagonal()[:, None]
        wins = (own < apart).float() + 0.5 * (own == apart).float()
        nearer += float(wins.sum()) - 0.5 * k  # the diagonal itself
        count += k * (k - 1)
    return nearer / count if count else None


def matched_share(collection: Collection) -> float:
    """How much the pictures have in common: the pseudo-matches of a pair as a share of its smaller object's cells,
    mean over pairs. It depends on the number of cells."""
    area = collection.mask.flatten(1).sum(dim=1)
    n = len(area)
    shares = [
        len(collection.matches[i, j].cells0) / float(torch.minimum(area[i], area[j]))
        if (i, j) in collection.matches
        else 0
        for i in range(n)
        for j in range(i + 1, n)
    ]
    return sum(shares) / len(shares)


def dense_maps(pictures: Sequence[CanonicalFeatures], *, guided: bool) -> Float[Tensor, "n n h w 2"]:
    """For every pair (i, j): where the middle of each cell of i lies in j, px of j's original."""
    n, (h, w) = len(pictures), pictures[0].grid.shape[1:]
    x, y = torch.meshgrid(torch.arange(w).float(), torch.arange(h).float(), indexing="xy")
    cells = torch.stack([x, y], dim=-1).reshape(-1, 2)
    maps = torch.empty(n, n, h, w, 2)
    for i, source in enumerate(pictures):
        points = source.to_pixels(cells)
        for j, target in enumerate(pictures):
            found = points if i == j else carry_canonical(source, target, points, guided=guided)
            maps[i, j] = found.reshape(h, w, 2)
    return maps
