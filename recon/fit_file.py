"""The outcome of fitting surfels on disk: surfels as arrays, and a JSON file beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from vision3d.core import RigidTransform, Surfels
from vision3d.recon.fit_config import FitCurves, FitResult

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def write_surfel_arrays(path: Path, surfels: Surfels) -> None:
    """Writes an npz with one float32 array per field."""
    with path.open("wb") as file:
        np.savez(file, **{name: getattr(surfels, name).detach().float().numpy() for name in FIELDS})


def read_surfel_arrays(path: Path) -> Surfels:
    """What `write_surfel_arrays` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return Surfels(*(torch.from_numpy(found[name]) for name in FIELDS))


def write_fit(folder: Path, result: FitResult) -> None:
    """Writes surfels.npz and fit.json; `read_fit` gives the result back."""
    write_surfel_arrays(folder / "surfels.npz", result.surfels)
    content = {
        "poses": {name: pose.matrix()[:3].tolist() for name, pose in result.poses.items()},
        "exposure": result.exposure,
        "background": result.background,
        "curves": asdict(result.curves),
        "ended": result.ended,
    }
    (folder / "fit.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_fit(folder: Path) -> FitResult:
    """What `write_fit` wrote."""
    content = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    poses = {
        name: RigidTransform.from_matrix(torch.tensor(rows, dtype=torch.float64))
        for name, rows in content["poses"].items()
    }
    exposure = {name: (tuple(gain), tuple(offset)) for name, (gain, offset) in content["exposure"].items()}
    return FitResult(
        read_surfel_arrays(folder / "surfels.npz"),
        poses,
        exposure,
        tuple(content["background"]),
        FitCurves(**content["curves"]),
        content["ended"],
    )
