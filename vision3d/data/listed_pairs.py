"""A pair of photos as a benchmark lists it: one whose photo or truth is not known keeps its place in the list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float64
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.data.pairs import HomographyTruth


@dataclass(frozen=True, slots=True)
class CalibratedTruth:
    """Cameras k0, k1 for photos of `size` (width, height) px, or of their own size where it is None, with pixel centres
    at +0.5; cam1_from_cam0 with a translation of any length, None where the list has no valid pose or camera."""

    k0: Float64[Tensor, "3 3"]
    k1: Float64[Tensor, "3 3"]
    size: tuple[int, int] | None
    cam1_from_cam0: RigidTransform | None


@dataclass(frozen=True, slots=True)
class ListedPair:
    """name: unique, path-like; group: what it is reported with; a path is None where the list names no photo."""

    name: str
    group: str
    path0: Path | None
    path1: Path | None
    truth: HomographyTruth | CalibratedTruth
