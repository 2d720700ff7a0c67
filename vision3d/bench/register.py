"""`vision3d bench register`: recall and time of registration beside Open3D's RANSAC and FGR and KISS-Matcher.

All work on the same pairs at the same voxel, from our thinned points and features (`kiss` has its own features), and
end with the same ICP. A call registers all pairs of a case; reading the clouds is not timed. A peer "differs" by the
share of pairs that it gets right and we do not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from vision3d.bench.harness import Case, measure, report
from vision3d.core import RigidTransform
from vision3d.data.cloud_pairs import CloudPair
from vision3d.data.drive_pairs import DrivePairs
from vision3d.data.overlap_crops import OverlapCrops
from vision3d.data.threedmatch import Benchmark, ThreeDMatchDataset
from vision3d.errors import UsageError
from vision3d.eval.registration_errors import rotation_error_deg, translation_error
from vision3d.eval.registration_predictions import OURS, run_method
from vision3d.matching.hough.baselines import BASELINES, why_not
from vision3d.matching.hough.registration import Registration

Result = list[Registration]
FRAGMENT_LIMIT_S = 0.5  # a pair, on two cores
OVERLAPS = (0.3, 0.2, 0.1)
GAPS = (5, 10)


@dataclass(frozen=True, kw_only=True)
class BenchRegisterConfig:
    """Recall and time of registration beside Open3D's RANSAC and FGR and KISS-Matcher on the same pairs."""

    scans: Path | None = None
    """Folder with the scenes of 3DMatch (see `evaluate 3dmatch`); its pairs are also cut to 30, 20 and 10 % overlap."""
    drive: Path | None = None
    """Folder of KITTI scans of one drive (000000.bin), for pairs 5 and 10 frames apart."""
    cases: tuple[str, ...] = ()
    """Only cases whose name has one of these words (default: all)."""
    repeats: int = 3
    """Calls of each, of which the median is reported."""
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    """Threads of torch and Numba; the peers' come from OMP_NUM_THREADS."""
    seed: int = 0
    """Of the cuts and of the methods that draw at random."""
    json: bool = False
    """Print the figures as JSON."""


@dataclass(frozen=True, slots=True)
class PairSet:
    """Pairs of one kind, and when a pose is right."""

    name: str
    pairs: list[CloudPair]
    voxel: float
    most_deg: float
    most_m: float
    limit_s: float | None = None

    def right(self, found: Result) -> list[bool]:
        """Which poses are right."""
        pairs = zip(found, self.pairs, strict=True)
        return [self._near(f.target_from_source, p.target_from_source) for f, p in pairs]

    def describe(self, found: Result, judged: bool) -> str:
        """Counts and mean errors of the right ones, before and after ICP."""
        words = []
        stages = {"before ICP": [f.coarse for f in found], "after": [f.target_from_source for f in found]}
        for stage, poses in stages.items():
            pairs = [(pose, p.target_from_source) for pose, p in zip(poses, self.pairs, strict=True)]
            right = [(pose, truth) for pose, truth in pairs if self._near(pose, truth)]
            text = f"{stage} {len(right)} of {len(pairs)} right"
            if right:
                rotation = np.mean([rotation_error_deg(*pair) for pair in right])
                translation = np.mean([translation_error(*pair) for pair in right])
                text += f" (RE {rotation:.2f} deg, TE {100 * translation:.1f} cm)"
            words.append(text)
        if judged:
            wrong = sum(f.registered and not r for f, r in zip(found, self.right(found), strict=True))
            words.append(f"{sum(f.registered for f in found)} called registered, {wrong} of them wrong")
        return "; ".join(words)

    def missed(self, ours: Result, peer: Result) -> float:
        """Share of pairs that the peer gets right and we do not."""
        pairs = zip(self.right(ours), self.right(peer), strict=True)
        return sum(theirs and not mine for mine, theirs in pairs) / len(self.pairs)

    def _near(self, pose: RigidTransform, truth: RigidTransform) -> bool:
        return rotation_error_deg(pose, truth) < self.most_deg and translation_error(pose, truth) < self.most_m


def run(config: BenchRegisterConfig) -> int:
    """Measures and prints; 0 when no peer gets a pair right that we do not, and the limit is kept."""
    import torch

    for name in ("repeats", "threads"):
        if getattr(config, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(config, name)}")
    torch.set_num_threads(config.threads)
    sets = [s for s in pair_sets(config) if not config.cases or any(word in s.name for word in config.cases)]
    if not sets:
        raise UsageError("no pairs: give --scans, --drive or both, and --cases that fit")
    rows = [measure(case(pairs, config.seed), config.repeats) for pairs in sets]
    return report("register", rows, as_json_text=config.json)


def pair_sets(config: BenchRegisterConfig) -> list[PairSet]:
    """The pairs in the folders given. 3DLoMatch is left out where none of its pairs has both fragments."""
    sets = []
    if config.scans is not None:
        fragments = _all_pairs(ThreeDMatchDataset(config.scans))
        limit = FRAGMENT_LIMIT_S * len(fragments)
        sets.append(PairSet(f"3DMatch, {len(fragments)} pairs", fragments, 0.05, 15, 0.3, limit))
        low = _low_overlap(config.scans)
        if low:
            sets.append(PairSet(f"3DLoMatch, {len(low)} pairs", low, 0.05, 15, 0.3))
        for overlap in OVERLAPS:
            name = f"{overlap:.0%} overlap"
            if not config.cases or any(word in name for word in config.cases):
                cut = OverlapCrops(fragments, [overlap], config.seed).samples
                sets.append(PairSet(f"{name}, {len(cut)} pairs", cut, 0.05, 15, 0.3))
    if config.drive is not None:
        for gap in GAPS:
            scans = _all_pairs(DrivePairs(config.drive, gap))
            sets.append(PairSet(f"KITTI {gap} frames apart, {len(scans)} pairs", scans, 0.3, 5, 0.6))
    return sets


def case(pairs: PairSet, seed: int) -> Case:
    """The pairs as a case of the harness."""
    peers = {
        name: None if why_not(name) else partial(_prepare, name, pairs.pairs, pairs.voxel, seed) for name in BASELINES
    }
    return Case(
        name=pairs.name,
        ours=partial(_prepare, OURS, pairs.pairs, pairs.voxel, seed),
        peers=peers,
        difference=pairs.missed,
        tolerance=0.0,
        describe=partial(_describe, pairs),
        limit_s=pairs.limit_s,
    )


def _prepare(method: str, pairs: Sequence[CloudPair], voxel: float, seed: int) -> Callable[[], Result]:
    def call() -> Result:
        return [run_method(method, pair.source, pair.target, voxel, seed) for pair in pairs]

    return call


def _describe(pairs: PairSet, found: Result) -> str:
    judged = any(f.evidence.matches for f in found)  # only ours weighs the evidence
    return pairs.describe(found, judged)


def _all_pairs(pairs: ThreeDMatchDataset | DrivePairs) -> list[CloudPair]:
    return [pairs[i] for i in range(len(pairs))]


def _low_overlap(root: Path) -> list[CloudPair]:
    benchmark: Benchmark = "3DLoMatch"
    try:
        return _all_pairs(ThreeDMatchDataset(root, benchmark))
    except UsageError:
        return []
