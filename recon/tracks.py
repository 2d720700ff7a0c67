"""Multi-view tracks from the matches of any matcher, sparse, semi-dense or dense.

Pairwise matchers return other points in a photo for every partner, so that no point is seen in more than two views.
Here the points of each photo are merged: strongest first, a point joins the strongest kept point within a radius
(the idea of hloc's quantised dense matches, Sarlin et al., CVPR 2019, without the grid). Tracks are then connected
components under the rule that a track holds at most one point per photo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from vision3d.core import Correspondences

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackConfig:
    """Settings of build_tracks. merge_radius_px: px of the originals, per photo times `scales`."""

    merge_radius_px: float = 0.5


@dataclass(frozen=True, slots=True)
class TrackGraph:
    """Merged points per photo and the pairwise matches between them.

    points: px of the originals; matches: per pair an index into the points of either photo, one to one;
    track: per photo the track of each point, -1 where a conflict left it alone.
    """

    points: Mapping[str, Float[Tensor, "n 2"]]
    matches: Mapping[Pair, Int[Tensor, "m 2"]]
    track: Mapping[str, Int[Tensor, " n"]]
    num_tracks: int


def build_tracks(
    names: Sequence[str],
    pairs: Mapping[Pair, Correspondences],
    config: TrackConfig | None = None,
    scales: Mapping[str, float] | None = None,
) -> TrackGraph:
    """Merges the points of each photo over its pairs and links them. Deterministic; order of `pairs` is irrelevant.

    scales: per photo a factor on the merge radius (px of the original per px of the matcher's input), default 1.
    """
    config = config or TrackConfig()
    ordered = sorted(pairs)
    ends: dict[str, list[np.ndarray]] = {name: [np.zeros((0, 2))] for name in names}
    weights: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in names}
    for pair in ordered:
        matches = pairs[pair]
        score = matches.scores.detach().cpu().double().numpy()
        for name, end in zip(pair, (matches.points0, matches.points1), strict=True):
            ends[name].append(end.detach().cpu().double().numpy())
            weights[name].append(score)
    points: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for name in names:
        radius = config.merge_radius_px * (scales or {}).get(name, 1.0)
        points[name], labels[name] = merge_points(np.concatenate(ends[name]), np.concatenate(weights[name]), radius)
    cursor = dict.fromkeys(names, 0)
    matched: dict[Pair, np.ndarray] = {}
    strength: dict[Pair, np.ndarray] = {}
    for pair in ordered:
        n = len(pairs[pair])
        index = np.stack([labels[name][cursor[name] : cursor[name] + n] for name in pair], axis=1)
        for name in pair:
            cursor[name] += n
        score = pairs[pair].scores.detach().cpu().double().numpy()
        matched[pair], strength[pair] = _one_to_one(index, score)
    track, count = _union(points, matched, strength)
    return TrackGraph(
        {name: torch.from_numpy(p) for name, p in points.items()},
        {pair: torch.from_numpy(m) for pair, m in matched.items()},
        {name: torch.from_numpy(t) for name, t in track.items()},
        count,
    )


def merge_points(points: np.ndarray, weights: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Points kept ([k, 2]) and, per input point, the index of the kept point that it joined.

    Strength of a location is the sum of weights at it (to 0.01 px). A location joins the nearest kept one within
    `radius`; kept ones are chosen greedily, strongest first, so no two kept points are nearer than the radius.
    """
    if len(points) == 0:
        return np.zeros((0, 2)), np.zeros(0, dtype=np.int64)
    _, first, inverse = np.unique(
        np.round(points * 100).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    inverse = inverse.reshape(-1)
    unique = points[first]
    strength = np.bincount(inverse, weights + 1e-3, minlength=len(unique))
    if radius <= 0.01 or len(unique) == 1:
        return unique, inverse
    tree = cKDTree(unique)
    near = tree.query_ball_point(unique, radius)
    kept = np.zeros(len(unique), dtype=bool)
    covered = np.zeros(len(unique), dtype=bool)
    for i in np.lexsort((np.arange(len(unique)), -strength)):
        if not covered[i]:
            kept[i] = True
            covered[near[i]] = True
    index = np.flatnonzero(kept)
    _, nearest = cKDTree(unique[index]).query(unique)
    return unique[index], nearest[inverse].astype(np.int64)


def _one_to_one(index: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matches with each point once per side, the best-scored first (ties: the earlier point)."""
    used0: set[int] = set()
    used1: set[int] = set()
    keep: list[int] = []
    for k in np.lexsort((index[:, 1], index[:, 0], -score)):
        a, b = int(index[k, 0]), int(index[k, 1])
        if a not in used0 and b not in used1:
            used0.add(a)
            used1.add(b)
            keep.append(int(k))
    keep.sort()
    return index[keep].reshape(-1, 2).astype(np.int64), score[keep]


def _union(
    points: Mapping[str, np.ndarray], matched: Mapping[Pair, np.ndarray], strength: Mapping[Pair, np.ndarray]
) -> tuple[dict[str, np.ndarray], int]:
    """Union-find over matches, best first; a union that would put two points of one photo in a track is refused."""
    names = list(points)
    offset = dict(zip(names, np.cumsum([0] + [len(points[n]) for n in names])[:-1].tolist(), strict=True))
    total = sum(len(p) for p in points.values())
    parent = list(range(total))
    photos: list[set[int]] = [set() for _ in range(total)]
    for number, name in enumerate(names):
        for k in range(offset[name], offset[name] + len(points[name])):
            photos[k] = {number}

    def find(a: int) -> int:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    edges = [
        np.column_stack([m + np.array([offset[a], offset[b]]), np.full(len(m), rank)])
        for rank, ((a, b), m) in enumerate(sorted(matched.items()))
    ]
    scores = [strength[pair] for pair in sorted(matched)]
    if edges:
        edge, score = np.concatenate(edges), np.concatenate(scores)
        for k in np.lexsort((edge[:, 1], edge[:, 0], edge[:, 2], -score)):
            a, b = find(int(edge[k, 0])), find(int(edge[k, 1]))
            if a == b or photos[a] & photos[b]:
                continue
            if len(photos[a]) < len(photos[b]):
                a, b = b, a
            parent[b] = a
            photos[a] |= photos[b]
            photos[b] = set()
    roots = np.array([find(k) for k in range(total)], dtype=np.int64)
    sizes = np.bincount(roots, minlength=total) if total else np.zeros(0, dtype=np.int64)
    real = np.flatnonzero(sizes > 1)
    number_of = np.full(total, -1, dtype=np.int64)
    number_of[real] = np.arange(len(real))
    track = number_of[roots] if total else roots
    return {n: track[offset[n] : offset[n] + len(points[n])] for n in names}, len(real)
