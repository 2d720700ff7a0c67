"""Reads weights of FCGF and of the vote network: MinkowskiEngine's published layout, or files trained here.

Published: FCGF (github.com/chrischoy/FCGF, MIT) and DHVR (github.com/POSTECH-CVLab/DHVR, MIT). A network's widths
follow from the shapes of its tensors, so a file says all that is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from vision3d.errors import MissingWeightsError, UsageError, Vision3DError
from vision3d.matching.hough.fcgf import Fcgf, FcgfConfig
from vision3d.matching.hough.minkowski_keys import from_minkowski
from vision3d.matching.hough.vote_network import VoteNetwork, VoteNetworkConfig
from vision3d.matching.lightglue import load_strictly
from vision3d.weights import cache_folder, read_state_dict

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class PublishedFcgf:
    """A checkpoint of FCGF's authors. voxel: metres, of the clouds it was trained on."""

    filename: str
    voxel: float
    trained_on: str

    @property
    def url(self) -> str:
        """Where the authors publish it."""
        return f"https://huggingface.co/chrischoy/FCGF/resolve/main/{self.filename}"


PUBLISHED = {
    "fcgf-3dmatch-2.5cm": PublishedFcgf("2019-08-19_06-17-41.pth", 0.025, "3DMatch"),
    "fcgf-3dmatch-5cm": PublishedFcgf("2019-08-16_19-21-47.pth", 0.05, "3DMatch"),
    "fcgf-kitti-30cm": PublishedFcgf("KITTI-v0.3-ResUNetBN2C-conv1-5-nout32.pth", 0.3, "KITTI"),
}


def find_fcgf(name: str) -> Path:
    """The weights file of a published model by its name, or the file at a path.

    Published files lie in the cache folder: they are not fetched, as their authors give no checksum.
    MissingWeightsError says what to put where; UsageError for anything else.
    """
    if name in PUBLISHED:
        entry = PUBLISHED[name]
        path = cache_folder() / entry.filename
        if not path.is_file():
            raise MissingWeightsError(
                f"weights {name} (MIT, Choy et al., FCGF, trained on {entry.trained_on}) are not on this machine: "
                f"put {entry.url} at {path}"
            )
        return path
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"features {name!r}: no such weights file, and not one of {', '.join(PUBLISHED)}")
    return path


def read_fcgf(path: Path) -> Fcgf:
    """The network in a file, in evaluation mode. Vision3DError if it is damaged or of another network."""
    state = _state(path)
    try:
        kernel = state["conv1.kernel"] if "conv1.kernel" in state else state["conv1.weight"].flatten(0, -3)
        config = FcgfConfig(
            inputs="fpfh" if "shortcut.map.weight" in state else "occupancy",
            first_kernel=round(len(kernel) ** (1 / 3)),
            channels=_widths(state, "norm1", "norm2", "norm3", "norm4"),  # type: ignore[arg-type]
            up_channels=(  # type: ignore[arg-type]
                int(state[_weight(state, "conv1_tr")].shape[-1]),
                *_widths(state, "norm2_tr", "norm3_tr", "norm4_tr"),
            ),
            out_channels=int(state[_weight(state, "final")].shape[-1]),
        )
    except KeyError as error:
        raise Vision3DError(f"weights {path} are not FCGF's: the file lacks {error.args[0]}") from None
    return _loaded(Fcgf(config), state, path)


def read_vote_network(path: Path) -> VoteNetwork:
    """The network in a file, in evaluation mode. Vision3DError if it is damaged or of another network."""
    state = _state(path)
    try:
        config = VoteNetworkConfig(
            inputs="smoothed" if "slope" in state else "votes",
            channels=_widths(state, "norm1", "norm2", "norm3"),  # type: ignore[arg-type]
            up_channels=_widths(state, "norm1_tr", "norm2_tr", "norm3_tr"),  # type: ignore[arg-type]
        )
    except KeyError as error:
        raise Vision3DError(f"weights {path} are not a vote network's: the file lacks {error.args[0]}") from None
    return _loaded(VoteNetwork(config), state, path)


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of the network: under "state_dict" in a published checkpoint, with "model." before DHVR's names."""
    # FCGF's checkpoints hold their settings as easydict.EasyDict; read as an OrderedDict, no foreign code runs.
    with torch.serialization.safe_globals([(OrderedDict, "easydict.EasyDict")]):
        state = read_state_dict(path)
    if any(name.startswith("state_dict.") for name in state):
        state = {name.removeprefix("state_dict."): t for name, t in state.items() if name.startswith("state_dict.")}
    prefixes = {name.partition(".")[0] for name in state}
    if prefixes == {"model"}:
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    return state


def _weight(state: Mapping[str, Tensor], layer: str) -> str:
    return f"{layer}.kernel" if f"{layer}.kernel" in state else f"{layer}.weight"


def _widths(state: Mapping[str, Tensor], *norms: str) -> tuple[int, ...]:
    official = "norm1.bn.weight" in state
    return tuple(len(state[f"{name}.bn.weight" if official else f"{name}.weight"]) for name in norms)


def _loaded(net: Net, state: dict[str, Tensor], path: Path) -> Net:
    if "conv1.kernel" in state:
        state = from_minkowski(net, state, str(path))
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    load_strictly(net, state, str(path))
    bad = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise Vision3DError(f"weights {path} are damaged: {bad[0]} holds values that are not finite")
    net.eval()
    return net
