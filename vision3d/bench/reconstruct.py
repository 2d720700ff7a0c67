"""`vision3d bench reconstruct`: photos to cameras, beside COLMAP's own automatic pipeline with SIFT on the CPU.

Both read the same folder, match at the same size and use the same number of threads, all else by their defaults. Each
call runs in a fresh process; importing is not timed, everything from listing the folder to the finished model is. The
results are compared by the relative rotation of every pair of photos that both registered.
"""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from vision3d.bench.harness import Case, measure, report
from vision3d.errors import UsageError, Vision3DError

MAX_ROTATION_DIFFERENCE_DEG = 1.0


@dataclass(frozen=True, kw_only=True)
class BenchReconstructConfig:
    """Times photos-to-cameras beside COLMAP's own pipeline on the same photos."""

    photos: Path
    """folder of photos"""
    max_size: int = 1024
    """longer side in px at which photos are matched, for both"""
    repeats: int = 3
    """calls of each, of which the median is reported"""
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    """threads of each"""
    matcher: str = "auto"
    """our matcher"""
    json: bool = False
    """print the figures as JSON"""


@dataclass(frozen=True, slots=True)
class Registered:
    """A finished model in plain values: rotation of cam_from_world by photo, row by row; seconds by stage."""

    rotations: dict[str, list[list[float]]]
    points: int
    seconds: dict[str, float]


def run(config: BenchReconstructConfig) -> int:
    """Measures and prints; 0 when both results agree."""
    if not config.photos.is_dir():
        raise UsageError(f"--photos {config.photos}: no such folder")
    for name in ("max_size", "repeats", "threads"):
        if getattr(config, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(config, name)}")
    threads = str(config.threads)
    environment = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    peer = partial(prepare_colmap, config.photos, config.max_size, config.threads)
    case = Case(
        name=f"{'/'.join(config.photos.resolve().parts[-2:])} at {config.max_size} px",
        ours=partial(prepare_ours, config.photos, config.max_size, config.threads, config.matcher),
        peers={"pycolmap": peer if importlib.util.find_spec("pycolmap") else None},
        difference=rotation_difference_deg,
        tolerance=MAX_ROTATION_DIFFERENCE_DEG,
        describe=describe,
        isolate=True,
    )
    row = measure(case, config.repeats, environment)
    return report("reconstruct", [row], as_json_text=config.json)


def prepare_ours(photos: Path, max_size: int, threads: int, matcher: str) -> Callable[[], Registered]:
    """Imports our pipeline; the call runs it into a temporary folder."""
    import torch

    from vision3d.recon.pipeline import ReconstructConfig, reconstruct

    torch.set_num_threads(threads)

    def call() -> Registered:
        with tempfile.TemporaryDirectory(prefix="vision3d-bench-") as out:
            config = ReconstructConfig(
                photos=photos, out=Path(out) / "out", max_size=max_size, matcher=matcher, until="poses"
            )
            result = reconstruct(config)
        if result.scene is None:
            raise Vision3DError("no model was found")
        rotations = {name: image.cam_from_world.rotation.tolist() for name, image in result.scene.images.items()}
        return Registered(rotations, len(result.scene.points), dict(result.timings))

    return call


def prepare_colmap(photos: Path, max_size: int, threads: int) -> Callable[[], Registered]:
    """Imports COLMAP; the call extracts SIFT, matches all pairs, maps, and keeps the largest model."""
    import pycolmap

    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    extraction = pycolmap.FeatureExtractionOptions(num_threads=threads, use_gpu=False, max_image_size=max_size)
    matching = pycolmap.FeatureMatchingOptions(num_threads=threads, use_gpu=False)
    mapping = pycolmap.IncrementalPipelineOptions(num_threads=threads)

    def call() -> Registered:
        seconds = {}
        with tempfile.TemporaryDirectory(prefix="vision3d-bench-") as folder:
            database = Path(folder) / "database.db"
            start = time.perf_counter()
            pycolmap.extract_features(database, photos, extraction_options=extraction, device=pycolmap.Device.cpu)
            seconds["extract"] = time.perf_counter() - start
            start = time.perf_counter()
            pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
            seconds["match"] = time.perf_counter() - start
            start = time.perf_counter()
            models = pycolmap.incremental_mapping(database, photos, Path(folder) / "sparse", options=mapping)
            seconds["map"] = time.perf_counter() - start
        if not models:
            raise Vision3DError("COLMAP found no model")
        largest = max(models.values(), key=lambda model: model.num_reg_images())
        rotations = {
            image.name: image.cam_from_world().rotation.matrix().tolist()
            for image in largest.images.values()
            if image.has_pose
        }
        return Registered(rotations, largest.num_points3D(), seconds)

    return call


def rotation_difference_deg(ours: Registered, peer: Registered) -> float:
    """Largest angle between both results' relative rotations, over pairs that both registered; infinite without any."""
    import numpy as np

    common = sorted(set(ours.rotations) & set(peer.rotations))
    if len(common) < 2:
        return math.inf
    first = {name: np.array(ours.rotations[name]) for name in common}
    second = {name: np.array(peer.rotations[name]) for name in common}
    worst = 0.0
    for a, b in combinations(common, 2):
        between = (first[b] @ first[a].T).T @ (second[b] @ second[a].T)
        # The chord is exact near zero, where the arc cosine of the trace is not.
        chord = float(np.linalg.norm(between - np.eye(3))) / math.sqrt(8)
        worst = max(worst, math.degrees(2 * math.asin(min(1.0, chord))))
    return worst


def describe(result: Registered) -> str:
    """Counts, and seconds by stage where they are known."""
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
    return f"{len(result.rotations)} photos, {result.points} points" + (f" ({stages})" if stages else "")
