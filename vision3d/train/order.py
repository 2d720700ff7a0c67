"""Which samples a step sees: a function of seed, step and process alone, so the step is all a checkpoint keeps.

The stream of samples is one shuffled epoch after the other. Step s takes the next accumulate * processes * batch_size
of it; a batch may reach over the end of an epoch, no sample is ever left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils.data import DataLoader

from vision3d.data.loader import worker_options
from vision3d.errors import Vision3DError
from vision3d.train.config import TrainConfig
from vision3d.train.task import Task, TrainingSet


@dataclass(frozen=True)
class Order:
    """The order of `count` samples for one of `processes` training processes."""

    count: int
    batch_size: int
    accumulate: int
    processes: int
    seed: int
    _epoch: dict[int, Int[np.ndarray, " n"]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def step_size(self) -> int:
        """Samples that one step sees in all processes."""
        return self.batch_size * self.accumulate * self.processes

    def steps(self, config: TrainConfig) -> int:
        """Steps of the whole run."""
        if config.steps is not None:
            return config.steps
        assert config.epochs is not None
        return max(1, math.ceil(config.epochs * self.count / self.step_size))

    def epoch(self, step: int) -> float:
        """Passes over the training set that are done before a step."""
        return step * self.step_size / self.count

    def batch(self, step: int, part: int, process: int) -> list[tuple[int, int]]:
        """(index, epoch) of the samples of the `part`-th of `accumulate` batches of a step in a process."""
        first = ((step * self.accumulate + part) * self.processes + process) * self.batch_size
        return [self._at(position) for position in range(first, first + self.batch_size)]

    def batches(self, start: int, end: int, process: int) -> Iterator[list[tuple[int, int]]]:
        """All batches of the steps in [start, end), in order."""
        for step in range(start, end):
            for part in range(self.accumulate):
                yield self.batch(step, part, process)

    def _at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.count)
        if epoch not in self._epoch:
            for old in [e for e in self._epoch if e < epoch - 1]:
                del self._epoch[old]
            self._epoch[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        return int(self._epoch[epoch][place]), epoch


@dataclass(frozen=True)
class _Batches:
    """The batches of a process as a sized iterable, as a DataLoader wants its batch sampler."""

    order: Order
    start: int
    end: int
    process: int

    def __len__(self) -> int:
        return (self.end - self.start) * self.order.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.order.batches(self.start, self.end, self.process)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a sample, or its batch, that failed with a message for the user (workers would add a traceback)."""

    message: str


@dataclass(frozen=True)
class _Samples:
    """A training set under keys (index, epoch)."""

    source: TrainingSet

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            return self.source.sample(*key)
        except Vision3DError as error:
            return Unreadable(f"training sample {key[0]} (epoch {key[1]}): {error}")


@dataclass(frozen=True)
class _Collate:
    """The task's collate, for samples that could be made."""

    function: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> Any:
        return next((s for s in samples if isinstance(s, Unreadable)), None) or self.function(samples)


def batch_loader(task: Task, order: Order, config: TrainConfig, start: int, end: int, process: int) -> DataLoader[Any]:
    """A loader of the batches of the steps in [start, end); `Unreadable` in place of a batch that could not be made."""
    if config.workers and getattr(task.collate, "__self__", None) is task:
        raise TypeError("collate is a method and would take the model to the workers: make it a staticmethod")
    return DataLoader(
        _Samples(task.dataset),  # type: ignore[arg-type]  # torch asks for its own Dataset class
        batch_sampler=_Batches(order, start, end, process),
        collate_fn=_Collate(task.collate),
        **worker_options(config.workers, config.seed),
    )
