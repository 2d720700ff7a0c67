"""The semantic matchers by name; a module is imported when its matcher is made, so that listing names costs nothing."""

from __future__ import annotations

import inspect
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


def _torchvision(source: str, **options: Any) -> SemanticMatcher:
    from vision3d.matching.semantic.frozen import FrozenFeatures
    from vision3d.matching.semantic.local_backbones import TorchvisionBackbone, fitting_size

    backbone = TorchvisionBackbone(source)
    return FrozenFeatures(backbone, **{"size": fitting_size(backbone.multiple), **options})


def _timm(source: str, **options: Any) -> SemanticMatcher:
    from vision3d.matching.semantic.frozen import FrozenFeatures
    from vision3d.matching.semantic.local_backbones import TimmBackbone, fitting_size

    backbone = TimmBackbone(source)
    return FrozenFeatures(backbone, **{"size": fitting_size(backbone.multiple), **options})


def _head(source: str, **options: Any) -> SemanticMatcher:
    from pathlib import Path

    from vision3d.matching.semantic.trained_head import trained_head

    return trained_head(Path(source), **options)


def _student(source: str, **options: Any) -> SemanticMatcher:
    from pathlib import Path

    from vision3d.matching.semantic.student import trained_student

    return trained_student(Path(source), **options)


def _asic(source: str = "0", **options: Any) -> SemanticMatcher:
    from vision3d.matching.semantic.asic.config import AsicConfig
    from vision3d.matching.semantic.asic.matcher import AsicMatcher
    from vision3d.matching.semantic.backbones import EfficientNetBackbone

    if not (source.isascii() and source.isdigit()):
        raise UsageError(f"after asic: stands the seed, a number, got {source}")
    return AsicMatcher(EfficientNetBackbone(), AsicConfig(seed=int(source)), **options)


def _asic_canonical(source: str = "0", **options: Any) -> SemanticMatcher:
    return _asic(source, guided=False, **options)


SEMANTIC_MATCHERS: dict[str, Callable[..., SemanticMatcher]] = {
    "position": _position,
    "efficientnet-lite0": _efficientnet,
    "xfeat-dense": _xfeat_dense,
    "torchvision": _torchvision,
    "timm": _timm,
    "head": _head,
    "student": _student,
    "asic": _asic,
    "asic-canonical": _asic_canonical,
}


def make_semantic_matcher(name: str, **options: Any) -> SemanticMatcher:
    """The matcher called `name` (a key of SEMANTIC_MATCHERS) with its constructor's keyword options.

    A matcher whose constructor has the parameter `source` is named NAME:SOURCE (files it needs; ASIC's seed).
    UsageError for an unknown name (it lists the known ones), and for a source that is missing or not wanted. Networks
    are loaded at first use.
    """
    key, _, source = name.partition(":")
    if key not in SEMANTIC_MATCHERS:
        raise UsageError(f"no semantic matcher is called {key!r}; known: {', '.join(SEMANTIC_MATCHERS)}")
    parameter = inspect.signature(SEMANTIC_MATCHERS[key]).parameters.get("source")
    if source and parameter is None:
        raise UsageError(f"the semantic matcher {key} takes nothing after a colon, got {name}")
    if source:
        options["source"] = source
    elif parameter is not None and parameter.default is inspect.Parameter.empty:
        raise UsageError(
            f"the semantic matcher {key} needs its files: name it {key}:SOURCE, see matching/semantic/README.md"
        )
    return SEMANTIC_MATCHERS[key](**options)
