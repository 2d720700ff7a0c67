"""A task small enough to train in a test: noisy points to classes, with dropout, batch norm and augmentation."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vision3d.data.collate import Batch, collate
from vision3d.errors import Vision3DError


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    count: int = 37
    features: int = 6
    noise: float = 0.3
    poison: int | None = None
    unreadable: int | None = None
    slow_s: float = 0.0
    norm: bool = True
    dropout: float = 0.2
    data_seed: int = 3

    def __post_init__(self) -> None:
        if self.features < 1:
            raise ValueError(f"features must be at least 1, got {self.features}")


@dataclass(frozen=True)
class ToySample:
    point: Tensor
    label: int


@dataclass(frozen=True)
class ToyPoints:
    config: ToyConfig

    def __len__(self) -> int:
        return self.config.count

    def sample(self, index: int, epoch: int) -> ToySample:
        config = self.config
        time.sleep(config.slow_s)
        if index == config.unreadable:
            raise Vision3DError(f"toys/{index}.png is damaged; fetch it again")
        label = index % 3
        dice = np.random.default_rng((config.data_seed, epoch, index))
        point = np.cos(np.arange(config.features) * (label + 1)) + config.noise * dice.standard_normal(config.features)
        if index == config.poison:
            point[0] = np.nan
        return ToySample(torch.from_numpy(point.astype(np.float32)), label)


class ToyTask:
    main_metric = "accuracy"
    collate = staticmethod(collate)

    def __init__(self, config: ToyConfig) -> None:
        self.config = config
        self.dataset = ToyPoints(config)
        norm = nn.BatchNorm1d(16) if config.norm else nn.Identity()
        hidden = [nn.Linear(config.features, 16), norm, nn.ReLU(), nn.Dropout(config.dropout)]
        self.model = nn.Sequential(*hidden, nn.Linear(16, 3))
        self.validations = 0

    def losses(self, batch: Batch[ToySample]) -> dict[str, Tensor]:
        logits = self.model(batch.point)
        loss = nn.functional.cross_entropy(logits, batch.label)
        return {"loss": loss, "largest": logits.detach().abs().max()}

    def validate(self) -> dict[str, float]:
        self.validations += 1
        batch = collate([self.dataset.sample(index, 1000) for index in range(self.config.count)])
        torch.rand(5)  # whatever validation draws must not change training
        return {"accuracy": float((self.model(batch.point).argmax(dim=1) == batch.label).float().mean())}


def build(config: ToyConfig) -> ToyTask:
    return ToyTask(config)


def seeded(config: ToyConfig, seed: int = 0) -> ToyTask:
    """A task with the initial weights of a seed, as `vision3d train` builds it."""
    torch.manual_seed(seed)
    return build(config)
