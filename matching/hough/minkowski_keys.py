"""Checkpoints of MinkowskiEngine networks into ours: names of tensors, and the order of kernel elements.

MinkowskiEngine 0.5.4 numbers kernel elements with the first coordinate fastest (`coordinate_at` and the iterator of its
src/kernel_region.hpp: index % size of axis 0 first), ours with the last. Odd kernels are centred in both. A transposed
convolution uses the strided one's map backwards (`kernel_map` in src/coordinate_map_manager.cpp), as InverseConv does.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from vision3d.errors import Vision3DError
from vision3d.sparse import weight_from_minkowski, weight_to_minkowski


def from_minkowski(net: nn.Module, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A MinkowskiEngine state dict under our names and in our layout, for a network whose modules have its names.

    X.kernel [K, in, out] (or [in, out]) becomes X.weight, X.bn.* X.*, X.bias [1, c] [c]. source: how messages call the
    file. Vision3DError names tensors that are missing, of another shape, or not known.
    """
    own = net.state_dict()
    names = {_theirs(name, tensor): name for name, tensor in own.items()}
    missing, extra = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or extra:
        parts = [
            f"{label} {', '.join(keys[:3])}" + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
            for label, keys in (("lacks", missing), ("has an unknown", extra))
            if keys
        ]
        raise Vision3DError(f"weights {source} do not fit the network: the file {'; '.join(parts)}")
    out = {}
    for theirs, name in names.items():
        wanted, given = own[name], state[theirs]
        shape = list(weight_to_minkowski(wanted).shape) if theirs.endswith(".kernel") else list(wanted.shape)
        if theirs.endswith(".bias") and given.ndim == 2 and len(given) == 1:
            given = given[0]
        if list(given.shape) != shape:
            raise Vision3DError(
                f"weights {source} do not fit the network: {theirs} is {list(given.shape)}, needed is {shape}"
            )
        out[name] = weight_from_minkowski(given, tuple(wanted.shape[:-2])) if theirs.endswith(".kernel") else given
    return out


def to_minkowski(net: nn.Module) -> dict[str, Tensor]:
    """The inverse of `from_minkowski`: the network's tensors as MinkowskiEngine would save them."""
    out = {}
    for name, tensor in net.state_dict().items():
        theirs = _theirs(name, tensor)
        if theirs.endswith(".kernel"):
            tensor = weight_to_minkowski(tensor)
        elif tensor.ndim == 1 and ".bn." not in theirs:
            tensor = tensor[None]
        out[theirs] = tensor
    return out


def _theirs(name: str, tensor: Tensor) -> str:
    """MinkowskiEngine's name of one of our tensors; kernels have more than two dimensions."""
    module, _, what = name.rpartition(".")
    if tensor.ndim > 2:
        return f"{module}.kernel"
    layer = module.rpartition(".")[2]
    return f"{module}.bn.{what}" if layer.startswith("norm") else name
