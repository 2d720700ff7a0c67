"""Pairs of scans of one drive without poses: the true motion comes from a chain of ICP between neighbouring scans.

Made for a folder of KITTI scans (000000.bin, 000005.bin, ...) of a car that drives forward. Neighbours are aligned from
several guesses of the distance driven, coarse to fine (point-to-plane ICP), and the best fit counts. Chains of such
alignments agree with direct ones to a few hundredths of a degree and about 2 cm on KITTI: a pseudo ground truth.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch

from vision3d.core import PointCloud, RigidTransform, UsageError, Vision3DError
from vision3d.data.cloud_pairs import CloudPair
from vision3d.data.kitti_registration import on_grid
from vision3d.geometry.icp import IcpResult, icp, point_normals
from vision3d.io.scans import read_scan

_GUESSES_M = (0.0, 1.5, 3.0, 4.5, 6.0, 7.5)  # driven between neighbours, along the LiDAR's x
_COARSE_M, _FINE_M = 0.6, 0.25
_LEAST_FITNESS = 0.5  # of the fine grid's points within 0.5 m, or the neighbours did not align


class DrivePairs(torch.utils.data.Dataset[CloudPair]):
    """Pairs of scans whose numbers differ by about `gap` frames (to a fifth of it); the later scan is the source.

    Raises:
        UsageError: no such scans, or none so far apart. Vision3DError: a broken scan, or neighbours that do not align.
    """

    def __init__(self, folder: str | Path, gap: int) -> None:
        self.folder, self.gap = Path(folder), gap
        self.scans = {int(p.stem): p for p in sorted(self.folder.glob("*.bin")) if p.stem.isdecimal()}
        self.frames = sorted(self.scans)
        self.pairs = [(a, b) for a in self.frames for b in self.frames if b > a and abs(b - a - gap) <= gap / 5]
        if not self.pairs:
            raise UsageError(f"{folder} has no scans (000123.bin) {gap} frames apart, only {self.frames}")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> CloudPair:
        first, second = self.pairs[index]
        name = self.folder.resolve().parent.name if self.folder.name == "velodyne" else self.folder.resolve().name
        return CloudPair(
            f"{name}/{second:06d}_{first:06d}",
            f"{name}, {self.gap} frames apart",
            read_scan(self.scans[second], "drop"),
            read_scan(self.scans[first], "drop"),
            self.chained(first, second),
        )

    def chained(self, first: int, second: int) -> RigidTransform:
        """first_from_second over all scans between."""
        numbers = self.frames[self.frames.index(first) : self.frames.index(second) + 1]
        pose = RigidTransform.identity()
        for a, b in pairwise(numbers):
            pose = pose @ _neighbours(self.scans[a], self.scans[b])
        return pose


def align_neighbours(source: PointCloud, target: PointCloud) -> IcpResult:
    """target_from_source of two scans of a car that drove 0 to 9 m forward from target to source.

    Raises:
        ValueError: no guess fits.
    """
    moving, still = on_grid(source, _COARSE_M), on_grid(target, _COARSE_M)
    normals = point_normals(still)
    best: IcpResult | None = None
    for guess in _GUESSES_M:
        start = RigidTransform(torch.eye(3).double(), torch.tensor([guess, 0.0, 0.0]).double())
        try:
            near = icp(moving, still, start, 2.0, target_normals=normals, steps=15)
            found = icp(moving, still, near.target_from_source, 0.6, target_normals=normals, steps=30)
        except ValueError:
            continue
        if best is None or found.fitness > best.fitness:
            best = found
    if best is None:
        raise ValueError("no distance driven brings the scans together")
    moving, still = on_grid(source, _FINE_M), on_grid(target, _FINE_M)
    found = icp(moving, still, best.target_from_source, 0.5, target_normals=point_normals(still), steps=50)
    if found.fitness < _LEAST_FITNESS:
        raise ValueError(f"only {found.fitness:.0%} of the points fit")
    return found


@lru_cache(maxsize=64)
def _neighbours(target: Path, source: Path) -> RigidTransform:
    try:
        return align_neighbours(read_scan(source, "drop"), read_scan(target, "drop")).target_from_source
    except ValueError as error:
        raise Vision3DError(f"{source} does not align with {target}: {error}") from None
