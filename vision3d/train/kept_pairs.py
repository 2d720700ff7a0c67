"""Pairs of point clouds that are expensive to make, kept in a folder after the first time."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vision3d.core import PointCloud, RigidTransform
from vision3d.errors import UsageError
from vision3d.io.atomic import atomic_write_bytes, atomic_write_json
from vision3d.matching.hough.grid import thin
from vision3d.train.cloud_samples import PairLike, PairSource


@dataclass(frozen=True, slots=True)
class KeptPair:
    """Two clouds and the true motion."""

    source: PointCloud
    target: PointCloud
    target_from_source: RigidTransform


class KeptPairs:
    """`source`, thinned to one point in a cube of `cell` and written to FOLDER/NNNNN.npz on first access.

    description: what the pairs are, as plain JSON; UsageError if the folder holds something else.
    """

    def __init__(self, source: PairSource, folder: Path, cell: float, description: dict[str, object]) -> None:
        self.source, self.folder, self.cell = source, folder, cell
        note = folder / "pairs.json"
        wanted = json.loads(json.dumps({**description, "cell": cell}))
        if note.is_file():
            if json.loads(note.read_text(encoding="utf-8")) != wanted:
                raise UsageError(f"{folder} holds pairs made with other settings; give another folder")
        elif folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} holds something else; give an empty folder for the pairs")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write_json(note, wanted)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> PairLike:
        path = self.folder / f"{index:05d}.npz"
        if not path.is_file():
            pair = self.source[index]
            buffer = io.BytesIO()
            np.savez(
                buffer,
                source=thin(pair.source.points.double().numpy(), self.cell).astype(np.float32),
                target=thin(pair.target.points.double().numpy(), self.cell).astype(np.float32),
                target_from_source=pair.target_from_source.matrix().double().numpy(),
            )
            atomic_write_bytes(path, buffer.getvalue())
        with np.load(path, allow_pickle=False) as kept:
            return KeptPair(
                PointCloud(torch.from_numpy(kept["source"])),
                PointCloud(torch.from_numpy(kept["target"])),
                RigidTransform.from_matrix(torch.from_numpy(kept["target_from_source"])),
            )
