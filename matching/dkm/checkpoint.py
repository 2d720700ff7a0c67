"""Reads the published weights of DKM v3 strictly: every tensor must have its place, and every place its tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from vision3d.errors import Vision3DError
from vision3d.matching.dkm.config import DKMConfig
from vision3d.matching.dkm.encoder import CLASSIFIER
from vision3d.matching.dkm.model import DKM
from vision3d.matching.lightglue import load_strictly
from vision3d.weights import load_weights


def build_dkm(state: Mapping[str, Tensor], source: str, config: DKMConfig) -> DKM:
    """The network with a checkpoint's weights, in evaluation mode.

    Takes the published layout, bare or under "model." or "module." (training), with the classifier of ImageNet or
    without. Vision3DError names the first tensor that is missing, unknown, of another shape or not finite; `source`
    names the checkpoint in it.
    """
    names = {re.sub(r"^(model\.|module\.|state_dict\.)+", "", name): value for name, value in state.items()}
    if len(names) < len(state):
        raise Vision3DError(f"weights {source} hold two tensors for the same place; this is no DKM checkpoint")
    for short, shape in CLASSIFIER.items():
        name = f"encoder.net.{short}"
        if name in names and tuple(names[name].shape) == shape:
            del names[name]
    net = DKM(config).eval()
    load_strictly(net, names, source, [name for name in net.state_dict() if name.endswith("num_batches_tracked")])
    for name, value in net.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise Vision3DError(
                f"weights {source} are damaged: {name} holds values that are not finite; fetch them again"
            )
    return net


def load_dkm(scene: Literal["outdoor", "indoor"], path: Path | None, config: DKMConfig) -> DKM:
    """The published network for a kind of scene, or that of a file. Errors as `load_weights` and `build_dkm`."""
    name = f"dkm-{scene}"
    return build_dkm(load_weights(name, path), str(path or name), config)
