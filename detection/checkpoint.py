"""Weights of detectors from files: our own, and OpenPCDet's of SECOND, Voxel R-CNN and their focal variants.

Our parameters carry OpenPCDet's names; layouts differ: sparse convolutions are (out, z, y, x, in) there with spconv 2,
(z, y, x, in, out) with spconv 1, and 1x1 convolutions are linear layers here. Loading is strict: a name missing or left
over is an error. Facts on names: OpenPCDet 0.6 (pcdet/models), spconv 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from vision3d.core import Vision3DError
from vision3d.detection.detector import Detector
from vision3d.sparse import weight_from_spconv1, weight_from_spconv2
from vision3d.sparse.layers import ConvolutionLayer
from vision3d.weights import read_state_dict

Layout = Literal["spconv1", "spconv2"]

# Groups that a training checkpoint may hold beside the weights.
_PREFIX = "model_state."
_OTHER_GROUPS = ("optimizer_state.",)
# What OpenPCDet saves and detection does not need: a counter, and DeepLabV3 behind the first stage of its ResNet.
_UNUSED = (
    r"global_step",
    r"backbone_3d\.semseg\.ifn\.model\.(backbone\.layer[234]|classifier|aux_classifier)\..*",
)
_RENAMED = (
    (r"^backbone_3d\.semseg\.ifn\.model\.backbone\.", "semseg.backbone."),
    (r"^backbone_3d\.semseg\.reduce_blocks\.", "semseg.reduce_blocks."),
)


def load_checkpoint(detector: Detector, file: Path) -> None:
    """Loads a file of weights into a detector; what a file is, is seen from its shapes.

    Raises:
        Vision3DError: missing or damaged, weights missing, left over or of other shapes: the first is named.
    """
    if not file.is_file():
        raise Vision3DError(f"{file}: no such weights file")
    state = read_state_dict(file)
    own = detector.state_dict()
    if set(own) == set(state) and all(own[k].shape == state[k].shape for k in own):
        detector.load_state_dict(state)
        return
    _load_strictly(detector, from_openpcdet(detector, state), str(file))


def load_image_backbone(detector: Detector, file: Path) -> None:
    """Weights of a ResNet-50, or of torchvision's DeepLabV3 on one (what Focals Conv-F begins with), for the images.

    Raises:
        ValueError: a detector without images. Vision3DError: no such file, or a weight of the first stage is missing.
    """
    if detector.semseg is None:
        raise ValueError("this detector takes no images")
    if not file.is_file():
        raise Vision3DError(f"{file}: no such weights file")
    state = {key.removeprefix("backbone."): value for key, value in read_state_dict(file).items()}
    own = detector.semseg.backbone.state_dict()
    missing = [key for key in own if key not in state or state[key].shape != own[key].shape]
    if missing:
        raise Vision3DError(f"{file} is no ResNet-50: {missing[0]} is missing or of another shape")
    detector.semseg.backbone.load_state_dict({key: state[key] for key in own})


def from_openpcdet(detector: Detector, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenPCDet's state (with or without the group "model_state") under our names and in our layouts.

    Weights whose name or shape is unknown pass as they are, for the strict loading to refuse them.
    """
    if any(key.startswith(_PREFIX) for key in state):
        state = {key: value for key, value in state.items() if not key.startswith(_OTHER_GROUPS)}
        state = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    sparse = {
        f"{name}.weight": layer for name, layer in detector.named_modules() if isinstance(layer, ConvolutionLayer)
    }
    own = detector.state_dict()
    layout = sparse_layout(state, sparse)
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in _UNUSED):
            continue
        name = key
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if name in sparse and value.ndim == 5:
            value = weight_from_spconv2(value) if layout == "spconv2" else weight_from_spconv1(value)
        elif name in own and own[name].ndim == 2 and value.ndim in (3, 4) and value.shape[2:].numel() == 1:
            value = value.flatten(1)
        out[name] = value
    return out


def sparse_layout(state: Mapping[str, Tensor], layers: Mapping[str, ConvolutionLayer]) -> Layout:
    """How the state keeps sparse weights: spconv 1's layout is ours, 2 has the outputs first."""
    for key, layer in layers.items():
        found = state.get(key)
        if found is None or found.ndim != 5:
            continue
        ours = tuple(layer.weight.shape)
        if ours != (ours[-1], *ours[:-1]):
            return "spconv1" if tuple(found.shape) == ours else "spconv2"
    return "spconv2"


def _load_strictly(detector: Detector, state: Mapping[str, Tensor], source: str) -> None:
    own = detector.state_dict()
    wrong = [
        f"{key} is {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = (
        ("lacks", sorted(set(own) - set(state))),
        ("has an unknown", sorted(set(state) - set(own))),
        ("has another shape:", sorted(wrong)),
    )
    told = [
        f"{what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for what, names in parts
        if names
    ]
    if told:
        raise Vision3DError(
            f"weights {source} do not fit this detector, is it another architecture? The file {'; '.join(told)}"
        )
    detector.load_state_dict(dict(state))
