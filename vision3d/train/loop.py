"""The training loop: steps, log, validation and checkpoints of any task, in one process or many (Lightning Fabric).

All that a step depends on is the checkpoint and the step's number: order of the samples, learning rates and random
generators are functions of it. So a run that was killed and started again ends in the same bits on a CPU.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from vision3d import __version__
from vision3d.errors import UsageError, Vision3DError
from vision3d.train.checkpoint import Progressed, identity, load_checkpoint, save_checkpoint
from vision3d.train.config import TrainConfig
from vision3d.train.curve import draw_curve
from vision3d.train.devices import to_device
from vision3d.train.folder import TrainFolder, open_folder, write_config, write_versions, write_weights
from vision3d.train.optimisation import AveragedWeights, make_optimiser, set_rates
from vision3d.train.order import Order, Unreadable, batch_loader
from vision3d.train.processes import emulates_bfloat16, launch
from vision3d.train.stopping import Ended, Stop, watch_for_stop
from vision3d.train.table import append_row, cut_back
from vision3d.train.task import Task

# (line, whether it matters for long: validations and the like, not every row of the log)
Report = Callable[[str, bool], None]


def silent(line: str, lasting: bool) -> None:
    """Reports nothing: the default for the library."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """ended: why it stopped; best: main metric of the best validation, None if nothing was validated."""

    out: Path
    step: int
    steps: int
    ended: Ended
    best: float | None
    best_step: int | None


def train(
    task: Task,
    config: TrainConfig,
    out: Path,
    *,
    name: str = "",
    settings: object | None = None,
    max_time: float | None = None,
    fresh: bool = False,
    report: Report = silent,
) -> TrainResult:
    """Trains `task.model` in place and writes OUT; goes on where an earlier run of the same settings stopped.

    name and settings (the task's configuration dataclass) are noted beside the weights and must be the same when a run
    goes on. The model should have been made after `torch.manual_seed(config.seed)`. max_time: minutes after which the
    run stops, to be continued. fresh: forgets an earlier run in OUT. report: gets lines on how it goes.

    Raises:
        UsageError: an empty training set, OUT holds a run with other settings or something else, no such device.
        Vision3DError: a loss or gradient is not finite (names step and samples; the checkpoint before stays), OUT
        cannot be written to.
    """
    if len(task.dataset) == 0:
        raise UsageError("the training set is empty; check the paths in the settings")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    fabric = launch(config)
    order = Order(len(task.dataset), config.batch_size, config.accumulate, fabric.world_size, config.seed)
    with ExitStack() as stack:
        folder = TrainFolder(out)
        if fabric.global_rank == 0:
            stack.enter_context(open_folder(out))
            if fresh:
                folder.clear()
        fabric.barrier()
        key = identity(name, settings, config, len(task.dataset), fabric.world_size)
        run = _Run(task, config, folder, fabric, order, key, {"task": name, "settings": settings}, report)
        stop = stack.enter_context(watch_for_stop(max_time))
        ended = run.go(stop)
    at = run.at
    best = (at.best, at.best_step) if at.best_step >= 0 else (None, None)
    return TrainResult(out, at.step, run.steps, ended, *best)


class _Hidden:
    """A batch on its way through Fabric's and DDP's wrappers, which would otherwise look into it and cast it."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class _Losses(nn.Module):
    """The task's losses as a module, so that DDP and autocast see one forward pass."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = (task,)

    def forward(self, hidden: _Hidden) -> dict[str, Tensor]:
        return self._task[0].losses(hidden.batch)


class _Run:
    """One process's part of a run."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        folder: TrainFolder,
        fabric: Fabric,
        order: Order,
        key: dict[str, Any],
        description: dict[str, Any],
        report: Report,
    ) -> None:
        self.task, self.config, self.folder, self.fabric, self.order = task, config, folder, fabric, order
        self.main = fabric.global_rank == 0
        self.key, self.description, self.report = key, description, report if self.main else silent
        self.steps = order.steps(config)
        self.at = Progressed()
        self.model = task.model
        optimiser = make_optimiser(task, config.optimiser)
        found = load_checkpoint(folder.checkpoint, key) if folder.checkpoint.exists() else None
        if found is not None:
            self.model.load_state_dict(found["model"])
        self.module, self.optimiser = fabric.setup(_Losses(task), optimiser)
        self.parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.average = AveragedWeights(self.model, config.ema) if config.ema is not None else None
        if found is not None:
            self.at = found["progressed"]
            self.optimiser.load_state_dict(found["optimiser"])
            if self.average is not None:
                self.average.load(found["average"])
        if self.main:
            for table in (folder.log, folder.validation):
                cut_back(table, self.at.step)
            write_config(folder.config, description["task"], description["settings"], config)
            write_versions(folder.versions, fabric.device, fabric.world_size)

    def go(self, stop: Stop) -> Ended:
        """Trains to the end or to a stop; whatever the reason, the checkpoint is the latest step."""
        config, saved = self.config, self.at.step
        ended: Ended = "done"
        if config.precision == "bf16-mixed" and emulates_bfloat16(self.fabric.device.type):
            self.report("precision bf16-mixed: this CPU has no bfloat16 products, so it trains in 32 bit, faster", True)
        if self.at.step:
            self.report(f"goes on after step {self.at.step} of {self.steps}", True)
        loader = batch_loader(self.task, self.order, config, self.at.step, self.steps, self.fabric.global_rank)
        batches = iter(loader) if self.at.step < self.steps else iter(())
        while self.at.step < self.steps:
            started = time.monotonic()
            losses, norm, lr, reason = self._step(batches, stop)
            at = self.at
            at.step += 1
            at.seconds += time.monotonic() - started
            self._note(losses, norm, lr)
            last = at.step == self.steps
            if last or (config.validate_every is not None and at.step % config.validate_every == 0):
                self._validate()
            if last or reason is not None or at.step % config.checkpoint_every == 0:
                self._save()
                saved = at.step
            if reason is not None and not last:
                ended = reason
                break
        assert saved == self.at.step
        return ended

    def _step(self, batches: Iterator[Any], stop: Stop) -> tuple[dict[str, float], float, float, Ended | None]:
        """One optimiser step: losses, norm of the gradient, learning rate, and why to stop now."""
        config, fabric, step = self.config, self.fabric, self.at.step
        _seed(config.seed, step, fabric.global_rank)
        self.module.train()
        lr = set_rates(self.optimiser.optimizer, config.optimiser, config.schedule, step, self.steps)
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        bad = -1
        for part in range(config.accumulate):
            batch = next(batches)
            if isinstance(batch, Unreadable):
                raise Vision3DError(batch.message)
            hidden = _Hidden(to_device(batch, fabric.device))
            waits = fabric.world_size > 1 and part < config.accumulate - 1
            with fabric.no_backward_sync(self.module) if waits else nullcontext():
                losses = self.module(hidden)
                if "loss" not in losses or not losses["loss"].requires_grad:
                    raise ValueError(f'losses() needs a "loss" with a gradient, it gave {", ".join(losses)}')
                fabric.backward(losses["loss"] / config.accumulate)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / config.accumulate
            if bad < 0 and not np.isfinite(float(losses["loss"].detach())):
                bad = part
        norm = float(nn.utils.clip_grad_norm_(self.parameters, config.optimiser.clip or float("inf")))
        reason = stop.reason()
        codes = (None, "max-time", "interrupted")
        worst = self._largest([float(bad >= 0), float(codes.index(reason))])
        if worst[0] or not np.isfinite(norm):
            raise self._not_finite(step, bad)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.model, step)
        return sums, norm, lr, codes[int(worst[1])]  # type: ignore[return-value]

    def _largest(self, values: list[float]) -> list[float]:
        """The largest of each value over the processes."""
        if self.fabric.world_size == 1:
            return values
        tensor = torch.tensor(values, device=self.fabric.device)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
        return tensor.tolist()

    def _not_finite(self, step: int, part: int) -> Vision3DError:
        parts = [part] if part >= 0 else range(self.config.accumulate)
        keys = [key for k in parts for key in self.order.batch(step, k, self.fabric.global_rank)]
        what = "the loss" if part >= 0 else "the gradient (here or in another process)"
        samples = ", ".join(f"{index} (epoch {epoch})" for index, epoch in keys[:16])
        more = f" and {len(keys) - 16} more" if len(keys) > 16 else ""
        kept = "the checkpoint before it is kept" if self.folder.checkpoint.exists() else "there is no checkpoint yet"
        return Vision3DError(
            f"{what} is not finite at step {step} with samples {samples}{more}; {kept}. "
            "Look at those samples, lower optimiser.lr or set optimiser.clip"
        )

    def _note(self, losses: dict[str, float], norm: float, lr: float) -> None:
        """Adds a step to the running means, and a row to the log when there are enough."""
        at = self.at
        for name, value in {**losses, "grad_norm": norm}.items():
            at.sums[name] = at.sums.get(name, 0.0) + value
        at.rows += 1
        if at.step % self.config.log_every and at.step != self.steps:
            return
        means = {name: value / at.rows for name, value in at.sums.items()}
        if self.fabric.world_size > 1:
            tensor = torch.tensor(list(means.values()), dtype=torch.float64, device=self.fabric.device)
            torch.distributed.all_reduce(tensor)
            means = dict(zip(means, (tensor / self.fabric.world_size).tolist(), strict=True))
        at.rows, at.sums = 0, {}
        if self.main:
            row = {"step": at.step, "epoch": self.order.epoch(at.step), "lr": lr, "seconds": round(at.seconds, 2)}
            append_row(self.folder.log, {**row, **means})
            pace = at.seconds / at.step
            parts = [f"step {at.step}/{self.steps}", *(f"{name} {value:.4g}" for name, value in means.items())]
            left = (self.steps - at.step) * pace / 60
            self.report("  ".join([*parts, f"lr {lr:.2e}", f"{pace:.3g} s/step", f"{left:.0f} min left"]), False)

    def _validate(self) -> None:
        """Metrics of the averaged weights on the first process; keeps the best."""
        started = time.monotonic()
        if self.main:
            _seed(self.config.seed, self.at.step, 0)
            with self._inference_weights(), torch.no_grad():
                self.model.eval()
                metrics = {name: float(value) for name, value in self.task.validate().items()}
                self.model.train()
                if metrics:
                    self._keep_if_best(metrics)
            if metrics:
                append_row(
                    self.folder.validation,
                    {"step": self.at.step, **metrics, "seconds": round(time.monotonic() - started, 2)},
                )
                shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
                star = "  (best)" if self.at.best_step == self.at.step else ""
                self.report(f"validation at step {self.at.step}: {shown}{star}", True)
            draw_curve(self.folder)
        self.fabric.barrier()

    def _keep_if_best(self, metrics: dict[str, float]) -> None:
        at, main = self.at, self.task.main_metric
        if main not in metrics:
            raise ValueError(f"validate() gave {', '.join(metrics)}, but not the main metric {main!r}")
        if np.isnan(metrics[main]) or (at.best_step >= 0 and metrics[main] <= at.best):
            return
        at.best, at.best_step = metrics[main], at.step
        self._write_weights(self.folder.best_weights, metrics)

    def _save(self) -> None:
        if self.main:
            average = None if self.average is None else self.average.state
            optimiser = self.optimiser.optimizer.state_dict()
            with self._inference_weights():
                self._write_weights(self.folder.weights, {})
            save_checkpoint(self.folder.checkpoint, self.key, self.at, self.model.state_dict(), average, optimiser)
        self.fabric.barrier()

    def _write_weights(self, path: Path, metrics: dict[str, float]) -> None:
        config = self.folder.config.read_text(encoding="utf-8")
        metadata = {"task": self.description["task"], "config": config, "vision3d": __version__}
        write_weights(path, self.model.state_dict(), {**metadata, "step": self.at.step, "metrics": metrics})

    def _inference_weights(self) -> Any:
        return nullcontext() if self.average is None else self.average.swapped_in(self.model)


def _seed(seed: int, step: int, process: int) -> None:
    """The global generators, for what is drawn inside the model."""
    state = int(np.random.SeedSequence((seed, step, process)).generate_state(1)[0])
    torch.manual_seed(state)
    random.seed(state)
    np.random.seed(state)  # noqa: NPY002  # libraries below us may use the global state
