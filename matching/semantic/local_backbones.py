"""Backbones of torchvision and timm (with it DINOv2 and DINOv3) whose weights lie in a local file; nothing is fetched.

DINOv2: M. Oquab et al., 2023; DINOv3: O. Simeoni et al., 2025. A source is ARCHITECTURE[@LAYER]:FILE; FILE may
be a folder that holds one weights file. A layer is a module's name (torchvision) or a number (timm's block).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.backbones import check_multiple
from vision3d.weights import read_state_dict

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
PREFIXES = ("state_dict.", "model.", "module.")  # around the tensors' names in checkpoints
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
COARSEST = 16  # px: of the layers with a grid the last with this stride or a finer one is taken
PROBE = (224, 448)  # px: height and width that layers are measured with


@dataclass(frozen=True, slots=True)
class LocalSource:
    """architecture: its name in the library; layer: None for the default one; file: the weights."""

    architecture: str
    layer: str | None
    file: Path

    @classmethod
    def parse(cls, text: str) -> LocalSource:
        """From ARCHITECTURE[@LAYER]:FILE. UsageError if it is not that, or if there is no such file."""
        name, colon, path = text.partition(":")
        architecture, at, layer = name.partition("@")
        if not colon or not architecture or not path or (at and not layer):
            raise UsageError(f"local weights are named ARCHITECTURE:FILE or ARCHITECTURE@LAYER:FILE, got {text!r}")
        file = Path(path).expanduser()
        if file.is_dir():
            found = sorted(f for f in file.iterdir() if f.suffix in ENDINGS)
            if len(found) != 1:
                raise UsageError(
                    f"{file} holds {len(found)} weights files ({', '.join(ENDINGS)}); name one of them"
                    + (f": {', '.join(f.name for f in found[:5])}" if found else "")
                )
            file = found[0]
        elif not file.is_file():
            raise UsageError(f"{file}: no such weights file")
        return cls(architecture, layer or None, file)

    def state(self) -> dict[str, Tensor]:
        """The file's tensors, without a prefix that all of their names share. Vision3DError if it cannot be read."""
        state = read_state_dict(self.file)
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
        return state

    def digest(self) -> str:
        """Of the file's content."""
        with self.file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


class TorchvisionBackbone:
    """A convolutional network of torchvision, cut off at a layer."""

    def __init__(self, source: str, *, device: str = "cpu") -> None:
        from torchvision.models import get_model, list_models  # type: ignore[import-untyped, unused-ignore]
        from torchvision.models.feature_extraction import (  # type: ignore[import-untyped, unused-ignore]
            create_feature_extractor,
        )

        self.source = LocalSource.parse(source)
        name = self.source.architecture
        if name not in list_models():
            raise UsageError(f"torchvision has no architecture {name!r}; it has {', '.join(list_models()[:8])}, ...")
        model = get_model(name, weights=None).eval()
        load_all(model, self.source.state(), self.source)
        grids = _grids(model)
        self.layer = self.source.layer or _default_layer(grids, name)
        if self.layer not in grids:
            raise UsageError(f"{name} has no layer {self.layer!r} that gives a grid; it has {', '.join(grids)}")
        self.channels, self.stride = grids[self.layer]
        self.multiple = self.stride
        self.name = f"torchvision:{name}"
        self.device = torch.device(device)
        network = create_feature_extractor(model, {self.layer: "grid"})
        self._network: nn.Module = network.eval().requires_grad_(False).to(self.device)

    @property
    def settings(self) -> dict[str, object]:
        """See `Backbone`."""
        return {"backbone": self.name, "layer": self.layer, "stride": self.stride, "weights": self.source.digest()}

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """See `Backbone`."""
        check_multiple(self.name, rgb, self.multiple)
        grid: Tensor = self._network(_normalised(rgb.to(self.device), MEAN, STD))["grid"]
        return grid


class TimmBackbone:
    """A network of timm: patch tokens of a vision transformer after a block (and the final norm), or a CNN's stage."""

    def __init__(self, source: str, *, device: str = "cpu") -> None:
        try:
            import timm  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise Vision3DError("backbones of timm, DINOv2 and DINOv3 need a package, run: pip install timm") from None

        self.source = LocalSource.parse(source)
        name = self.source.architecture
        if not timm.is_model(name):
            raise UsageError(f"timm {timm.__version__} has no architecture {name!r}")
        try:
            model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
        except TypeError:  # only vision transformers take pictures of any size by that name
            model = timm.create_model(name, pretrained=False, num_classes=0)
        config: dict[str, Any] = model.pretrained_cfg
        heads = config.get("classifier") or ()
        state = _timm_state(self.source, model)
        load_all(model, state, self.source, (heads,) if isinstance(heads, str) else tuple(heads))
        infos: list[dict[str, Any]] = list(model.feature_info)
        self.layer = _timm_layer(self.source.layer, infos, name)
        self.channels, self.stride = int(infos[self.layer]["num_chs"]), int(infos[self.layer]["reduction"])
        self.multiple = self.stride
        self.name = f"timm:{name}"
        self.device = torch.device(device)
        self._mean, self._std = tuple(config["mean"]), tuple(config["std"])
        self._network: Any = model.eval().requires_grad_(False).to(self.device)

    @property
    def settings(self) -> dict[str, object]:
        """See `Backbone`."""
        return {"backbone": self.name, "layer": self.layer, "stride": self.stride, "weights": self.source.digest()}

    @torch.no_grad()
    def __call__(self, rgb: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """See `Backbone`."""
        check_multiple(self.name, rgb, self.multiple)
        x = _normalised(rgb.to(self.device), self._mean, self._std)
        grids: list[Tensor] = self._network.forward_intermediates(
            x, indices=[self.layer], norm=True, stop_early=True, output_fmt="NCHW", intermediates_only=True
        )
        return grids[0]


def load_all(model: nn.Module, state: Mapping[str, Tensor], source: LocalSource, heads: tuple[str, ...] = ()) -> None:
    """Loads the tensors into the model, strictly; only those of the classifier `heads` may be too many.

    Raises:
        Vision3DError: missing, unknown or wrongly shaped tensors; the first of them is named.
    """
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted and not any(key.startswith(f"{head}.") for head in heads)]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    for keys, what in ((missing, "is missing"), (extra, "is unknown"), (wrong, "has another shape")):
        if keys:
            raise Vision3DError(
                f"{source.file}: no weights of {source.architecture}: {min(keys)} {what} ({len(keys)} such tensors)"
            )
    model.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def fitting_size(backbone_multiple: int, wanted: int = 512) -> int:
    """The multiple of the backbone's stride that is nearest to `wanted` px: 518 px for patches of 14."""
    return max(1, round(wanted / backbone_multiple)) * backbone_multiple


def _normalised(rgb: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (rgb - rgb.new_tensor(mean)[:, None, None]) / rgb.new_tensor(std)[:, None, None]


def _grids(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Channels and stride of the modules (up to two levels deep) that give a grid, in the order in which they run."""
    found: dict[str, tuple[int, int]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[3] == 2 * output.shape[2] > 2:
                stride, rest = divmod(PROBE[0], output.shape[2])
                if not rest:
                    found[name] = (output.shape[1], stride)

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules() if n and n.count(".") < 2]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, *PROBE))
    except (AssertionError, RuntimeError):  # networks that take one size
        found.clear()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _default_layer(grids: dict[str, tuple[int, int]], name: str) -> str:
    fine = [layer for layer, (_, stride) in grids.items() if stride <= COARSEST]
    if not fine:
        raise UsageError(
            f"{name} gives no grid of features for pictures of any size (torchvision's vision transformers do not): "
            "take it from timm"
        )
    stride = max(grids[layer][1] for layer in fine)
    return [layer for layer in fine if grids[layer][1] == stride][-1]


def _timm_state(source: LocalSource, model: nn.Module) -> dict[str, Tensor]:
    """The file's tensors as timm names them: its modules know the layouts of the networks' publishers."""
    state = source.state()
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted: dict[str, Tensor] = convert(state, model)
    except (RuntimeError, KeyError, ValueError, IndexError) as error:  # whatever the wrong tensors led to
        reason = str(error).splitlines()[0]
        raise Vision3DError(f"{source.file}: no weights of {source.architecture} ({reason})") from None
    return converted


def _timm_layer(layer: str | None, infos: list[dict[str, Any]], name: str) -> int:
    if layer is None:
        fine = [i for i, info in enumerate(infos) if int(info["reduction"]) <= COARSEST]
        if not fine:
            raise UsageError(f"{name} gives no grid of {COARSEST} px or finer: name a layer, {name}@NUMBER")
        return fine[-1]
    if not layer.isdigit() or int(layer) >= len(infos):
        raise UsageError(f"{name} has the layers 0 to {len(infos) - 1}, got {layer!r}")
    return int(layer)
