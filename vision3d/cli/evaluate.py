"""`vision3d evaluate poses` and `vision3d evaluate pairs`: how close a result, or a matcher, comes to ground truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class EvaluatePosesConfig:
    """Pose accuracy of a result against a ground truth, over all pairs of photos."""

    result: Positional[Path]
    """Output folder of `reconstruct`, cameras.json, transforms.json or a COLMAP model's folder."""
    ground_truth: Positional[Path]
    """The true cameras, in any of the same forms."""
    photos: tuple[str, ...] = ()
    """Count the pairs of these photos only (default: those the run was given, else all of the ground truth)."""
    out: Path | None = None
    """Also write the JSON to this file."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True, kw_only=True)
class EvaluatePairsConfig:
    """Matchers on image pairs with ground truth: homographies, annotated points, relative poses, disparity."""

    data: Path
    """Folder with pairs and their ground truth (gt.json, homographies.json or HPatches sequences), searched deeply."""
    out: Path
    """Folder for the matches (one npz per pair, reused on a re-run) and report.json."""
    matchers: tuple[str, ...] = ()
    """Names of matchers (default: all whose weights are on this machine)."""
    weights: Path | None = None
    """Weights file of eloftr or dkm, whichever is among the matchers; default: the published ones."""
    max_size: int | None = None
    """Longer side in px at which photos are matched (default: each matcher's own)."""
    estimators: tuple[str, ...] = ("poselib", "opencv-magsac")
    """Robust estimators: poselib, opencv-magsac, opencv-ransac."""
    homography_px: float = 3.0
    """Inlier threshold for homographies, px of photo 1 scaled to a shorter side of 480."""
    epipolar_px: float = 2.0
    """Inlier threshold for fundamental matrices, px of the original photos."""
    pose_px: float = 2.0
    """Inlier threshold for relative poses, px of the original photos."""
    seeds: int = 5
    """How often each estimation is repeated; the errors are pooled."""
    stereo: bool = True
    """Add scikit-image's Motorcycle pair with dense disparity."""
    json: bool = False
    """Print JSON instead of tables."""
    markdown: bool = False
    """Print Markdown instead of tables."""


def run_poses(config: EvaluatePosesConfig) -> int:
    """Prints the accuracy of the poses."""
    from vision3d.eval.pose_report import report_poses
    from vision3d.eval.tables import print_tables
    from vision3d.io.atomic import atomic_write_json

    report = report_poses(config.result, config.ground_truth, config.photos)
    if config.out is not None:
        atomic_write_json(config.out, report.json())
    if config.json:
        print(json.dumps(report.json(), indent=1, ensure_ascii=False))
    else:
        print_tables(report.tables())
    return 0


def run_pairs(config: EvaluatePairsConfig) -> int:
    """Matches all pairs (or takes the saved matches), then measures and prints one table per set of pairs."""
    from vision3d.cli.progress import progress_bars
    from vision3d.errors import UsageError
    from vision3d.eval.pair_report import evaluate_pairs
    from vision3d.eval.pairs import PairProtocol
    from vision3d.eval.tables import print_tables
    from vision3d.matching.catalogue import MATCHERS, weights_on_disk

    if config.json and config.markdown:
        raise UsageError("choose one of --json and --markdown")
    try:
        protocol = PairProtocol(
            estimators=config.estimators,
            homography_px=config.homography_px,
            epipolar_px=config.epipolar_px,
            pose_px=config.pose_px,
            seeds=config.seeds,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    matchers = config.matchers or tuple(name for name in MATCHERS if weights_on_disk(name))
    with progress_bars() as progress:
        report = evaluate_pairs(
            config.data,
            config.out,
            matchers,
            protocol,
            max_size=config.max_size,
            weights=config.weights,
            stereo=config.stereo,
            progress=progress,
        )
    if config.json:
        print(json.dumps(report.json(), indent=1, ensure_ascii=False))
    elif config.markdown:
        print("\n".join(table.markdown() for table in report.tables))
    else:
        print_tables(report.tables)
    return 0
