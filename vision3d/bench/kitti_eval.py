"""`vision3d bench kitti-eval`: our KITTI object evaluation beside the official C++ evaluator on the same folders.

Both read the folders and compute every AP; ours runs in this process after one untimed call (imports and compilation),
the official one starts anew each time, which takes it a few milliseconds. It is not part of this project: compile a
public copy with -O3 (it must print AP at 40 recall positions) and name it with --official.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vision3d.bench.harness import Case, measure, report
from vision3d.errors import UsageError, Vision3DError

MAX_DIFFERENCE = 1e-4  # percent: it adds up in single precision and prints six decimals
# What it prints, by our names of the metrics.
_METRICS = {"detection": "2d", "orientation": "aos", "detection_BEV": "bev", "detection_3D": "3d"}
_LINE = re.compile(
    r"^(?P<name>[a-z]+)_(?P<metric>detection|orientation|detection_BEV|detection_3D)[_ ](?:AP|AOS)\s*:"
    r"\s*(?P<values>[-+.\deainf]+ [-+.\deainf]+ [-+.\deainf]+)\s*$",
    re.MULTILINE,
)

Scores = dict[tuple[str, str], list[float]]
"""(class in small letters, metric) -> AP in percent: easy, moderate, hard."""


@dataclass(frozen=True, kw_only=True)
class BenchKittiEvalConfig:
    """Times the KITTI object evaluation beside the official evaluator."""

    gt: Path
    """folder of label files"""
    results: Path
    """folder of result files"""
    official: Path | None = None
    """the official evaluator, compiled (takes a label folder and a result folder, prints AP)"""
    repeats: int = 3
    """calls of each, of which the median is reported"""
    json: bool = False
    """print the figures as JSON"""


def run(config: BenchKittiEvalConfig) -> int:
    """Measures and prints; 0 when both find the same."""
    if config.repeats < 1:
        raise UsageError(f"--repeats must be at least 1, got {config.repeats}")
    if config.official is not None and not os.access(config.official, os.X_OK):
        raise UsageError(f"--official {config.official}: no such program")
    from vision3d.eval.kitti_frames import read_frames

    frames = len(read_frames(config.gt, config.results).names)  # tells what is wrong before anything is measured
    with tempfile.TemporaryDirectory() as folder:
        peer = None
        if config.official is not None:
            peer = partial(prepare_official, config.official.resolve(), config.gt, config.results, Path(folder))
        case = Case(
            name=f"{frames} frames",
            ours=partial(prepare_ours, config.gt, config.results),
            peers={"official": peer},
            difference=largest_difference,
            tolerance=MAX_DIFFERENCE,
            describe=lambda scores: f"{len(scores)} metrics",
        )
        row = measure(case, config.repeats)
    return report("kitti-eval", [row], as_json_text=config.json)


def prepare_ours(gt: Path, results: Path) -> Callable[[], Scores]:
    """Imports our evaluation; the call reads the folders and scores them."""
    from vision3d.eval.kitti_object import evaluate_kitti_object

    def call() -> Scores:
        scores = evaluate_kitti_object(gt, results)
        return {
            (name.lower(), metric): curves.r40()
            for name, by_metric in scores.curves.items()
            for metric, curves in by_metric.items()
            if curves is not None
        }

    return call


def prepare_official(program: Path, gt: Path, results: Path, folder: Path) -> Callable[[], Scores]:
    """Lays the results out as the program wants them; the call runs it and reads what it prints."""
    target = folder / "data"
    if not target.is_dir():
        source = results / "data" if (results / "data").is_dir() else results
        shutil.copytree(source, target)
    labels = next((p for p in (gt / "training" / "label_2", gt / "label_2") if p.is_dir()), gt)

    def call() -> Scores:
        done = subprocess.run([program, labels.resolve(), folder], capture_output=True, text=True, check=False)
        found = parse_official(done.stdout)
        if not found:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
            raise Vision3DError(f"{program} printed no AP (exit code {done.returncode}); it said: {said[0][:200]}")
        return found

    return call


def parse_official(text: str) -> Scores:
    """The AP lines of the official evaluator ("car_detection_3D_AP : 95.88 89.22 84.32"); others are left out."""
    return {
        (m["name"], _METRICS[m["metric"]]): [float(v) for v in m["values"].split()] for m in _LINE.finditer(text)
    }  # fmt: skip


def largest_difference(ours: Scores, theirs: Scores) -> float:
    """Percent, over the metrics; infinite where one has a metric that the other has not."""
    if set(ours) != set(theirs):
        return float("inf")
    return max((abs(a - b) for key in ours for a, b in zip(ours[key], theirs[key], strict=True)), default=0.0)
