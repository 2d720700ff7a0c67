"""The semantic matchers by name; a module is imported when its matcher is made, so that listing names costs nothing.

A name may end in options: NAME[:SOURCE],rule=soft,flip,size=384. They are part of the name wherever one is written
down, so that results with other options are never taken for these.
"""

from __future__ import annotations

import inspect
import re
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


# Which options a matcher's name may end in; a head and a student know their size from their weights.
_RULES, _ALL = ("rule", "flip"), ("rule", "flip", "size")
OPTIONS: dict[str, tuple[str, ...]] = {
    "efficientnet-lite0": _ALL,
    "xfeat-dense": _ALL,
    "torchvision": _ALL,
    "timm": _ALL,
    "head": _RULES,
    "student": _RULES,
    "asic": ("size",),
    "asic-canonical": ("size",),
}
_OPTION = re.compile(r"(rule|flip|size)(?:=([^,=]*))?")


def with_options(name: str, *, rule: str | None = None, flip: bool = False, size: int | None = None) -> str:
    """The name with these options at its end. UsageError for what it has already, or its matcher does not take."""
    added = [f"rule={rule}"] * (rule is not None) + ["flip"] * flip + [f"size={size}"] * (size is not None)
    full = ",".join([name, *added])
    split_name(full)
    return full


def split_name(name: str) -> tuple[str, dict[str, str]]:
    """NAME[:SOURCE] and its options by name. UsageError for an option that is repeated, empty or not the matcher's."""
    base, *rest = name.split(",")
    options: dict[str, str] = {}
    while rest and not _OPTION.fullmatch(rest[0]):  # a comma in a file's name
        base += f",{rest.pop(0)}"
    key = base.partition(":")[0]
    for text in rest:
        match = _OPTION.fullmatch(text)
        if match is None or (match[2] is None) != (match[1] == "flip"):
            raise UsageError(f"options are rule=RULE, flip and size=PX, got {text or 'nothing'} in {name}")
        if match[1] in options:
            raise UsageError(f"{name} says {match[1]} twice")
        if key in SEMANTIC_MATCHERS and match[1] not in OPTIONS.get(key, ()):
            takes = " and ".join(OPTIONS.get(key, ())) or "no options"
            raise UsageError(f"the semantic matcher {key} takes {takes}, not {match[1]}")
        options[match[1]] = match[2] or ""
    return base, options


def make_semantic_matcher(name: str, **options: Any) -> SemanticMatcher:
    """The matcher called `name` (a key of SEMANTIC_MATCHERS) with its constructor's keyword options.

    A matcher whose constructor has the parameter `source` is named NAME:SOURCE (files it needs; ASIC's seed). The name
    may end in options (see above), which `options` may not repeat.
    UsageError for an unknown name (it lists the known ones), for a source that is missing or not wanted, and for
    options that the matcher does not take or know. Networks are loaded at first use.
    """
    name, chosen = split_name(name)
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
    return SEMANTIC_MATCHERS[key](**options, **_from_name(chosen, options))


def _from_name(chosen: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    """The constructor's keyword options that a name's options stand for. UsageError for values that make no sense."""
    out: dict[str, Any] = {}
    if "size" in chosen:
        if not (chosen["size"].isascii() and chosen["size"].isdigit()):
            raise UsageError(f"size is a whole number of px, got {chosen['size'] or 'nothing'}")
        out["size"] = int(chosen["size"])
    if "rule" in chosen or "flip" in chosen:
        from vision3d.matching.semantic.frozen import TransferConfig
        from vision3d.matching.semantic.transfer import RULES

        rule: Any = chosen.get("rule", TransferConfig().rule)
        if rule not in RULES:
            raise UsageError(f"the rule is one of {', '.join(RULES)}, got {rule or 'nothing'}")
        out["transfer"] = TransferConfig(rule=rule, flip="flip" in chosen)
    if set(out) & set(options):
        raise UsageError(f"{' and '.join(sorted(set(out) & set(options)))} given twice: by name and by value")
    return out
