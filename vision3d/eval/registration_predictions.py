"""First phase of evaluating registration: every pair registered, its pose, verdict and matches saved to files.

OUT/pairs.json: the true poses. OUT/poses/METHOD/PAIR.json: what a method found. OUT/matches/PAIR.npz: the mutual
matches of our features that all methods but `kiss` start from. Files that fit clouds and settings are kept on a re-run.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import zipfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision3d.core import PointCloud, Progress, silent
from vision3d.data.cloud_pairs import CloudPair
from vision3d.data.loader import SampleSource
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_file, atomic_write_json, recover_leftovers
from vision3d.matching.hough.baselines import BASELINES, register_with, why_not
from vision3d.matching.hough.feature_matches import mutual_matches
from vision3d.matching.hough.features import describe
from vision3d.matching.hough.learned import read_networks
from vision3d.matching.hough.network_files import find_fcgf
from vision3d.matching.hough.register import RegisterConfig, Registration, register

OURS = "hough"
METHODS = (OURS, *BASELINES)
FORMAT = 2  # of the files; another number makes them all anew


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSettings:
    """voxel: m, of all methods. seed: where the method has one. features, votes: networks of `hough`, see
    `read_networks`; the other methods keep FPFH."""

    methods: tuple[str, ...] = (OURS,)
    voxel: float = 0.05
    seed: int = 0
    features: str | None = None
    votes: Path | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise UsageError(
                f"methods are one or more different of {', '.join(METHODS)}, got {', '.join(self.methods)}"
            )
        if (self.features or self.votes) and OURS not in self.methods:
            raise UsageError(f"features and votes are of the method {OURS}, which is not among the methods")
        if not self.voxel > 0:
            raise UsageError(f"the voxel is in metres and above 0, got {self.voxel:g}")
        for name in self.methods:
            reason = why_not(name) if name in BASELINES else None
            if reason is not None:
                raise Vision3DError(f"method {name}: {reason}")


def save_predictions(
    pairs: SampleSource[CloudPair],
    out: Path,
    settings: PredictionSettings,
    workers: int = 1,
    progress: Progress = silent,
) -> None:
    """Registers every pair with every method into OUT.

    workers: processes that share the pairs (each with one thread if there are several).

    Raises:
        UsageError: fewer than one worker. Vision3DError: a cloud cannot be read, or OUT cannot be written.
    """
    if workers < 1:
        raise UsageError(f"workers are 1 or more, got {workers}")
    for folder in (path.parent for path in out.glob("*/**/.*.tmp")):
        recover_leftovers(folder)
    networks = _digest(settings)
    total = len(pairs)
    truths: list[dict[str, Any]] = [{} for _ in range(total)]
    progress("register", 0, total)
    if workers == 1:
        for i in range(total):
            truths[i] = _predict(pairs, i, out, settings, networks)
            progress("register", i + 1, total)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _one_thread) as pool:
            jobs = {pool.submit(_predict, pairs, i, out, settings, networks): i for i in range(total)}
            for done, job in enumerate(as_completed(jobs), 1):
                truths[jobs[job]] = job.result()
                progress("register", done, total)
    atomic_write_json(out / "pairs.json", {"settings": _plain(settings), "workers": workers, "pairs": truths})


def run_method(
    name: str,
    source: PointCloud,
    target: PointCloud,
    voxel: float,
    seed: int,
    features: str | None = None,
    votes: Path | None = None,
) -> Registration:
    """target_from_source by one of METHODS; without ICP it stands in `coarse`. features, votes: of `hough` alone.

    Raises:
        ValueError: the clouds cannot be registered (too many points that are not finite). Vision3DError: the method's
            library is missing.
    """
    if name == OURS:
        learned, network = read_networks(features, votes)
        return register(source, target, RegisterConfig(voxel=voxel, seed=seed), features=learned, votes=network)
    return register_with(BASELINES[name], source, target, voxel, seed)


def poses_path(out: Path, method: str, pair: str) -> Path:
    """Where a method's result for a pair is saved."""
    return out / "poses" / method / f"{pair}.json"


def matches_path(out: Path, pair: str) -> Path:
    """Where a pair's matches are saved."""
    return out / "matches" / f"{pair}.npz"


def _one_thread() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def _digest(settings: PredictionSettings) -> dict[str, str]:
    """What the files of `hough`'s networks hold; empty without any. Errors as in `read_networks`, before the work."""
    read_networks(settings.features, settings.votes)
    files = {"features": find_fcgf(settings.features) if settings.features else None, "votes": settings.votes}
    return {
        name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for name, path in files.items()
        if path is not None
    }


def _plain(settings: PredictionSettings) -> dict[str, Any]:
    return {**asdict(settings), "votes": None if settings.votes is None else str(settings.votes)}


def _predict(
    pairs: SampleSource[CloudPair], index: int, out: Path, settings: PredictionSettings, networks: dict[str, str]
) -> dict[str, Any]:
    """Registers one pair where that was not done; returns what pairs.json says of it."""
    pair = pairs[index]
    clouds = hashlib.blake2b(digest_size=16)
    for cloud in (pair.source, pair.target):
        clouds.update(np.ascontiguousarray(cloud.points.numpy()).tobytes())
    common = {"format": FORMAT, "clouds": clouds.hexdigest(), "voxel": settings.voxel}
    for method in settings.methods:
        path, key = poses_path(out, method, pair.name), {**common, "method": method, "seed": settings.seed}
        if method == OURS:
            key.update(networks)
        if _saved_key(path) != key:
            atomic_write_json(path, {"key": key, **_result(method, pair, settings)})
    _save_matches(matches_path(out, pair.name), pair, settings.voxel, json.dumps(common, sort_keys=True))
    return {
        "name": pair.name,
        "scene": pair.scene,
        "target_from_source": pair.target_from_source.matrix().tolist(),
        "information": None if pair.information is None else pair.information.tolist(),
        "neighbours": pair.neighbours,
        "overlap": pair.overlap,
    }


def _result(method: str, pair: CloudPair, settings: PredictionSettings) -> dict[str, Any]:
    try:
        found = run_method(
            method, pair.source, pair.target, settings.voxel, settings.seed, settings.features, settings.votes
        )
    except ValueError as error:
        return {"registered": False, "target_from_source": None, "coarse": None, "reason": str(error), "seconds": {}}
    return {
        "registered": found.registered,
        "target_from_source": found.target_from_source.matrix().tolist(),
        "coarse": found.coarse.matrix().tolist(),
        "reason": found.evidence.reason,
        "evidence": found.evidence.as_json(),
        "seconds": found.timings,
    }


def _save_matches(path: Path, pair: CloudPair, voxel: float, key: str) -> None:
    try:
        with np.load(path, allow_pickle=False) as data:
            if str(data["key"]) == key:
                return
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    first, second = (describe(cloud.points.double().numpy(), voxel) for cloud in (pair.source, pair.target))
    indices, _ = mutual_matches(first.features, second.features)
    points0, points1 = first.points[indices[:, 0]] + first.center, second.points[indices[:, 1]] + second.center
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, points0=points0.astype("f4"), points1=points1.astype("f4"), key=np.array(key))


def _saved_key(path: Path) -> dict[str, Any] | None:
    try:
        key = json.loads(path.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key if isinstance(key, dict) else None
