"""Pairs of KITTI odometry scans about 10 m apart, by the rule of FCGF.

C. Choy, J. Park and V. Koltun, "Fully Convolutional Geometric Features", ICCV 2019; Z. J. Yew and G. H. Lee,
"3DFeat-Net", ECCV 2018, whose rule for the pairs it follows. From a scan, the last one before the first that is more
than 10 m away, among the next 100; the next pair starts one scan later. Pair 15, 58 of sequence 08 is left out.

The odometry's poses are too coarse for ground truth. They are refined by point-to-point ICP (0.2 m, 200 steps, 5 cm
grid), which is saved for each pair. Two things differ from FCGF's code: each sequence has its own calibration there,
and the ICP's motion is applied after the start, in the frame where it was found (FCGF multiplies it from the other
side, an error of the second order in both motions).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64

from vision3d.core import PointCloud, RigidTransform, UsageError, Vision3DError
from vision3d.data.cloud_pairs import CloudPair
from vision3d.data.kitti_odometry import KittiOdometryDataset
from vision3d.geometry.icp import icp
from vision3d.io.atomic import atomic_write_json
from vision3d.io.kitti_sequences import read_poses

Split = Literal["train", "val", "test"]
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("00", "01", "02", "03", "04", "05"),
    "val": ("06", "07"),
    "test": ("08", "09", "10"),
}
LEFT_OUT = frozenset({("08", 15, 58)})
MIN_APART_M = 10.0
LOOK_AHEAD = 100
_GRID_M, _PAIRING_M, _STEPS = 0.05, 0.2, 200


def pairs_by_distance(positions: Float64[np.ndarray, "n 3"], frames: Sequence[int]) -> list[tuple[int, int]]:
    """FCGF's pairs of a sequence. positions: of every frame of the poses, metres; frames: those that have a scan.

    A frame without a scan ends the search for its pair only; FCGF's loop, made for complete sequences, would not end.
    """
    there = set(frames)
    pairs = []
    at = min(there, default=0)
    while at in there and at < len(positions):
        distance = np.linalg.norm(positions[at : at + LOOK_AHEAD] - positions[at], axis=1)
        far = np.flatnonzero(distance > MIN_APART_M)
        other = at + int(far[0]) - 1 if len(far) else -1
        if other > at and other in there:
            pairs.append((at, other))
            at = other + 1
        else:
            at += 1
        while at not in there and at <= max(there):
            at += 1
    return pairs


class KittiRegistrationDataset(torch.utils.data.Dataset[CloudPair]):
    """The pairs of a split (test: 555 from sequences 08 to 10) in the official odometry layout.

    Ground truth is refined and written to CACHE/SEQUENCE_SOURCE_TARGET.json on first access. Sequences without scans
    or poses are left out and named in `missing`.

    Raises:
        UsageError: not KITTI's odometry folder, or no pair. Vision3DError: a broken file, or scans that the poses bring
            so little together that ICP fails.
    """

    def __init__(self, root: str | Path, cache: str | Path, split: Split = "test") -> None:
        folder, self.cache = Path(root), Path(cache)
        self.missing: dict[str, str] = {}
        for name in SPLITS[split]:
            if not any((folder / "sequences" / name / "velodyne").glob("*.bin")):
                self.missing[name] = "no scans"
            elif not (folder / "poses" / f"{name}.txt").is_file():
                self.missing[name] = "no poses"
        there = [name for name in SPLITS[split] if name not in self.missing]
        if not there:
            raise UsageError(
                f"{root} has no sequence of the {split} split with sequences/NN/velodyne and poses/NN.txt "
                f"({', '.join(SPLITS[split])} are needed): is it KITTI's odometry folder?"
            )
        self.scans = KittiOdometryDataset(folder, there, invalid="drop")
        self.index = {(name, int(path.stem)): i for i, (name, path) in enumerate(self.scans.frames)}
        self.pairs: list[tuple[str, int, int]] = []
        for name in there:
            positions = read_poses(folder / "poses" / f"{name}.txt").translation.numpy()
            frames = [frame for sequence, frame in self.index if sequence == name]
            found = [(name, *pair) for pair in pairs_by_distance(positions, frames)]
            self.pairs += [pair for pair in found if pair not in LEFT_OUT]
        if not self.pairs:
            raise UsageError(f"the sequences {', '.join(there)} in {root} have no two scans 10 m apart")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> CloudPair:
        name, first, second = self.pairs[index]
        source, target = self.scans[self.index[name, first]], self.scans[self.index[name, second]]
        if source.first_from_lidar is None or target.first_from_lidar is None:
            raise Vision3DError(f"sequence {name} has no poses")
        start = target.first_from_lidar.inverse() @ source.first_from_lidar
        truth = self._refined(f"{name}_{first}_{second}", source.cloud, target.cloud, start)
        return CloudPair(f"{name}/{first}_{second}", name, source.cloud, target.cloud, truth)

    def notes(self) -> list[str]:
        """What is not there, a line for each sequence; empty if the split is complete."""
        return [f"sequence {name} left out: {reason}" for name, reason in self.missing.items()]

    def _refined(self, pair: str, source: PointCloud, target: PointCloud, start: RigidTransform) -> RigidTransform:
        path = self.cache / f"{pair}.json"
        digest = hashlib.blake2b(digest_size=16)
        for part in (source.points, target.points, start.matrix()):
            digest.update(np.ascontiguousarray(part.numpy()).tobytes())
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["inputs"] == digest.hexdigest():
                return RigidTransform.from_matrix(torch.tensor(saved["target_from_source"], dtype=torch.float64))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        try:
            found = icp(on_grid(source, _GRID_M), on_grid(target, _GRID_M), start, _PAIRING_M, steps=_STEPS)
        except ValueError as error:
            raise Vision3DError(f"KITTI pair {pair}: the poses could not be refined: {error}") from None
        content = {
            "inputs": digest.hexdigest(),
            "target_from_source": found.target_from_source.matrix().tolist(),
            "fitness": found.fitness,
            "rmse_m": found.rmse,
        }
        atomic_write_json(path, content)
        return found.target_from_source


def on_grid(cloud: PointCloud, edge: float) -> torch.Tensor:
    """One point of the cloud in each occupied cube of that edge: the first, in the cloud's order; float64."""
    points = cloud.points.double()
    _, first = np.unique(np.floor(points.numpy() / edge).astype(np.int64), axis=0, return_index=True)
    return points[torch.from_numpy(np.sort(first))]
