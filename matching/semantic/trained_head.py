"""A frozen backbone with a trained head as a semantic matcher: what `vision3d train` with task semantic_head writes.

The weights file says which backbone the head belongs to, and its size (metadata `config`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float
from torch import Tensor

from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.backbones import Backbone
from vision3d.matching.semantic.frozen import FrozenFeatures, TransferConfig
from vision3d.matching.semantic.head import BottleneckHead, HeadConfig
from vision3d.weights import content_of, read_state_dict

TASKS = ("semantic_head", "matchme")  # whose weights are heads


class HeadedBackbone:
    """A backbone followed by a head: itself a backbone."""

    def __init__(self, backbone: Backbone, head: BottleneckHead, weights: Path | None = None) -> None:
        self.backbone, self.head, self.weights = backbone, head.eval(), weights
        self.name = f"head-{backbone.name}"
        self.channels, self.stride, self.multiple = backbone.channels, backbone.stride, backbone.multiple

    @property
    def settings(self) -> dict[str, object]:
        """See `Backbone`."""
        return {**self.backbone.settings, "head": content_of(self.weights)}

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """See `Backbone`."""
        out: Tensor = self.head(F.normalize(self.backbone(rgb), dim=1))
        return out


def frozen_matcher(name: str, size: int) -> FrozenFeatures:
    """The matcher called `name` on squares of `size` px. UsageError unless it is one of a frozen backbone."""
    from vision3d.matching.semantic.catalogue import make_semantic_matcher

    key = name.partition(":")[0]
    if key not in ("efficientnet-lite0", "xfeat-dense", "torchvision", "timm"):
        raise UsageError(f"a head needs a frozen backbone, as efficientnet-lite0 or timm:ARCHITECTURE:FILE, got {name}")
    matcher = make_semantic_matcher(name, size=size)
    assert isinstance(matcher, FrozenFeatures)
    return matcher


def noted_settings(weights: Path, tasks: tuple[str, ...]) -> dict[str, Any]:
    """The settings that a weights file of `vision3d train` was trained with. ValueError: its task is none of `tasks`;
    whatever safetensors and YAML raise on other files."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    if metadata.get("task") not in tasks:
        raise ValueError(f"its task is {metadata.get('task', 'not noted')}")
    settings: dict[str, Any] = yaml.safe_load(metadata["config"])["settings"]
    return settings


def trained_head(weights: Path, transfer: TransferConfig | None = None) -> FrozenFeatures:
    """The matcher of a weights file written by `vision3d train`.

    Raises:
        UsageError: no such file. Vision3DError: the file is damaged, or no head's; the message names it.
    """
    if not weights.is_file():
        raise UsageError(f"{weights}: no such weights file; name the weights.safetensors of a trained head")
    state = read_state_dict(weights)
    try:
        settings = noted_settings(weights, TASKS)
        name, size, head = str(settings["backbone"]), int(settings["size"]), HeadConfig(**settings["head"])
    except Exception as error:  # safetensors raises classes of its own, YAML whatever the text led to
        raise Vision3DError(
            f"{weights}: no weights of a trained head ({error}); vision3d train with task semantic_head writes them"
        ) from None
    matcher = frozen_matcher(name, size)
    model = BottleneckHead(matcher.backbone.channels, head)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise Vision3DError(f"{weights}: its tensors do not fit its settings ({str(error).splitlines()[-1]})") from None
    return FrozenFeatures(HeadedBackbone(matcher.backbone, model, weights), size=size, transfer=transfer)
