"""Point cloud with optional features."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PointCloud:
    """points in metres (or the scene's unit) in the named frame; features: e.g. colour in [0, 1] or intensity."""

    points: Float[Tensor, "n 3"]
    features: Float[Tensor, "n c"] | None = None
    frame: str = "world"
