"""The matchers by name; a matcher's module is imported when it is made, so that listing names costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vision3d.errors import UsageError

if TYPE_CHECKING:
    from vision3d.matching.base import Matcher


def _sift(**options: Any) -> Matcher:
    from vision3d.matching.classical import Sift

    return Sift(**options)


def _aliked_lightglue(**options: Any) -> Matcher:
    from vision3d.matching.learned_features import AlikedLightGlue

    return AlikedLightGlue(**options)


def _disk_lightglue(**options: Any) -> Matcher:
    from vision3d.matching.learned_features import DiskLightGlue

    return DiskLightGlue(**options)


def _xfeat_lighterglue(**options: Any) -> Matcher:
    from vision3d.matching.xfeat import XFeatLighterGlue

    return XFeatLighterGlue(**options)


def _xfeat_semidense(**options: Any) -> Matcher:
    from vision3d.matching.xfeat import XFeatSemiDense

    return XFeatSemiDense(**options)


def _eloftr(**options: Any) -> Matcher:
    from vision3d.matching.eloftr.matcher import EfficientLoFTRMatcher

    return EfficientLoFTRMatcher(**options)


def _dkm(*, max_size: int | None = None, **options: Any) -> Matcher:
    from vision3d.matching.dkm.matcher import DKMMatcher

    return DKMMatcher(**options)  # whatever size photos are loaded at, it resizes them to its setting's


MATCHERS: dict[str, Callable[..., Matcher]] = {
    "sift": _sift,
    "aliked-lightglue": _aliked_lightglue,
    "disk-lightglue": _disk_lightglue,
    "xfeat-lighterglue": _xfeat_lighterglue,
    "xfeat-semidense": _xfeat_semidense,
    "eloftr": _eloftr,
    "dkm": _dkm,
}

# Keys of vision3d.weights.WEIGHTS that a matcher loads.
MATCHER_WEIGHTS: dict[str, tuple[str, ...]] = {
    "sift": (),
    "aliked-lightglue": ("aliked-n16", "aliked-lightglue"),
    "disk-lightglue": ("disk-depth", "disk-lightglue"),
    "xfeat-lighterglue": ("xfeat", "xfeat-lighterglue"),
    "xfeat-semidense": ("xfeat",),
    "eloftr": ("efficientloftr",),
    "dkm": ("dkm-outdoor",),
}

# Matchers that a file of weights can be given to.
TAKE_WEIGHTS = ("eloftr", "dkm")


def make_matcher(name: str, **options: Any) -> Matcher:
    """The matcher called `name` (a key of MATCHERS) with its constructor's keyword options.

    UsageError for an unknown name; it lists the known ones. Networks are loaded at first use.
    """
    if name not in MATCHERS:
        raise UsageError(f"no matcher is called {name!r}; known: {', '.join(MATCHERS)}")
    return MATCHERS[name](**options)


def weights_on_disk(name: str) -> bool:
    """Whether the matcher `name` can run without fetching anything (its weights are on this machine)."""
    from vision3d.weights import find_weights

    if name not in MATCHER_WEIGHTS:
        raise UsageError(f"no matcher is called {name!r}; known: {', '.join(MATCHERS)}")
    return all(find_weights(weights) is not None for weights in MATCHER_WEIGHTS[name])


def weights_options(names: Sequence[str], weights: Path | None) -> dict[str, dict[str, Any]]:
    """Per matcher, the constructor's options that give a weights file to the one among `names` that takes one.

    Efficient LoFTR's compact network is known by its weights. UsageError: no file there, or none or two of the matchers
    take one. Vision3DError: the file cannot be read.
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    if weights is None:
        return options
    takers = [name for name in names if name in TAKE_WEIGHTS]
    if len(takers) != 1:
        raise UsageError(f"a weights file belongs to one of {', '.join(TAKE_WEIGHTS)}, asked for: {', '.join(names)}")
    if not weights.is_file():
        raise UsageError(f"the weights file {weights} does not exist")
    options[takers[0]]["weights"] = weights
    if takers[0] == "eloftr":
        from vision3d.matching.eloftr.checkpoint import is_compact

        options["eloftr"]["compact"] = is_compact(weights)
    return options
