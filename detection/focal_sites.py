"""Which sites a focal sparse convolution computes: important ones spread to the neighbours they ask for.

Chen et al., "Focal Sparse Convolutional Networks for 3D Object Detection", CVPR 2022, section 3.2: output sites are
the input sites and, around important ones, those whose cubic importance passes the threshold.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.core import Sites


@dataclass(frozen=True, slots=True)
class Spread:
    """sites: input sites and new ones, lexicographic. row_of: [n] where each input site is among them.

    asked_row: [k] for each request of an important site that hits an input site, that site's row; asked_by: [k 2] who
    asked: (row of the important site, neighbour).
    """

    sites: Sites
    row_of: Int[Tensor, " n"]
    asked_row: Int[Tensor, " k"]
    asked_by: Int[Tensor, "k 2"]


def neighbour_offsets(kernel_size: int) -> Int[Tensor, "k 3"]:
    """(z, y, x) of all neighbours in a cube without its centre, lexicographic: the order of the importance channels."""
    reach = kernel_size // 2
    steps = list(itertools.product(range(-reach, reach + 1), repeat=3))
    return torch.tensor([step for step in steps if step != (0, 0, 0)])


def choose_important(
    importance: Float[Tensor, " n"], indices: Int[Tensor, "n 4"], batch_size: int, top_share: float | None, least: float
) -> Bool[Tensor, " n"]:
    """Of each grid of the batch the share `top_share` with the highest importance (ties: the earlier row), rounded
    down; with None those above `least`."""
    if top_share is None:
        return importance > least
    chosen = torch.zeros_like(importance, dtype=torch.bool)
    for b in range(batch_size):
        rows = (indices[:, 0] == b).nonzero()[:, 0]
        order = torch.sort(importance[rows], descending=True, stable=True).indices
        chosen[rows[order[: int(len(rows) * top_share)]]] = True
    return chosen


def spread(sites: Sites, important: Bool[Tensor, " n"], wanted: Bool[Tensor, "n k"], kernel_size: int) -> Spread:
    """The output sites: wanted says which neighbours (see `neighbour_offsets`) each site asks for; only important
    sites are heard, and only for neighbours inside the grid.

    Raises:
        ValueError: a grid too large for 63-bit numbers of sites.
    """
    if math.prod(sites.extents) >= 2**63:
        raise ValueError(f"a batch of grids {sites.extents} has too many sites to number them")
    indices = sites.indices.long()
    offsets = neighbour_offsets(kernel_size).to(indices.device)
    asked_by = (wanted & important[:, None]).nonzero()
    target = indices[asked_by[:, 0]].clone()
    target[:, 1:] += offsets[asked_by[:, 1]]
    limits = torch.tensor(sites.spatial_shape, device=indices.device)
    inside = ((target[:, 1:] >= 0) & (target[:, 1:] < limits)).all(1)
    target, asked_by = target[inside], asked_by[inside]
    factors = torch.tensor([math.prod(sites.extents[i + 1 :]) for i in range(4)], device=indices.device)
    keys, asked = (indices * factors).sum(1), (target * factors).sum(1)
    every = torch.unique(torch.cat([keys, asked]))
    row_of = torch.searchsorted(every, keys)
    source = torch.full_like(every, -1)
    source[row_of] = torch.arange(len(keys), device=keys.device)
    hit = source[torch.searchsorted(every, asked)]
    columns = [every // factors[i] % sites.extents[i] for i in range(4)]
    united = Sites(torch.stack(columns, 1).to(sites.indices.dtype), sites.spatial_shape, sites.batch_size)
    return Spread(united, row_of, hit[hit >= 0], asked_by[hit >= 0])
