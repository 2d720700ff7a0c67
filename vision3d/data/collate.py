"""The one rule by which samples become a batch: dataclass by dataclass, field by field.

Tensors of equal shape and type are stacked to [b, ...], others stay a list; numbers and bools become a tensor [b];
dataclasses become a Batch of their own if all have one type; everything else (names, paths, None) becomes a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """A batch of dataclass samples: `batch.field` holds that field of all samples, `batch[i]` is sample i again.

    kind: the samples' class; values: field name -> stacked tensor, list or Batch; size: number of samples.
    """

    kind: type[T]
    values: dict[str, Any]
    size: int

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.values:
            raise AttributeError(f"a batch of {self.kind.__name__} has no field {name!r}")
        return self.values[name]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> T:
        if not -self.size <= index < self.size:
            raise IndexError(f"sample {index} of a batch of {self.size}")
        return self.kind(**{name: value[index] for name, value in self.values.items()})

    def to(self, device: torch.device | str) -> Batch[T]:
        """The batch with all its tensors on a device."""
        return Batch(self.kind, {name: _to(value, device) for name, value in self.values.items()}, self.size)

    def pin_memory(self) -> Batch[T]:
        """The batch in page-locked memory (the loader calls it)."""
        return Batch(self.kind, {name: _pin(value) for name, value in self.values.items()}, self.size)


def collate(samples: Sequence[T]) -> Batch[T]:
    """A batch of dataclass samples of one type by the rule above.

    Raises:
        TypeError: no dataclasses, or of several types. ValueError: no samples.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    kind = type(samples[0])
    if not is_dataclass(kind) or any(type(sample) is not kind for sample in samples):
        names = sorted({type(sample).__name__ for sample in samples})
        raise TypeError(f"samples must be dataclasses of one type, got {', '.join(names)}")
    values = {f.name: _merge([getattr(sample, f.name) for sample in samples]) for f in fields(kind)}
    return Batch(kind, values, len(samples))


def _merge(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        same = all(isinstance(v, Tensor) and v.shape == first.shape and v.dtype == first.dtype for v in values)
        return torch.stack(values) if same else values
    if isinstance(first, bool | int | float) and all(type(v) is type(first) for v in values):
        return values if isinstance(first, int) and max(map(abs, values)) >= 2**63 else _numbers(values)
    if is_dataclass(first) and all(type(v) is type(first) for v in values):
        return collate(values)
    return values


def _numbers(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64 if isinstance(values[0], float) else None)


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor | Batch):
        return value.to(device)
    if isinstance(value, list):
        return [_to(v, device) for v in value]
    return value


def _pin(value: Any) -> Any:
    if isinstance(value, Tensor | Batch):
        return value.pin_memory()
    if isinstance(value, list):
        return [_pin(v) for v in value]
    return value
