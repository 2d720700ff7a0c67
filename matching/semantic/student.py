"""A student: EfficientNet-lite0 with low-rank adapters, trained by `vision3d train` with task semantic_distillation.

F. Fundel et al., "Distillation of Diffusion Features for Semantic Correspondence", WACV 2025, section 3 (a frozen
network with adapters; there DINOv2). Stages before the first adapted one are frozen for good: their map is computed
once per picture in training. Merged adapters cost nothing: the matcher is as fast as the frozen network.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.backbones import EfficientNetBackbone, check_multiple, side_by_side
from vision3d.matching.semantic.efficientnet import CHANNELS, STRIDES, EfficientNetLite0, load_efficientnet
from vision3d.matching.semantic.frozen import FrozenFeatures, TransferConfig
from vision3d.matching.semantic.low_rank import LowRankAdapters, LowRankConfig
from vision3d.matching.semantic.trained_head import noted_settings
from vision3d.weights import content_of, read_state_dict

TASKS = ("semantic_distillation",)  # whose weights are students
STAGES = (6, 7)  # put side by side, as of the frozen backbone
STRIDE = 16


@dataclass(frozen=True, kw_only=True)
class StudentConfig(LowRankConfig):
    """Which network, at which size, and what of it is adapted."""

    backbone: Literal["efficientnet-lite0"] = "efficientnet-lite0"
    """the frozen network"""
    size: int = 320
    """px of the square that pictures are squashed to"""
    first_stage: int = 5
    """stages from here to the last have adapters on their pointwise convolutions"""

    def __post_init__(self) -> None:
        LowRankConfig.__post_init__(self)
        if self.backbone != "efficientnet-lite0":
            raise ValueError(f"the student is efficientnet-lite0, got {self.backbone}")
        if not 3 <= self.first_stage <= STAGES[-1]:
            raise ValueError(f"first_stage lies between 3 and {STAGES[-1]}, got {self.first_stage}")
        if self.size < 32 or self.size % 32:
            raise ValueError(f"the student's size must be a multiple of 32 px, got {self.size}")


class Trunk:
    """The stages before the first adapted one, as a backbone: their last map as it is (no unit vectors)."""

    name = "efficientnet-lite0-trunk"

    def __init__(self, network: EfficientNetLite0, last: int) -> None:
        self.network, self.last = network, last
        self.channels, self.stride, self.multiple = CHANNELS[last], STRIDES[last], 32

    @property
    def settings(self) -> dict[str, object]:
        """See `Backbone`."""
        return {"backbone": self.name, "last": self.last}

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """See `Backbone`."""
        check_multiple(self.name, rgb, self.multiple)
        device = next(self.network.parameters()).device
        return self.network.stages(rgb.to(device), last=self.last)[self.last]


class Student(nn.Module):
    """From the trunk's maps to grids of unit vectors. Its parameters are the adapters; the network is not saved.

    Untrained it gives the features of the frozen backbone.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        network = load_efficientnet()
        layers = [
            f"blocks.{stage - 2}.{name}"
            for stage in range(config.first_stage, STAGES[-1] + 1)
            for name, layer in network.blocks[stage - 2].named_modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
        ]
        self.adapters = LowRankAdapters(network, layers, config)
        self._hidden = (network,)  # in a tuple, so that it is not part of the module
        self.trunk = Trunk(network, config.first_stage - 1)

    @property
    def network(self) -> EfficientNetLite0:
        """The network with its adapters."""
        return self._hidden[0]

    def forward(self, maps: Float[Tensor, "b m i j"]) -> Float[Tensor, "b c h w"]:
        """The trunk's maps of squares to grids at STRIDE, unit vectors along c."""
        last = self.trunk.last
        side = maps.shape[2] * self.trunk.stride // STRIDE
        maps = maps.contiguous(memory_format=torch.channels_last)
        found = {last: maps, **self.network.stages_after(maps, last, STAGES[-1])}
        return F.normalize(side_by_side(found, STAGES, (side, side)), dim=1)

    def _apply(self, fn: Any, recurse: bool = True) -> Student:
        """Takes the network along when the module is moved to a device."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


class StudentBackbone(EfficientNetBackbone):
    """The merged student: a backbone like the frozen one, and as fast."""

    name = "student-efficientnet-lite0"

    def __init__(self, student: Student, weights: Path | None = None) -> None:
        super().__init__(stages=STAGES, stride=STRIDE)
        self._student, self._file = student, weights

    @property
    def settings(self) -> dict[str, object]:
        """See `Backbone`."""
        return {**super().settings, "student": content_of(self._file)}

    @functools.cached_property
    def network(self) -> EfficientNetLite0:
        """The network with the adapters in its weights."""
        self._student.adapters.merge()
        return self._student.network


def trained_student(weights: Path, transfer: TransferConfig | None = None) -> FrozenFeatures:
    """The matcher of a weights file written by `vision3d train`.

    Raises:
        UsageError: no such file. Vision3DError: the file is damaged, or no student's; the message names it.
    """
    if not weights.is_file():
        raise UsageError(f"{weights}: no such weights file; name the weights.safetensors of a student")
    state = read_state_dict(weights)
    try:
        config = StudentConfig(**noted_settings(weights, TASKS)["student"])
    except Exception as error:  # as in trained_head
        raise Vision3DError(
            f"{weights}: no weights of a student ({error}); vision3d train with task semantic_distillation writes them"
        ) from None
    student = Student(config)
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise Vision3DError(f"{weights}: its tensors do not fit its settings ({str(error).splitlines()[-1]})") from None
    return FrozenFeatures(StudentBackbone(student, weights), size=config.size, transfer=transfer)
