"""`vision3d train CONFIG.yaml`: trains a model of any task; run again, it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vision3d.config import parse, read_yaml
from vision3d.errors import UsageError
from vision3d.train.config import TrainConfig
from vision3d.train.tasks import TASKS, task_named

USAGE = """usage: vision3d train CONFIG.yaml --out DIR [--max-time MINUTES] [--fresh] [flags that override the file]

CONFIG.yaml names a `task` ({tasks}), its `settings` and the loop's settings under `train`.
`vision3d train CONFIG.yaml --help` shows all of them for that task.
A run that was stopped goes on with the same command."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Settings of a run; `settings` is the task's own class."""

    out: Path
    """folder for checkpoints, weights, logs and curves; an earlier run in it goes on"""
    task: Annotated[str, tyro.conf.Fixed]
    settings: Any
    train: TrainConfig
    max_time: float | None = None
    """minutes after which the run saves and stops, to be continued later"""
    fresh: bool = False
    """forget an earlier run in OUT"""
    json: bool = False
    """print the result as JSON"""
    quiet: bool = False
    """no progress on stderr"""


def run(argv: Sequence[str]) -> int:
    """Reads the file, then the flags, and trains."""
    if not argv or argv[0].startswith("-"):
        print(USAGE.format(tasks=", ".join(sorted(TASKS))), file=sys.stdout if argv else sys.stderr)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    file = Path(argv[0])
    name = read_yaml(file).get("task")
    if name is None:
        raise UsageError(f"{file}: key 'task' is missing; it is one of {', '.join(sorted(TASKS))}")
    settings_class, build = task_named(name)
    arguments_class = dataclasses.make_dataclass(
        "TrainArguments",
        [("settings", settings_class)],
        bases=(TrainArguments,),
        frozen=True,
        kw_only=True,
    )
    arguments: Any = parse(
        arguments_class, argv[1:], config_file=file, prog=f"vision3d train {file}", text=f"task {name}"
    )
    import torch

    from vision3d.train.loop import silent, train

    torch.manual_seed(arguments.train.seed)
    task = build(arguments.settings)
    result = train(
        task,
        arguments.train,
        arguments.out,
        name=str(name),
        settings=arguments.settings,
        max_time=arguments.max_time,
        fresh=arguments.fresh,
        report=silent if arguments.quiet else _Lines(),
    )
    code = 130 if result.ended == "interrupted" else 0
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return code  # the first process tells of it
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(result), "out": str(result.out)}))
    else:
        best = "" if result.best is None else f", best {task.main_metric} {result.best:.4g} at step {result.best_step}"
        go_on = "" if result.ended == "done" else f"; stopped ({result.ended}), the same command goes on"
        print(f"{result.step} of {result.steps} steps{best}{go_on}; weights in {result.out}")
    return code


class _Lines:
    """Lines on stderr: on a terminal the passing ones overwrite each other, elsewhere one is shown every 30 s."""

    def __init__(self) -> None:
        self._passing = sys.stderr.isatty()
        self._shown = 0.0
        self._open = False

    def __call__(self, line: str, lasting: bool) -> None:
        now = time.monotonic()
        if not lasting and not self._passing and now - self._shown < 30:
            return
        start = "\r\x1b[K" if self._open else ""
        self._open = self._passing and not lasting
        self._shown = self._shown if lasting else now
        print(f"{start}{line}", end="" if self._open else "\n", file=sys.stderr, flush=True)
