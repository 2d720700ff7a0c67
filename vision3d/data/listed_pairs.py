"""A pair of photos as a benchmark lists it: one whose photo or truth is not known keeps its place in the list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
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

    def plain(self) -> PlainPair:
        """Without tensors, for another process: torch would hold a file open for every one that is sent."""
        truth = self.truth
        if isinstance(truth, HomographyTruth):
            return PlainPair(self.name, self.group, self.path0, self.path1, [truth.h_1_from_0.tolist()], None)
        pose = truth.cam1_from_cam0
        matrices = [truth.k0, truth.k1, *([] if pose is None else [pose.matrix()])]
        size = truth.size or (0, 0)
        return PlainPair(self.name, self.group, self.path0, self.path1, [m.tolist() for m in matrices], size)


@dataclass(frozen=True, slots=True)
class PlainPair:
    """A ListedPair in lists of numbers, float64 to the bit. size: None for homographies, (0, 0) for a photo's own."""

    name: str
    group: str
    path0: Path | None
    path1: Path | None
    matrices: list[list[list[float]]]
    size: tuple[int, int] | None

    def pair(self) -> ListedPair:
        """The pair again."""
        first, *others = (torch.tensor(m, dtype=torch.float64) for m in self.matrices)
        truth: HomographyTruth | CalibratedTruth = HomographyTruth(first)
        if self.size is not None:
            pose = RigidTransform(others[1][:3, :3], others[1][:3, 3]) if len(others) > 1 else None
            truth = CalibratedTruth(first, others[0], self.size if any(self.size) else None, pose)
        return ListedPair(self.name, self.group, self.path0, self.path1, truth)
