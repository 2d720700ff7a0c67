"""`vision3d evaluate 3dmatch`, `3dlomatch`, `kitti-odometry`: registration by the benchmarks' official rules."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class EvaluateFragmentsConfig:
    """Registration recall on pairs of indoor fragments, by both rules and both averages in use."""

    root: Path
    """Folder with the scenes' fragments (SCENE/cloud_bin_0.ply) and benchmarks/3DMatch, 3DLoMatch (SCENE/gt.log)."""
    out: Path
    """Folder for the poses (one file a pair, reused on a re-run), report.json and recall.png."""
    method: tuple[str, ...] = ("hough",)
    """One or more of hough, fpfh-ransac, fgr (both by Open3D), kiss, kiss-matches (KISS-Matcher)."""
    voxel: float = 0.05
    """Edge of the grid that clouds are thinned to, m."""
    features: str | None = None
    """Learned features of hough instead of FPFH: a weights file or a published model's name (see `register --help`)."""
    votes: Path | None = None
    """Weights file of hough's vote network."""
    seed: int = 0
    """Of the methods that draw at random."""
    workers: int = 1
    """Processes that share the pairs."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True, kw_only=True)
class EvaluateKittiOdometryConfig:
    """Registration recall on pairs of LiDAR scans 10 m apart, sequences 08 to 10."""

    root: Path
    """KITTI's odometry folder: sequences/08/velodyne, sequences/08/calib.txt, poses/08.txt."""
    out: Path
    """Folder for the refined ground truth, the poses (one file a pair, reused on a re-run), report.json, recall.png."""
    method: tuple[str, ...] = ("hough",)
    """One or more of hough, fpfh-ransac, fgr (both by Open3D), kiss, kiss-matches (KISS-Matcher)."""
    voxel: float = 0.3
    """Edge of the grid that scans are thinned to, m."""
    features: str | None = None
    """Learned features of hough instead of FPFH: a weights file or a published model's name (see `register --help`)."""
    votes: Path | None = None
    """Weights file of hough's vote network."""
    seed: int = 0
    """Of the methods that draw at random."""
    workers: int = 1
    """Processes that share the pairs."""
    json: bool = False
    """Print JSON instead of tables."""


def run_3dmatch(config: EvaluateFragmentsConfig) -> int:
    """Registers and scores 3DMatch."""
    return _run("3DMatch", config)


def run_3dlomatch(config: EvaluateFragmentsConfig) -> int:
    """Registers and scores 3DLoMatch."""
    return _run("3DLoMatch", config)


def run_kitti_odometry(config: EvaluateKittiOdometryConfig) -> int:
    """Registers and scores KITTI's odometry pairs."""
    return _run("KITTI odometry", config)


def _run(benchmark: str, config: EvaluateFragmentsConfig | EvaluateKittiOdometryConfig) -> int:
    from vision3d.cli.progress import progress_bars
    from vision3d.eval.registration_predictions import PredictionSettings
    from vision3d.eval.registration_report import evaluate_registration, open_benchmark
    from vision3d.eval.tables import print_tables

    settings = PredictionSettings(
        methods=config.method, voxel=config.voxel, seed=config.seed, features=config.features, votes=config.votes
    )
    pairs, notes, expected = open_benchmark(benchmark, config.root, config.out)
    for line in notes:
        print(f"vision3d: {line}", file=sys.stderr)
    with progress_bars() as progress:
        report = evaluate_registration(
            pairs,
            benchmark,
            config.out,
            settings,
            notes=notes,
            expected=expected,
            workers=config.workers,
            progress=progress,
        )
    if config.json:
        print(json.dumps(report.json(), indent=1))
    else:
        print_tables(report.tables)
    return 0
