"""Checkpoints of a training run: written atomically, read without running code, refused for other settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_file
from vision3d.train.config import TrainConfig

FORMAT = 1

# Settings that change neither weights nor schedule: a run may go on with others.
FREE = ("workers", "threads", "device", "processes", "checkpoint_every", "validate_every", "log_every")


@dataclass(slots=True)
class Progressed:
    """How far a run is. seconds: of training, over all its parts; best_step -1: nothing was validated yet.

    sums, rows: losses summed over the steps since the last row of the log.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = 0.0
    best_step: int = -1
    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)


def identity(name: str, settings: object | None, config: TrainConfig, samples: int, processes: int) -> dict[str, Any]:
    """All that two parts of one run must have in common, as flat JSON values."""
    train = {key: value for key, value in _plain(config).items() if key not in FREE}
    content = {"task": name, "train": train, "training samples": samples, "processes in all": processes}
    if settings is not None:
        content["settings"] = _plain(settings)
    return dict(_flat(content))


def save_checkpoint(
    path: Path,
    key: Mapping[str, Any],
    progressed: Progressed,
    model: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    optimiser: Mapping[str, Any],
) -> None:
    """Writes all that a run needs to go on as if it had not stopped."""
    content = {
        "format": FORMAT,
        "key": json.dumps(key),
        "progressed": asdict(progressed),
        "model": dict(model),
        "average": None if average is None else dict(average),
        "optimiser": dict(optimiser),
    }
    with atomic_file(path) as unfinished:
        torch.save(content, unfinished)


def load_checkpoint(path: Path, key: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of the same settings, on the CPU, with "progressed" as `Progressed`.

    Raises:
        Vision3DError: it is damaged. UsageError: it belongs to other settings; the message says which.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}")
        theirs = json.loads(found["key"])
        found["progressed"] = Progressed(**found["progressed"])
    except Exception as error:  # damaged files raise nearly anything
        raise Vision3DError(f"{path} is not a readable checkpoint; remove it or start again with --fresh") from error
    ours = json.loads(json.dumps(key))
    differing = [
        f"{name} was {_shown(theirs, name)} and is {_shown(ours, name)}"
        for name in sorted(theirs.keys() | ours.keys())
        if _shown(theirs, name) != _shown(ours, name)
    ]
    if differing:
        more = f" (and {len(differing) - 4} more)" if len(differing) > 4 else ""
        raise UsageError(
            f"{path.parent} holds a run with other settings: {'; '.join(differing[:4])}{more}; "
            "name another --out, or start again with --fresh"
        )
    return dict(found)


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "absent"


def _plain(config: object) -> dict[str, Any]:
    return dict(TypeAdapter(type(config)).dump_python(config, mode="json"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            out += _flat(value, f"{prefix}{name}.")
        else:
            out.append((f"{prefix}{name}", value))
    return out
