"""Which photos look alike: VLAD descriptors from local features and a nearest-neighbour graph, without weights.

Vector of locally aggregated descriptors (Jegou et al., CVPR 2010) with intra-normalisation (Arandjelovic and
Zisserman, CVPR 2013). The vocabulary is learned on the photos themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalConfig:
    """words: size of the vocabulary; features_per_photo: strongest ones used; neighbours: nearest photos of each;
    second_neighbours: nearest of the neighbours' neighbours added per photo. Pairs grow linearly with photos."""

    words: int = 48
    features_per_photo: int = 512
    training_features: int = 30000
    iterations: int = 12
    neighbours: int = 20
    second_neighbours: int = 10
    seed: int = 0


def global_descriptors(
    local: Sequence[Float[Tensor, "_ d"]], config: RetrievalConfig | None = None
) -> Float[Tensor, "n k"]:
    """One unit vector per photo from its local descriptors (strongest first); zero for a photo without features."""
    config = config or RetrievalConfig()
    used = [torch.nn.functional.normalize(d[: config.features_per_photo].float(), dim=1) for d in local]
    dim = next((d.shape[1] for d in used if d.numel()), 1)
    everything = torch.cat([d for d in used if d.numel()] or [torch.zeros(0, dim)])
    out = torch.zeros(len(used), config.words * dim)
    if len(everything) == 0:
        return out
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(everything), generator=generator)[: config.training_features]
    words = _k_means(everything[chosen], min(config.words, len(chosen)), config.iterations)
    for i, descriptors in enumerate(used):
        if descriptors.numel() == 0:
            continue
        nearest = (descriptors @ words.T - 0.5 * words.square().sum(dim=1)).argmax(dim=1)
        residual = torch.zeros(config.words, dim).index_add_(0, nearest, descriptors - words[nearest])
        residual = torch.nn.functional.normalize(residual, dim=1)
        out[i] = torch.nn.functional.normalize(residual.flatten(), dim=0)
    return out


def neighbour_pairs(descriptors: Float[Tensor, "n k"], config: RetrievalConfig | None = None) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, sorted: each photo with its nearest ones and the nearest among their neighbours."""
    config = config or RetrievalConfig()
    n = len(descriptors)
    pairs: set[tuple[int, int]] = set()
    if n < 2:
        return []
    k = min(config.neighbours, n - 1)
    ranked: list[list[int]] = []
    for start in range(0, n, 256):
        similarity = descriptors[start : start + 256] @ descriptors.T
        rows = torch.arange(len(similarity))
        similarity[rows, rows + start] = -2.0
        order = torch.argsort(similarity, dim=1, descending=True, stable=True)
        ranked.extend(order[:, : min(n - 1, 8 * k)].tolist())
    nearest = [row[:k] for row in ranked]
    for i in range(n):
        rank = {j: r for r, j in enumerate(ranked[i])}
        second = {c for j in nearest[i] for c in nearest[j]} - set(nearest[i]) - {i}
        closest = sorted(second, key=lambda c: (rank.get(c, n), c))
        for j in [*nearest[i], *closest[: config.second_neighbours]]:
            pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def _k_means(points: Float[Tensor, "n d"], k: int, iterations: int) -> Float[Tensor, "k d"]:
    """Lloyd's algorithm from the first k points (they come shuffled); empty clusters keep their centre."""
    centers = points[:k].clone()
    for _ in range(iterations):
        label = torch.cat(
            [(c @ centers.T - 0.5 * centers.square().sum(1)).argmax(1) for c in torch.split(points, 8192)]
        )
        sums = torch.zeros_like(centers).index_add_(0, label, points)
        counts = torch.bincount(label, minlength=k).to(points.dtype)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
    return centers
