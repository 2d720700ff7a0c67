"""Why photos have no pose, in words for the person who took them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vision3d.recon.tracks import Pair
from vision3d.recon.view_graph import VerifiedPair, components


def reasons_left_out(
    names: Iterable[str], pairs: Mapping[Pair, VerifiedPair], registered: frozenset[str]
) -> dict[str, str]:
    """One reason per photo that is not in `registered`."""
    everyone = sorted(names)
    linked = [pair for pair, p in pairs.items() if p.accepted]
    group_of = {name: group for group in components(everyone, linked) for name in group}
    return {name: _reason(name, pairs, group_of[name], registered) for name in everyone if name not in registered}


def _reason(name: str, pairs: Mapping[Pair, VerifiedPair], group: tuple[str, ...], registered: frozenset[str]) -> str:
    mine = {_other(pair, name): p for pair, p in pairs.items() if name in pair}
    accepted = {other: p for other, p in mine.items() if p.accepted}
    if not mine:
        return "it was matched with no other photo"
    if not accepted:
        other = max(sorted(mine), key=lambda o: mine[o].putative)
        return f"no other photo shows the same thing: best partner {other}, {mine[other].geometry.reason}"
    if not registered:
        other = max(sorted(accepted), key=lambda o: len(accepted[o].matches))
        kinds = {p.geometry.kind for p in accepted.values()}
        if kinds <= {"panoramic", "identical"}:
            return "the camera only turned or did not move between the photos: take photos from different places"
        return f"no pair of photos could start a reconstruction: best partner {other}, {_count(accepted[other])}"
    if not set(group) & registered:
        others = ", ".join(n for n in group if n != name)
        return f"it is only linked to {others}, which have no verified matches with the rest"
    close = {other: p for other, p in accepted.items() if other in registered}
    if not close:
        return "it is only linked to photos that were left out themselves: " + ", ".join(sorted(accepted))
    other = max(sorted(close), key=lambda o: len(close[o].matches))
    return f"its matches do not fit one place: {_count(close[other])} with {other}, but too few agree with the points"


def _other(pair: Pair, name: str) -> str:
    return pair[1] if pair[0] == name else pair[0]


def _count(pair: VerifiedPair) -> str:
    return f"{len(pair.matches)} verified matches"
