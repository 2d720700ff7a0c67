"""Optimiser, schedule and averaged weights (EMA) of a training run; learning rates are a function of the step alone.

AdamW: Loshchilov and Hutter, ICLR 2019, algorithm 2. One cycle: Smith and Topin, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vision3d.train.config import OptimiserConfig, ScheduleConfig
from vision3d.train.task import ParameterGroup, Task, WithParameterGroups


def make_optimiser(task: Task, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser over the task's groups. ValueError if nothing is trained or a parameter is in two groups."""
    groups = task.parameter_groups() if isinstance(task, WithParameterGroups) else _default_groups(task.model)
    entries = []
    for group in groups:
        parameters = [p for p in group.parameters if p.requires_grad]
        if parameters:
            decay = config.weight_decay if group.weight_decay is None else group.weight_decay
            entries.append({"params": parameters, "weight_decay": decay, "lr_scale": group.lr_scale})
    if not entries:
        raise ValueError("the model has no parameter that requires a gradient")
    if config.name == "adamw":
        return torch.optim.AdamW(entries, lr=config.lr, betas=(config.momentum, config.beta2))
    return torch.optim.SGD(entries, lr=config.lr, momentum=config.momentum)


def _default_groups(model: nn.Module) -> list[ParameterGroup]:
    """Weights, and apart from them biases and norms (fewer than two axes), which do not decay."""
    parameters = list(model.parameters())
    return [
        ParameterGroup([p for p in parameters if p.ndim > 1]),
        ParameterGroup([p for p in parameters if p.ndim <= 1], weight_decay=0.0),
    ]


def learning_rate_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """Factor of the learning rate at a step in [0, steps)."""
    if config.name == "onecycle":
        return _one_cycle(config, _share(step, steps), config.start, 1.0, config.final)
    if step < config.warmup:
        return (step + 1) / (config.warmup + 1)
    share = _share(step - config.warmup, steps - config.warmup)
    if config.name == "cosine":
        return _cosine(1.0, config.final, share)
    return config.final**share if config.name == "exponential" else 1.0


def set_rates(
    optimiser: torch.optim.Optimizer, config: OptimiserConfig, schedule: ScheduleConfig, step: int, steps: int
) -> float:
    """Sets learning rates and momentum of a step; returns the learning rate of groups with lr_scale 1."""
    lr = config.lr * learning_rate_factor(schedule, step, steps)
    momentum = config.momentum
    if schedule.name == "onecycle" and schedule.low_momentum is not None:
        momentum = _one_cycle(schedule, _share(step, steps), momentum, schedule.low_momentum, momentum)
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_scale"]
        if "betas" in group:
            group["betas"] = (momentum, config.beta2)
        else:
            group["momentum"] = momentum
    return lr


def _share(step: int, steps: int) -> float:
    return step / (steps - 1) if steps > 1 else 0.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(max(share, 0.0), 1.0)))


def _one_cycle(config: ScheduleConfig, share: float, start: float, peak: float, end: float) -> float:
    if share < config.peak_at:
        return _cosine(start, peak, share / config.peak_at)
    return _cosine(peak, end, (share - config.peak_at) / (1 - config.peak_at))


class AveragedWeights:
    """Exponential moving average of a model's parameters; buffers are the model's latest.

    The decay grows as (1 + step) / (10 + step) up to its configured value, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After the optimiser's step `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        for name, value in model.state_dict().items():
            if name in parameters and value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over an average of a checkpoint."""
        for name, value in self.state.items():
            value.copy_(state[name])

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the average."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(own)
