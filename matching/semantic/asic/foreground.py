"""The object of a picture, without labels: what differs from the features along the picture's border.

Stands for the co-segmentation of ASIC, section 3.1, which needs the attention maps of a transformer: W. Zhu et al.,
"Saliency Optimization from Robust Background Detection", CVPR 2014 (the border is mostly background), made smooth along
similar features, and cut where N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979, puts it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BORDER_CELLS = 30  # most similar ones of the border that a cell is compared with
SPREADING = 10  # rounds
SHARPNESS = 8  # power of the cosine between cells that share their saliency
REACH = 6.0  # cells
FLAT = 1e-4  # of saliency between the highest and the lowest cell: nothing stands out
KEPT = 0.1  # share of a cell's own saliency in every round


def saliency(grid: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """How much cells differ from the border's, larger for more. grid: unit vectors along c."""
    _, h, w = grid.shape
    flat = grid.flatten(1)
    edge = torch.zeros(h, w, dtype=torch.bool)
    edge[[0, -1]] = True
    edge[:, [0, -1]] = True
    index = edge.flatten().nonzero()[:, 0]
    cosines = flat.T @ flat[:, index]
    cosines[index, torch.arange(len(index))] = -1.0  # a cell of the border is not its own neighbour
    nearest = cosines.topk(max(1, min(BORDER_CELLS, len(index) - 1)), dim=1).values
    differs = 1 - nearest.mean(dim=1)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = torch.stack([x, y], dim=-1).reshape(-1, 2).float()
    share = (flat.T @ flat).clamp(min=0) ** SHARPNESS * torch.exp(-(torch.cdist(places, places) ** 2) / (2 * REACH**2))
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1e-12)
    out = differs
    for _ in range(SPREADING):
        out = (1 - KEPT) * (share @ out) + KEPT * differs
    return out.reshape(h, w)


def foreground(grid: Float[Tensor, "c h w"]) -> Bool[Tensor, "h w"]:
    """The cells of the object; all of them where nothing stands out, as in a picture of one colour."""
    values = saliency(grid)
    if float(values.max() - values.min()) < FLAT:
        return torch.ones_like(values, dtype=torch.bool)
    mask = values > otsu(values.flatten())
    return mask if int(mask.sum()) >= 2 else torch.ones_like(mask)


def otsu(values: Float[Tensor, " n"]) -> float:
    """The threshold between two classes that differ most (largest variance between classes); above it is the second.

    Raises:
        ValueError: fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a threshold needs two values or more, got {n}")
    ordered = values.double().sort().values
    below = torch.arange(1, n, dtype=torch.float64)
    total = ordered.cumsum(0)
    mean0, mean1 = total[:-1] / below, (total[-1] - total[:-1]) / (n - below)
    best = int((below * (n - below) * (mean0 - mean1) ** 2).argmax())
    return float(ordered[best])


def object_coordinates(mask: Bool[Tensor, "h w"]) -> Float[Tensor, "2 h w"]:
    """(x, y) of every cell with the object's mean at 0 and its standard deviation along each axis at SPREAD."""
    h, w = mask.shape
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    cells = torch.stack([x, y])
    inside = cells[:, mask]
    spread = inside.std(dim=1, correction=0) + 1
    centred = cells - inside.mean(dim=1)[:, None, None]
    return centred / spread[:, None, None] * SPREAD


SPREAD = 0.35  # an object of even width then reaches from -0.6 to 0.6 of the canonical space
