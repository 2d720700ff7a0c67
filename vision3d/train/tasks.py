"""The tasks of `vision3d train` by name, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from vision3d.errors import UsageError
from vision3d.train.task import Task

# Name in the YAML -> (module, its frozen keyword-only configuration class). The module has `build(config) -> Task`.
TASKS: dict[str, tuple[str, str]] = {
    "detector": ("vision3d.train.detector", "DetectorTaskConfig"),
    "dkm": ("vision3d.train.dkm", "DKMTaskConfig"),
    "eloftr": ("vision3d.train.eloftr", "EloftrTaskConfig"),
    "hough": ("vision3d.train.hough", "HoughConfig"),
    "matchme": ("vision3d.train.matchme", "MatchMeConfig"),
    "point_features": ("vision3d.train.point_features", "PointFeaturesConfig"),
    "semantic_distillation": ("vision3d.train.semantic_distillation", "DistillationConfig"),
    "semantic_head": ("vision3d.train.semantic_head", "SemanticHeadConfig"),
}


def task_named(name: object) -> tuple[type, Callable[[Any], Task]]:
    """The configuration class and the build function of a task. UsageError if there is none of that name."""
    if not isinstance(name, str) or name not in TASKS:
        raise UsageError(f"task {name!r} is not one of {', '.join(sorted(TASKS)) or '(none)'}")
    module_name, config_class = TASKS[name]
    module = importlib.import_module(module_name)
    return getattr(module, config_class), module.build
