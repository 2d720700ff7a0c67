"""The view graph: which photos to match, which verified pairs to believe, where it is too thin to map."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from vision3d.core import Correspondences
from vision3d.recon.retrieval import RetrievalConfig, global_descriptors, neighbour_pairs
from vision3d.recon.tracks import Pair
from vision3d.recon.verification import TwoViewGeometry


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig:
    """exhaustive_up_to: photos up to which all pairs are matched."""

    exhaustive_up_to: int = 60
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinConfig:
    """A photo is thin below `min_links` matches in all to its `neighbours` best partners; pairs below
    `min_inliers` do not connect groups."""

    min_inliers: int = 30
    neighbours: int = 2
    min_links: int = 120


@dataclass(frozen=True, slots=True)
class VerifiedPair:
    """Matches of a pair after verification: inliers only (px of the originals), or none and geometry.reason.

    putative: number of matches before verification.
    """

    matches: Correspondences
    geometry: TwoViewGeometry
    putative: int

    @classmethod
    def of(cls, matches: Correspondences, geometry: TwoViewGeometry) -> VerifiedPair:
        """From all matches of a pair and the outcome of verify_pair."""
        return cls(matches.select(geometry.inliers), geometry, len(matches))

    @property
    def accepted(self) -> bool:
        """Whether the pair may be used."""
        return self.geometry.kind != "rejected" and len(self.matches) > 0

    @property
    def inlier_ratio(self) -> float:
        """Inliers per match that was tested: low where structure repeats."""
        return len(self.matches) / self.putative if self.putative else 0.0


@dataclass(frozen=True, slots=True)
class ThinGraph:
    """pairs: those worth the cost of a stronger matcher; reason: why the graph is thin, None if it is not."""

    pairs: tuple[Pair, ...]
    reason: str | None


def select_pairs(
    names: Sequence[str],
    descriptors: Sequence[Float[Tensor, "_ d"]] | None = None,
    config: PairConfig | None = None,
) -> list[Pair]:
    """Pairs of photos to match, names sorted within a pair: all for small sets, else by appearance.

    descriptors: local descriptors per photo, strongest first; needed beyond `exhaustive_up_to` photos.
    """
    config = config or PairConfig()
    if len(names) <= config.exhaustive_up_to:
        return sorted(itertools.combinations(sorted(names), 2))
    if descriptors is None or len(descriptors) != len(names):
        given = 0 if descriptors is None else len(descriptors)
        raise ValueError(f"{len(names)} photos need their local descriptors to choose pairs, got those of {given}")
    found = neighbour_pairs(global_descriptors(descriptors, config.retrieval), config.retrieval)
    return sorted((min(names[i], names[j]), max(names[i], names[j])) for i, j in found)


def graph_is_thin(
    names: Sequence[str], pairs: Mapping[Pair, VerifiedPair], config: ThinConfig | None = None
) -> ThinGraph:
    """Whether too few verified matches link the photos, and which pairs a stronger matcher should try."""
    config = config or ThinConfig()
    strength = {pair: len(p.matches) for pair, p in pairs.items() if p.accepted}
    strong = [pair for pair, n in strength.items() if n >= config.min_inliers]
    groups = components(names, strong)
    need = min(config.neighbours, len(names) - 1)
    thin = []
    for name in names:
        links = sorted((n for pair, n in strength.items() if name in pair), reverse=True)[:need]
        if sum(links) < config.min_links or len(links) < need:
            thin.append(name)
    if len(groups) == 1 and not thin:
        return ThinGraph((), None)
    group_of = {name: k for k, group in enumerate(groups) for name in group}
    every = itertools.combinations(sorted(names), 2)
    wanted = tuple(p for p in every if p[0] in thin or p[1] in thin or group_of[p[0]] != group_of[p[1]])
    parts = []
    if len(groups) > 1:
        parts.append(f"{len(groups)} groups of photos without a link of {config.min_inliers} matches")
    if thin:
        parts.append(f"{len(thin)} of {len(names)} photos with fewer than {config.min_links} matches to neighbours")
    return ThinGraph(wanted, " and ".join(parts))


def components(names: Iterable[str], pairs: Iterable[Pair]) -> list[tuple[str, ...]]:
    """Connected groups of photos, largest first (ties: by name), names sorted."""
    parent = {name: name for name in names}

    def find(a: str) -> str:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    for a, b in pairs:
        parent[find(a)] = find(b)
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(find(name), []).append(name)
    return sorted((tuple(sorted(g)) for g in groups.values()), key=lambda g: (-len(g), g))


def pair_confidence(pair: VerifiedPair) -> float:
    """How far to trust a pair: number of inliers (to 200) times the squared inlier ratio.

    Repeated structure gives coherent wrong inliers, but among many outliers: on temple-sparse-ring true pairs keep 0.7
    to 1.0 of the matches, look-alike pairs 0.2 to 0.7.
    """
    return min(len(pair.matches), 200) * pair.inlier_ratio**2


def pruned(pairs: Mapping[Pair, VerifiedPair], min_ratio: float) -> frozenset[Pair]:
    """Accepted pairs with an inlier ratio of at least min_ratio, and a maximum spanning forest by confidence.

    The forest keeps what is connected connected, by the most trustworthy pairs.
    """
    accepted = {pair: p for pair, p in pairs.items() if p.accepted}
    keep = {pair for pair, p in accepted.items() if p.inlier_ratio >= min_ratio}
    parent = {name: name for pair in accepted for name in pair}

    def find(a: str) -> str:
        while parent[a] != a:
            a = parent[a]
        return a

    for pair in sorted(accepted, key=lambda q: (-pair_confidence(accepted[q]), q)):
        a, b = find(pair[0]), find(pair[1])
        if a != b:
            parent[a] = b
            keep.add(pair)
    return frozenset(keep)
