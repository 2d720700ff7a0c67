"""Settings: frozen, keyword-only dataclasses, read from YAML without accepting an unknown key, overridden by flags."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from vision3d.errors import UsageError

T = TypeVar("T")


def load_config(cls: type[T], path: Path | str, section: Sequence[str] = ()) -> T:
    """The settings in a YAML file; fields it leaves out take their defaults.

    section: keys of nested mappings that lead to the settings, such as ("settings", "detector").

    UsageError, in one line with file and key, for an unreadable file, an unknown, repeated or missing key, or a value
    of the wrong kind.
    """
    values = read_yaml(path)
    for depth, key in enumerate(section, 1):
        inner = values.get(key)
        if not isinstance(inner, dict):
            raise UsageError(f"{path}: has no settings under {'.'.join(section[:depth])}")
        values = inner
    return _validate(cls, values, Path(path))


def dump_config(config: object) -> str:
    """YAML that `load_config` reads back to an equal object, fields in the order of the class."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected a dataclass instance, got {type(config).__name__}")
    values = TypeAdapter(type(config)).dump_python(config, mode="json")
    text = str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))
    if yaml.safe_load(text) == values:
        return text
    # Some line breaks of Unicode do not survive unescaped.
    return str(yaml.safe_dump(values, sort_keys=False, width=120))


def parse(
    cls: type[T],
    args: Sequence[str],
    *,
    config_file: Path | str | None = None,
    prog: str | None = None,
    text: str | None = None,
) -> T:
    """Settings from flags; with a file (`config_file`, or `--config FILE` among the flags) the flags override it.

    A required field may stand in either. Wrong flags print a message and exit with code 2, as `--help` does with 0.
    """
    import tyro

    args = list(args)
    if not any(field.name == "config" for field in _fields(cls)):
        config_file, args = _take_config_flag(args, config_file)
        text = f"{text or ''}\n\n--config FILE reads the settings from a YAML file first; flags override it.".strip()
    if config_file is None:
        return tyro.cli(cls, args=args, prog=prog, description=text)
    return tyro.cli(cls, args=args, prog=prog, description=text, default=_partial(cls, Path(config_file)))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping. UsageError for anything else."""
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeySafeLoader)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}, give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file, give the path of a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected `key: value` lines, got {_kind(content)}")
    return content


class _UniqueKeySafeLoader(yaml.SafeLoader):
    """Plain YAML takes the last of two equal keys in silence; this one refuses."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _validate(cls: type[T], values: Mapping[str, Any], path: Path) -> T:
    classes = list(_dataclasses_in(cls, set()))
    for reached in classes:
        # Without this pydantic drops unknown keys of a dataclass in silence; TypeAdapter cannot be told from outside.
        if "__pydantic_config__" not in vars(reached):
            reached.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        known = {name for reached in classes for name in _key_paths(reached)}
        lines = [_explain(entry, known) for entry in error.errors(include_url=False)]
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise UsageError(f"{path}: {'; '.join(lines[:3])}{more}") from None


def _explain(entry: Any, known: set[str]) -> str:
    """One of pydantic's errors in a few words."""
    loc = [str(part) for part in entry["loc"]]
    key = ".".join(loc)
    if entry["type"] == "unexpected_keyword_argument":
        close = difflib.get_close_matches(loc[-1], known, n=1, cutoff=0.6)
        hint = f", did you mean {close[0]!r}?" if close else ""
        return f"unknown key {key!r}{hint}"
    if entry["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"key {key!r} is missing"
    message = entry["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if entry["type"] in ("value_error", "assertion_error"):
        return f"key {key!r}: {message}" if key else message
    return f"key {key!r} should be {message}, got {_kind(entry['input'])}"


def _kind(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def _take_config_flag(args: list[str], config_file: Path | str | None) -> tuple[Path | str | None, list[str]]:
    """Removes `--config FILE` or `--config=FILE` from the flags."""
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return config_file, [*rest, word, *words]
        if word == "--config":
            config_file = next(words, None)
            if config_file is None:
                raise UsageError("--config needs the path of a YAML file")
        elif word.startswith("--config="):
            config_file = word.removeprefix("--config=")
        else:
            rest.append(word)
    return config_file, rest


def _partial(cls: type[T], path: Path) -> T:
    """An instance as default for the flags, where required fields that the file lacks are marked as missing."""
    values = read_yaml(path)
    return _filled(cls, _validate(_loose(cls, values), values, path), values)


def _loose(cls: type, values: Mapping[str, Any]) -> type:
    """The same class without what the file leaves out, so that nothing is required; unknown keys are still refused."""
    hints = get_type_hints(cls, include_extras=True)
    given, absent = [], []
    for field in _fields(cls):
        if field.name not in values:
            absent.append((field.name, hints[field.name], dataclasses.field(default=None)))
            continue
        part, value = hints[field.name], values[field.name]
        given.append((field.name, _loose(part, value) if _lacks(part, value) else part))
    return dataclasses.make_dataclass(cls.__name__, [*given, *absent], kw_only=True, frozen=True)


def _filled(cls: type[T], checked: object, values: Mapping[str, Any]) -> T:
    """What was checked as the loose class, as an instance of the class itself."""
    import tyro

    hints = get_type_hints(cls, include_extras=True)
    instance = object.__new__(cls)
    for field in _fields(cls):
        part, value = hints[field.name], values.get(field.name, {})
        filled: object
        if _lacks(part, value) if field.name in values else _required(field) and dataclasses.is_dataclass(part):
            filled = _filled(part, getattr(checked, field.name, None), value)
        elif field.name in values:
            filled = getattr(checked, field.name)
        elif field.default is not dataclasses.MISSING:
            filled = field.default
        elif field.default_factory is not dataclasses.MISSING:
            filled = field.default_factory()
        else:
            filled = tyro.MISSING
        object.__setattr__(instance, field.name, filled)
    return instance


def _lacks(part: Any, value: object) -> bool:
    """Whether a part of the settings, as the file gives it, leaves out required fields."""
    if not (isinstance(part, type) and dataclasses.is_dataclass(part) and isinstance(value, dict)):
        return False
    hints = get_type_hints(part, include_extras=True)
    return any(_lacks(hints[f.name], value[f.name]) if f.name in value else _required(f) for f in _fields(part))


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"settings are dataclasses, {cls.__name__} is not one")
    return tuple(field for field in dataclasses.fields(cls) if field.init)


def _key_paths(cls: type) -> list[str]:
    return [field.name for field in _fields(cls)]


def _dataclasses_in(annotation: Any, seen: set[Any]) -> Iterator[type]:
    """Every dataclass in an annotation, through fields, unions and containers."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        if annotation in seen:
            return
        seen.add(annotation)
        yield annotation
        for hint in get_type_hints(annotation, include_extras=True).values():
            yield from _dataclasses_in(hint, seen)
    else:
        for part in get_args(annotation):
            yield from _dataclasses_in(part, seen)
