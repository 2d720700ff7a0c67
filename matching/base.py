"""The protocols every matcher follows, and the features that cross from extraction to matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core import Correspondences, Image, Warp


@dataclass(frozen=True, slots=True)
class Features:
    """Local features of one photo, strongest first.

    keypoints: px of the original photo; scores: detector response, any scale; scales: px of the original (diameter of
    the feature, 1 where the detector has none); angles: radians, image plane, x towards y (0 where it has none).
    """

    keypoints: Float[Tensor, "n 2"]
    descriptors: Float[Tensor, "n d"]
    scores: Float[Tensor, " n"]
    scales: Float[Tensor, " n"]
    angles: Float[Tensor, " n"]
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return int(self.keypoints.shape[0])


@dataclass(frozen=True, slots=True)
class Matches:
    """Index pairs into two photos' features, each index at most once per side; scores in [0, 1]."""

    indices: Int[Tensor, "m 2"]
    scores: Float[Tensor, " m"]

    def __len__(self) -> int:
        return int(self.indices.shape[0])

    def correspondences(self, features0: Features, features1: Features) -> Correspondences:
        """The matched keypoints, px of the original photos."""
        return Correspondences(
            features0.keypoints[self.indices[:, 0]], features1.keypoints[self.indices[:, 1]], self.scores
        )

    @classmethod
    def empty(cls) -> Matches:
        """No matches."""
        return cls(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0))


@runtime_checkable
class Matcher(Protocol):
    """Two photos in, correspondences in px of the originals out. `name` and `settings` identify it in caches.

    max_size: longer side in px that photos should be loaded at for this matcher.
    """

    name: str
    max_size: int

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        ...

    def match(self, image0: Image, image1: Image) -> Correspondences:
        """Match two photos of any sizes; an empty result where nothing matches."""
        ...


@runtime_checkable
class DenseMatcher(Matcher, Protocol):
    """A matcher that says of every pixel where it lies in the other photo."""

    def warp(self, image0: Image, image1: Image) -> tuple[Warp, Warp]:
        """The warps of photo 0 into photo 1 and of photo 1 into photo 0."""
        ...


@runtime_checkable
class FeatureMatcher(Matcher, Protocol):
    """A matcher whose work splits into per-photo features (cached once) and per-pair matching."""

    def extract(self, images: Sequence[Image]) -> list[Features]:
        """Features of each photo; photos may differ in size."""
        ...

    def match_features(self, features0: Features, features1: Features) -> Matches:
        """Match the features of two photos."""
        ...
