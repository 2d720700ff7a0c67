"""Settings of a training run that do not depend on what is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How a gradient becomes a step."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw: decoupled weight decay; sgd: with momentum"""
    lr: float = 1e-3
    """learning rate at the top of the schedule"""
    weight_decay: float = 0.01
    """for weights; biases and norms do not decay"""
    momentum: float = 0.9
    """beta1 of adamw, momentum of sgd"""
    beta2: float = 0.999
    """of adamw"""
    clip: float | None = None
    """largest norm of the gradient"""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(f"lr must be positive and weight_decay not negative, got {self.lr}, {self.weight_decay}")
        if not (0 <= self.momentum < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"momentum and beta2 lie in [0, 1), got {self.momentum}, {self.beta2}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive, or null for none, got {self.clip}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the run, as a factor of `optimiser.lr`."""

    name: Literal["constant", "cosine", "onecycle", "exponential"] = "cosine"
    """onecycle: cosine from `start` up to 1 at `peak_at`, then down to `final`; cosine and exponential: from 1 to
    `final` at the last step"""
    warmup: int = 0
    """steps of linear growth before all that (not for onecycle)"""
    final: float = 0.01
    """factor at the last step (not for constant)"""
    start: float = 0.1
    """factor at the first step of onecycle"""
    peak_at: float = 0.4
    """where the peak of onecycle lies, as a share of the run"""
    low_momentum: float | None = None
    """onecycle: momentum falls to this value at the peak and comes back"""

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup must not be negative, got {self.warmup}")
        if not (0 <= self.final <= 1 and 0 <= self.start <= 1 and 0 < self.peak_at < 1):
            raise ValueError(f"final, start and peak_at are shares, got {self.final}, {self.start}, {self.peak_at}")
        if self.name == "exponential" and self.final == 0:
            raise ValueError("an exponential schedule needs final above 0")
        if self.low_momentum is not None and not 0 <= self.low_momentum < 1:
            raise ValueError(f"low_momentum lies in [0, 1), got {self.low_momentum}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, in what portions, with which optimiser."""

    steps: int | None = None
    """optimiser steps; give either steps or epochs"""
    epochs: float | None = None
    """passes over the training set"""
    batch_size: int = 4
    """samples per process and forward pass"""
    accumulate: int = 1
    """batches whose gradients are averaged into one step"""
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: float | None = None
    """decay of the moving average of the weights that is validated and saved, e.g. 0.999; null for none"""
    precision: Literal["32", "bf16-mixed"] = "32"
    """bf16-mixed: 32 bit all the same on a CPU that would emulate bfloat16"""
    seed: int = 0
    validate_every: int | None = 1000
    """steps between validations (one more at the end); null: only at the end"""
    checkpoint_every: int = 500
    """steps between checkpoints (one more whenever the run ends)"""
    log_every: int = 10
    """steps whose mean makes one row of the log"""
    workers: int = 0
    """processes that make the batches; 0: the training process itself"""
    threads: int | None = None
    """threads of the training process; null: as torch chooses"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU"""
    processes: int = 1
    """training processes on this machine (data parallel), unless torchrun has started them"""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                "give either steps or epochs, not both or neither; one of them is unset by --train.epochs None or "
                "--train.steps None, where the file gives it"
            )
        for name in ("steps", "epochs", "validate_every", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("batch_size", "accumulate", "checkpoint_every", "log_every", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.workers < 0 or self.seed < 0:
            raise ValueError(f"workers and seed must not be negative, got {self.workers}, {self.seed}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema lies between 0 and 1, or is null for none, got {self.ema}")
