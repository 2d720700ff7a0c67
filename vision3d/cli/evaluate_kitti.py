"""`vision3d evaluate kitti-object`: average precision of KITTI result folders by the official rules."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class EvaluateKittiObjectConfig:
    """Average precision of 3D detections in KITTI's format, in 2D, from above and in 3D, and orientation similarity."""

    gt: Path
    """Folder of label files (label_2), or a KITTI folder that holds it."""
    results: Path
    """Folder of result files (000123.txt, 16 fields a line), there or in its folder data; its frames are scored."""
    overlaps: tuple[str, ...] = ()
    """Classes and least IoUs, CLASS=IOU or CLASS=IMAGE,BEV,3D (default: Car=0.7 Pedestrian=0.5 Cyclist=0.5)."""
    plots: Path | None = None
    """Also draw precision over recall into this folder, one PNG per class and metric."""
    out: Path | None = None
    """Also write the JSON to this file."""
    json: bool = False
    """Print JSON instead of tables."""


def run_kitti_object(config: EvaluateKittiObjectConfig) -> int:
    """Scores the results and prints the benchmark's tables."""
    import time

    from vision3d.eval.kitti_frames import broken_boxes, read_frames
    from vision3d.eval.kitti_object import score_frames
    from vision3d.eval.kitti_plots import write_plots
    from vision3d.eval.kitti_report import parse_overlaps, refuse_unknown_classes, score_tables
    from vision3d.eval.tables import print_tables
    from vision3d.io.atomic import atomic_write_json

    overlaps = parse_overlaps(config.overlaps)
    start = time.perf_counter()
    frames = read_frames(config.gt, config.results, tuple(overlaps))
    refuse_unknown_classes(overlaps, frames)
    scores = score_frames(frames, overlaps)
    print(f"{scores.frames} frames scored in {time.perf_counter() - start:.2f} s", file=sys.stderr)
    if config.plots is not None:
        paths = write_plots(config.plots, scores)
        print(f"{len(paths)} plots in {config.plots}", file=sys.stderr)
    if config.out is not None:
        atomic_write_json(config.out, scores.json())
    if config.json:
        print(json.dumps(scores.json(), indent=1))
    else:
        print_tables(score_tables(scores))
    broken, first = broken_boxes(frames)
    if broken:
        print(
            f"vision3d: {broken} {'line has' if broken == 1 else 'lines have'} a 3D size that is not positive or a "
            f"2D box without area, mostly misses by the official rules; the first is {first}",
            file=sys.stderr,
        )
    return 0
