"""Frozen networks that turn pictures into grids of features, each with one stride: what semantic matchers build on.

A cell of a backbone's grid stands for its square of the picture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from kornia.feature import XFeat
from torch import Tensor

from vision3d.errors import UsageError
from vision3d.matching.semantic.efficientnet import CHANNELS, STRIDES, EfficientNetLite0, load_efficientnet
from vision3d.matching.xfeat import load_xfeat


@runtime_checkable
class Backbone(Protocol):
    """Pictures to grids of features. stride: px of the picture per cell; sides must be multiples of `multiple` px."""

    name: str
    channels: int
    stride: int
    multiple: int

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the features, as plain JSON values."""
        ...

    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """rgb in [0, 1]; i = h / stride, j = w / stride. No gradients are kept; the result takes part in autograd.

        Raises:
            ValueError: sides that are not multiples of `multiple`.
        """
        ...


class EfficientNetBackbone:
    """EfficientNet-lite0's stages (numbers as in the paper's table 1), each a unit vector per cell, concatenated."""

    name = "efficientnet-lite0"

    def __init__(
        self, *, stages: tuple[int, ...] = (6, 7), stride: int = 16, weights: Path | None = None, device: str = "cpu"
    ) -> None:
        if not stages or any(stage not in STRIDES for stage in stages) or list(stages) != sorted(set(stages)):
            raise UsageError(f"stages of EfficientNet-lite0 are rising numbers of {min(STRIDES)} to 8, got {stages}")
        if stride not in STRIDES.values():
            raise UsageError(f"the stride is one of {sorted(set(STRIDES.values()))} px, got {stride}")
        self.stages = tuple(stages)
        self.stride = stride
        self.multiple = max(stride, *(STRIDES[stage] for stage in stages))
        self.channels = sum(CHANNELS[stage] for stage in stages)
        self.weights = weights
        self.device = torch.device(device)

    @property
    def settings(self) -> dict[str, object]:
        """See `Backbone`."""
        return {
            "backbone": self.name,
            "stages": list(self.stages),
            "stride": self.stride,
            "weights": str(self.weights or ""),
        }

    @functools.cached_property
    def network(self) -> EfficientNetLite0:
        """The network itself, loaded at first use."""
        return load_efficientnet(self.weights).to(self.device)

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """See `Backbone`."""
        check_multiple(self.name, rgb, self.multiple)
        maps = self.network.stages(rgb.to(self.device), last=max(self.stages))
        size = (rgb.shape[2] // self.stride, rgb.shape[3] // self.stride)
        return side_by_side(maps, self.stages, size)


class XFeatBackbone:
    """XFeat's dense map of 64 channels at stride 8: geometric features, a baseline for semantic ones."""

    name = "xfeat-dense"
    channels = 64
    stride = 8
    multiple = 32

    def __init__(self, *, weights: Path | None = None, device: str = "cpu") -> None:
        self.weights = weights
        self.device = torch.device(device)

    @property
    def settings(self) -> dict[str, object]:
        """See `Backbone`."""
        return {"backbone": self.name, "weights": str(self.weights or "")}

    @functools.cached_property
    def _network(self) -> XFeat:
        return load_xfeat(self.weights, self.device)

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """See `Backbone`."""
        check_multiple(self.name, rgb, self.multiple)
        features: Tensor = self._network.net(rgb.to(self.device))[0]
        return features


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "efficientnet-lite0": EfficientNetBackbone,
    "xfeat-dense": XFeatBackbone,
}


def side_by_side(
    maps: Mapping[int, Float[Tensor, "b _ _ _"]], stages: Sequence[int], size: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """Maps of some stages at one size (rows, columns), unit vectors each, along c."""
    parts = []
    for stage in stages:
        grid = maps[stage]
        if grid.shape[2:] != size:
            grid = F.interpolate(grid, size, mode="bilinear", align_corners=False, antialias=True)
        parts.append(F.normalize(grid, dim=1))
    return torch.cat(parts, dim=1)


def check_multiple(name: str, rgb: Float[Tensor, "b 3 h w"], multiple: int) -> None:
    """ValueError unless both sides are multiples of `multiple` px."""
    height, width = rgb.shape[2:]
    if height % multiple or width % multiple or not height or not width:
        raise ValueError(
            f"{name} needs sides that are multiples of {multiple} px, got {width}x{height}: "
            f"{max(multiple, round(width / multiple) * multiple)}x"
            f"{max(multiple, round(height / multiple) * multiple)} would do"
        )
