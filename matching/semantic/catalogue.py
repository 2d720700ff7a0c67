"""The semantic matchers by name; a module is imported when its matcher is made, so that listing names costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vision3d.errors import UsageError

if TYPE_CHECKING:
    from vision3d.matching.semantic.base import SemanticMatcher


def _position(**options: Any) -> SemanticMatcher:
    from vision3d.matching.semantic.position import Position

    return Position(**options)


def _efficientnet(**options: Any) -> SemanticMatcher:
    from vision3d.matching.semantic.backbones import EfficientNetBackbone
    from vision3d.matching.semantic.frozen import FrozenFeatures

    return FrozenFeatures(EfficientNetBackbone(), **options)


def _xfeat_dense(**options: Any) -> SemanticMatcher:
    from vision3d.matching.semantic.backbones import XFeatBackbone
    from vision3d.matching.semantic.frozen import FrozenFeatures

    return FrozenFeatures(XFeatBackbone(), **options)


SEMANTIC_MATCHERS: dict[str, Callable[..., SemanticMatcher]] = {
    "position": _position,
    "efficientnet-lite0": _efficientnet,
    "xfeat-dense": _xfeat_dense,
}


def make_semantic_matcher(name: str, **options: Any) -> SemanticMatcher:
    """The matcher called `name` (a key of SEMANTIC_MATCHERS) with its constructor's keyword options.

    `NAME:TEXT` gives TEXT to the constructor as `source`: the files of a matcher that has to be told where they are.
    UsageError for an unknown name; it lists the known ones. Networks are loaded at first use.
    """
    key, colon, source = name.partition(":")
    if key not in SEMANTIC_MATCHERS:
        raise UsageError(f"no semantic matcher is called {key!r}; known: {', '.join(SEMANTIC_MATCHERS)}")
    if colon:
        options["source"] = source
    try:
        return SEMANTIC_MATCHERS[key](**options)
    except TypeError as error:
        if "source" not in str(error):
            raise
        raise UsageError(
            f"semantic matcher {key!r} takes no file" if colon else f"semantic matcher {key!r} is named {key}:FILE"
        ) from None
