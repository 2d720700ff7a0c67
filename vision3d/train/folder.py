"""The folder of a training run: taken by one run at a time, described by the files beside the results."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from vision3d import __version__
from vision3d.config import dump_config
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_write_bytes, atomic_write_json, atomic_write_text, recover_leftovers
from vision3d.train.config import TrainConfig

PACKAGES = ("torch", "lightning-fabric", "numpy", "numba", "torchvision")


@dataclass(frozen=True, slots=True)
class TrainFolder:
    """OUT of `vision3d train`."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """All that the run needs to go on."""
        return self.path / "last.pt"

    @property
    def weights(self) -> Path:
        """Weights of the last checkpoint for inference: averaged ones if EMA is on."""
        return self.path / "weights.safetensors"

    @property
    def best_weights(self) -> Path:
        """Weights of the best validation."""
        return self.path / "best.safetensors"

    @property
    def log(self) -> Path:
        """Losses, one row for every `log_every` steps."""
        return self.path / "log.csv"

    @property
    def validation(self) -> Path:
        """Metrics, one row for each validation."""
        return self.path / "validation.csv"

    @property
    def curve(self) -> Path:
        """Picture of both tables."""
        return self.path / "curve.png"

    @property
    def config(self) -> Path:
        """All settings: `vision3d train OUT/config.yaml` is the same run again."""
        return self.path / "config.yaml"

    @property
    def versions(self) -> Path:
        """Versions and machine of the latest part of the run."""
        return self.path / "versions.json"

    def clear(self) -> None:
        """Removes an earlier run's files."""
        for path in (self.checkpoint, self.weights, self.best_weights, self.log, self.validation, self.curve):
            path.unlink(missing_ok=True)


@contextmanager
def open_folder(path: Path) -> Iterator[TrainFolder]:
    """Takes OUT for one training at a time: creates it, or goes on with an earlier run's.

    UsageError if it is a file, holds something else, or another training works in it; Vision3DError if it cannot be
    written to.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file; name a folder")
    marker = path / ".train.lock"
    if path.is_dir() and not marker.exists() and any(path.iterdir()):
        raise UsageError(f"--out {path} holds something else; name a new or empty folder, or an earlier training's")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = marker.open("a", encoding="utf-8")
    except OSError as error:
        raise Vision3DError(f"cannot write to --out {path}: {error.strerror}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another training works in {path}; wait for it or name another --out") from error
        recover_leftovers(path)
        yield TrainFolder(path)


def write_config(path: Path, task: str, settings: object | None, config: TrainConfig) -> None:
    """Writes all settings as `vision3d train` reads them."""
    content: dict[str, object] = {"task": task}
    if settings is not None:
        content["settings"] = yaml.safe_load(dump_config(settings))
    content["train"] = yaml.safe_load(dump_config(config))
    atomic_write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def write_versions(path: Path, device: torch.device, processes: int) -> None:
    """Versions, device and threads, which the last digits of a result may depend on."""
    versions = {"vision3d": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = {
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processes": processes,
    }
    atomic_write_json(path, {"versions": versions, "machine": machine})


def write_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Writes a state dict as safetensors; metadata: plain JSON values, kept as text (`read_metadata`)."""
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}
    atomic_write_bytes(path, _with_ordered_metadata(save(tensors, metadata=texts)))


def _with_ordered_metadata(data: bytes) -> bytes:
    """A safetensors file whose header is in order of names: the library's differs from run to run."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), separators=(",", ":"), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def read_metadata(path: Path) -> dict[str, str]:
    """What `write_weights` noted: task, config (YAML), vision3d, step, metrics (JSON)."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
