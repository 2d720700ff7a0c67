"""`vision3d evaluate hpatches`, `megadepth1500`, `scannet1500`: matchers by the benchmarks' official protocols."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vision3d.data.listed_pairs import ListedPair
    from vision3d.eval.match_benchmark import Benchmark
    from vision3d.eval.match_scores import MatchProtocol
    from vision3d.eval.pair_matches import PhotoSize


@dataclass(frozen=True, kw_only=True)
class _Common:
    root: Path
    """Folder of the benchmark."""
    out: Path
    """Folder for matches and errors (a file each per pair, reused on a re-run), report.json, report.md, pairs.csv."""
    method: tuple[str, ...] = ("sift",)
    """One or more matchers (`vision3d match --help` lists them)."""
    weights: Path | None = None
    """Weights file of eloftr or dkm, whichever is among the methods; default: the published ones."""
    eloftr_threshold: float | None = None
    """Of eloftr, on its confidence; 0.1 in the authors' evaluation (default: the matcher's own, 0.2)."""
    eloftr_border: int | None = None
    """Of eloftr: cells of 8 px along the photos' edges that never match; 0 in the authors' evaluation on ScanNet
    (default: the matcher's own, 2)."""
    top: int | None = None
    """Only so many matches of a pair, the best scored (default: all); 1000 is usual for semi-dense matchers on
    HPatches."""
    confidence: float = 0.99999
    """Of the estimators: when they stop."""
    workers: int = 1
    """Processes that share the pairs."""
    json: bool = False
    """Print JSON instead of tables."""
    markdown: bool = False
    """Print Markdown instead of tables."""


@dataclass(frozen=True, kw_only=True)
class EvaluateHpatchesConfig(_Common):
    """Homographies of HPatches: matching accuracy at 1 to 10 px, AUC of the corner error at 3, 5 and 10 px."""

    shorter_side: int | None = 480
    """Photos are matched with a shorter side of at most so many px (LoFTR's and Efficient LoFTR's 480); None, with
    --longer-side None: as they are, as for published MMA curves."""
    longer_side: int | None = None
    """Instead, a longer side of at most so many px."""
    all_sequences: bool = False
    """With the eight sequences of large photos that D2-Net and all who follow it leave out."""
    estimators: tuple[str, ...] = ("opencv-ransac", "opencv-magsac", "poselib")
    """Robust estimators: poselib, opencv-magsac, opencv-ransac."""
    threshold_px: float = 3.0
    """Inlier threshold, px of photo 1 scaled to a shorter side of 480."""
    seeds: int = 1
    """How often each estimation is repeated with shuffled matches; the errors are pooled."""


@dataclass(frozen=True, kw_only=True)
class EvaluateMegadepthConfig(_Common):
    """MegaDepth-1500: AUC of the relative pose at 5, 10 and 20 degrees."""

    index: Path | None = None
    """Folder of the index (0015_0.1_0.3.npz and four more) or glue-factory's pairs_calibrated.txt; default: searched
    for in --root."""
    longer_side: int | None = 1152
    """Photos are matched with a longer side of at most so many px: 1152 Efficient LoFTR, 1600 LightGlue; None: as they
    are."""
    multiple: int = 1
    """Then sides are rounded down to a multiple of it: 8 in LoFTR's own evaluation, 32 in Efficient LoFTR's; the
    matchers here take any size."""
    estimators: tuple[str, ...] = ("opencv-ransac", "poselib")
    """Robust estimators: poselib, opencv-magsac, opencv-ransac."""
    opencv_px: float = 0.5
    """Inlier threshold of OpenCV's estimators, px of the original photos over the mean focal length."""
    poselib_px: float = 2.0
    """Inlier threshold of PoseLib, px of the original photos."""
    seeds: int = 5
    """How often each estimation is repeated with shuffled matches; the errors are pooled (Efficient LoFTR's 5)."""


@dataclass(frozen=True, kw_only=True)
class EvaluateScannetConfig(_Common):
    """ScanNet-1500: AUC of the relative pose at 5, 10 and 20 degrees, photos matched at 640x480."""

    index: Path | None = None
    """Folder of test.npz and intrinsics.npz; default: searched for in --root."""
    estimators: tuple[str, ...] = ("opencv-ransac", "poselib")
    """Robust estimators: poselib, opencv-magsac, opencv-ransac."""
    opencv_px: float = 0.5
    """Inlier threshold of OpenCV's estimators, px of 640x480 photos over the mean focal length."""
    poselib_px: float = 2.0
    """Inlier threshold of PoseLib, px of 640x480 photos."""
    seeds: int = 5
    """How often each estimation is repeated with shuffled matches; the errors are pooled."""


def run_hpatches(config: EvaluateHpatchesConfig) -> int:
    """Matches and measures HPatches."""
    from vision3d.data.hpatches import LEFT_OUT, hpatches_pairs
    from vision3d.eval.pair_matches import PhotoSize

    px = config.threshold_px
    protocol = _protocol(config, config.estimators, px, px, config.seeds)
    shorter = None if config.longer_side is not None else config.shorter_side
    size = PhotoSize(longer=config.longer_side, shorter=shorter)
    pairs = hpatches_pairs(config.root, config.all_sequences)
    left = "With all sequences" if config.all_sequences else f"Left out, as by D2-Net: {', '.join(LEFT_OUT)}"
    return _run("HPatches", pairs, config, protocol, size, [left])


def run_megadepth(config: EvaluateMegadepthConfig) -> int:
    """Matches and measures MegaDepth-1500."""
    from vision3d.data.pose_benchmarks import megadepth_1500
    from vision3d.eval.pair_matches import PhotoSize

    protocol = _protocol(config, config.estimators, config.opencv_px, config.poselib_px, config.seeds)
    size = PhotoSize(longer=config.longer_side, multiple=config.multiple)
    return _run("MegaDepth-1500", megadepth_1500(config.root, config.index), config, protocol, size, [])


def run_scannet(config: EvaluateScannetConfig) -> int:
    """Matches and measures ScanNet-1500."""
    from vision3d.data.pose_benchmarks import SCANNET_SIZE, scannet_1500
    from vision3d.eval.pair_matches import PhotoSize

    protocol = _protocol(config, config.estimators, config.opencv_px, config.poselib_px, config.seeds)
    size = PhotoSize(exact=SCANNET_SIZE)
    return _run("ScanNet-1500", scannet_1500(config.root, config.index), config, protocol, size, [])


def _protocol(config: _Common, estimators: tuple[str, ...], opencv: float, poselib: float, seeds: int) -> MatchProtocol:
    from vision3d.errors import UsageError
    from vision3d.eval.match_scores import MatchProtocol

    if config.json and config.markdown:
        raise UsageError("choose one of --json and --markdown")
    try:
        return MatchProtocol(
            estimators=estimators,
            opencv_px=opencv,
            poselib_px=poselib,
            confidence=config.confidence,
            seeds=seeds,
            top=config.top,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _run(
    benchmark: Benchmark,
    pairs: list[ListedPair],
    config: _Common,
    protocol: MatchProtocol,
    size: PhotoSize,
    notes: list[str],
) -> int:
    from vision3d.cli.progress import progress_bars
    from vision3d.errors import UsageError
    from vision3d.eval.match_benchmark import evaluate_matching
    from vision3d.eval.match_predictions import Method
    from vision3d.eval.tables import print_tables
    from vision3d.matching.catalogue import weights_options

    options = weights_options(config.method, config.weights)
    special = {"threshold": config.eloftr_threshold, "border": config.eloftr_border}
    given = {name: value for name, value in special.items() if value is not None}
    if given and "eloftr" not in config.method:
        raise UsageError("--eloftr-threshold and --eloftr-border are of the method eloftr, which is not asked for")
    if "eloftr" in options:
        options["eloftr"].update(given)
    methods = [Method(name=name, options=options[name]) for name in config.method]
    with progress_bars() as progress:
        report = evaluate_matching(
            benchmark,
            pairs,
            methods,
            config.out,
            protocol,
            size=size,
            notes=notes,
            workers=config.workers,
            progress=progress,
        )
    if config.json:
        print(json.dumps(report.json(), indent=1, ensure_ascii=False))
    elif config.markdown:
        print(report.markdown())
    else:
        print_tables(report.tables)
    return 0
