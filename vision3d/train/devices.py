"""Batches to the device."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from vision3d.data.collate import Batch


def to_device(value: Any, device: torch.device) -> Any:
    """The value with all tensors in it on a device.

    Goes into dataclasses, tuples, lists and dicts; what has a `to` of its own is asked.
    """
    if isinstance(value, Tensor | Batch):
        return value.to(device)
    if isinstance(value, dict):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    if hasattr(value, "to"):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        moved = {f.name: to_device(getattr(value, f.name), device) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **moved)
    return value
