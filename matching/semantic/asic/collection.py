"""A collection as ASIC sees it: grids of frozen features, the objects' cells, and pseudo-matches of every pair.

ASIC, section 3.1: mutual nearest neighbours ("best buddies") among the features of the two objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.core import Progress, silent
from vision3d.matching.semantic.asic.foreground import foreground, object_coordinates
from vision3d.matching.semantic.transfer import mutual_cells

MOST = 50  # pictures: pairs grow with the square
HELD_OUT = 5  # every fifth match of a pair is not fitted: it tells whether the collection aligns


@dataclass(frozen=True, slots=True)
class PseudoMatches:
    """Mutual nearest neighbours of two pictures: their cells, row by row, and their cosines."""

    cells0: Int[Tensor, " k"]
    cells1: Int[Tensor, " k"]
    cosines: Float[Tensor, " k"]

    def fitted(self) -> PseudoMatches:
        """Those that the fit sees."""
        return self._select(torch.arange(len(self.cells0)) % HELD_OUT != 0)

    def held_out(self) -> PseudoMatches:
        """The others."""
        return self._select(torch.arange(len(self.cells0)) % HELD_OUT == 0)

    def _select(self, keep: Bool[Tensor, " k"]) -> PseudoMatches:
        return PseudoMatches(self.cells0[keep], self.cells1[keep], self.cosines[keep])


@dataclass(frozen=True, slots=True)
class Collection:
    """grids: unit vectors along c. mask: the objects. start: canonical coordinates (x, y) before the fit: the place in
    the object. matches: of pairs (i, j), i < j, in which both objects have some."""

    grids: Float[Tensor, "n c h w"]
    mask: Bool[Tensor, "n h w"]
    start: Float[Tensor, "n 2 h w"]
    matches: dict[tuple[int, int], PseudoMatches]


def make_collection(grids: Sequence[Float[Tensor, "c h w"]], progress: Progress = silent) -> Collection:
    """Finds objects and pseudo-matches.

    Raises:
        ValueError: fewer than 2 or more than MOST pictures, or grids of different shapes.
    """
    if not 2 <= len(grids) <= MOST:
        raise ValueError(f"a collection has 2 to {MOST} pictures, got {len(grids)}")
    if len({grid.shape for grid in grids}) > 1:
        raise ValueError("the grids of a collection have one shape")
    stacked = torch.stack([grid.float() for grid in grids])
    mask = torch.stack([foreground(grid) for grid in stacked])
    start = torch.stack([object_coordinates(m) for m in mask])
    n = len(stacked)
    matches: dict[tuple[int, int], PseudoMatches] = {}
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    for done, (i, j) in enumerate(pairs):
        progress("pseudo-matches", done, len(pairs))
        found = pseudo_matches(stacked[i], stacked[j], mask[i], mask[j])
        if len(found.cells0) >= 2:
            matches[i, j] = found
    progress("pseudo-matches", len(pairs), len(pairs))
    return Collection(stacked, mask, start, matches)


def pseudo_matches(
    grid0: Float[Tensor, "c h w"], grid1: Float[Tensor, "c h w"], mask0: Bool[Tensor, "h w"], mask1: Bool[Tensor, "h w"]
) -> PseudoMatches:
    """Mutual nearest neighbours over the whole pictures of which both ends are in the object."""
    width = grid0.shape[2]
    ends0, ends1, cosines = mutual_cells(grid0, grid1)
    cells0, cells1 = ((ends[:, 1] * width + ends[:, 0]).long() for ends in (ends0, ends1))
    keep = mask0.flatten()[cells0] & mask1.flatten()[cells1]
    return PseudoMatches(cells0[keep], cells1[keep], cosines[keep])
