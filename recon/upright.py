"""Which quarter turn makes each photo stand the way the others do, from orientations of matched features.

Learned features fail across large in-plane rotations; SIFT does not. The difference of the orientations of matched
SIFT points is the relative turn of two photos, and turns are made consistent over all pairs (synchronisation over the
cyclic group Z4, by coordinate ascent from spanning-tree starts; compare Singer, "Angular synchronization", 2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.matching.base import Features, Matches


@dataclass(frozen=True, slots=True, kw_only=True)
class UprightConfig:
    """min_votes: matches that must agree on a turn before a pair counts; min_share: their share of the pair."""

    min_votes: int = 10
    min_share: float = 0.6


def turn_votes(
    features0: Features, features1: Features, matches: Matches, inliers: Bool[Tensor, " m"] | None = None
) -> Float[Tensor, " 4"]:
    """How many matches say that photo 1 shows things turned by k quarter turns (x towards y) against photo 0."""
    indices = matches.indices if inliers is None else matches.indices[inliers]
    difference = features1.angles[indices[:, 1]] - features0.angles[indices[:, 0]]
    quarter = torch.round(difference.double() / (math.pi / 2)).long() % 4
    return torch.bincount(quarter, minlength=4).double()


def upright_turns(
    names: Sequence[str], votes: Mapping[tuple[str, str], Float[Tensor, " 4"]], config: UprightConfig | None = None
) -> dict[str, int]:
    """Per photo k in {0, 1, 2, 3}: its content is turned by k quarter turns, x towards y (clockwise as displayed).

    Turning the pixels back by k * 90 degrees counter-clockwise (`torch.rot90(rgb, k, (1, 2))`) makes all photos agree.
    The turn that most photos have in each connected group counts as upright (k = 0): nothing is known about the true
    vertical. Photos without a trustworthy pair get 0.
    """
    config = config or UprightConfig()
    index = {name: i for i, name in enumerate(names)}
    n = len(names)
    weight = np.zeros((n, n, 4))
    for (a, b), vote in votes.items():
        v = vote.detach().cpu().double().numpy()
        if v.max(initial=0.0) < config.min_votes or v.max() < config.min_share * v.sum():
            continue
        i, j = index[a], index[b]
        weight[i, j] += v
        weight[j, i] += v[[0, 3, 2, 1]]
    turns = np.zeros(n, dtype=np.int64)
    for group in _components(weight.sum(axis=2)):
        if len(group) > 1:
            turns[group] = _synchronise(weight[np.ix_(group, group)])
    return {name: int(turns[i]) for name, i in index.items()}


def _synchronise(weight: np.ndarray) -> np.ndarray:
    """Turns that agree with most votes: a maximum spanning tree as start, then one photo at a time."""
    n = len(weight)
    best = weight.max(axis=2)
    turns = np.full(n, -1, dtype=np.int64)
    turns[int(best.sum(axis=1).argmax())] = 0
    while (turns < 0).any():
        reach = np.where((turns >= 0)[:, None] & (turns < 0)[None, :], best, -1.0)
        old, new = divmod(int(reach.argmax()), n)
        turns[new] = (turns[old] + int(weight[old, new].argmax())) % 4
    for _ in range(20):
        before = turns.copy()
        for i in range(n):
            gain = [sum(weight[j, i, (c - turns[j]) % 4] for j in range(n) if j != i) for c in range(4)]
            turns[i] = int(np.argmax(gain))
        if (before == turns).all():
            break
    counts = np.bincount(turns, minlength=4)
    result: np.ndarray = (turns - int(counts.argmax())) % 4
    return result


def _components(weight: np.ndarray) -> list[np.ndarray]:
    """Connected groups of photos, each as sorted indices."""
    n = len(weight)
    seen = np.zeros(n, dtype=bool)
    groups: list[np.ndarray] = []
    for start in range(n):
        if seen[start]:
            continue
        stack, group = [start], []
        seen[start] = True
        while stack:
            i = stack.pop()
            group.append(i)
            for j in np.flatnonzero((weight[i] > 0) & ~seen):
                seen[j] = True
                stack.append(int(j))
        groups.append(np.array(sorted(group)))
    return groups
