"""KITTI object benchmark: average precision in 2D, seen from above and in 3D, and orientation similarity.

Geiger et al., "Are we ready for Autonomous Driving?", CVPR 2012, section 2.3, by the rules of the official evaluation
(see README.md beside this file); 40 recall positions as in Simonelli et al., "Disentangling Monocular 3D Object
Detection", ICCV 2019, section 5. Reads folders, never models; NumPy and Numba only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vision3d.errors import UsageError
from vision3d.eval.kitti_frames import FlatObjects, KittiFrames, read_frames
from vision3d.eval.kitti_matching import DIFFICULTIES, RECALL_POINTS, Counts, count
from vision3d.eval.kitti_overlaps import GROUND, IMAGE, SPACE, compute_overlaps

# Least overlaps of the official benchmark: (image, ground, space).
OFFICIAL_OVERLAPS: dict[str, tuple[float, float, float]] = {
    "Car": (0.7, 0.7, 0.7),
    "Pedestrian": (0.5, 0.5, 0.5),
    "Cyclist": (0.5, 0.5, 0.5),
}
METRICS = ("2d", "aos", "bev", "3d")


@dataclass(frozen=True, slots=True)
class Curves:
    """Precision (for "aos": orientation similarity) in [0, 1] at recall 0, 1/40, ... 1, per difficulty; made
    monotone: the largest value at this recall or beyond. counts: what it comes from, per difficulty."""

    values: Float64[np.ndarray, "3 41"]
    counts: tuple[Counts, Counts, Counts]

    def r40(self) -> list[float]:
        """Average precision in percent (easy, moderate, hard): the mean over recall 1/40 to 1."""
        return [float(v) for v in 100 * self.values[:, 1:].mean(1)]

    def r11(self) -> list[float]:
        """Average precision in percent as before 2019: the mean over recall 0, 1/10, ... 1."""
        return [float(v) for v in 100 * self.values[:, ::4].mean(1)]


@dataclass(frozen=True, slots=True)
class KittiScores:
    """curves[class][metric], metrics being 2d, aos, bev and 3d; None where the results do not allow the metric.

    That is: a class without any detection (with an image box, a footprint, a 3D box), and "aos" for all classes where
    a detection has no orientation (alpha -10). overlaps: per class, those above which image boxes, footprints and 3D
    boxes match.
    """

    frames: int
    overlaps: dict[str, tuple[float, float, float]]
    curves: dict[str, dict[str, Curves | None]]

    def json(self) -> dict[str, object]:
        """{"note", "overlap": {class: IoU}, "R40": {class: {metric: [easy, moderate, hard]}}, "R11": ...}, percent.

        An IoU is one number where it is the same for all metrics, else [image, ground, space]; a metric that the
        results do not allow is null.
        """
        note = (
            "AP by the rules of the official object-benchmark evaluation (41 thresholds), over exactly these "
            f"{self.frames} frames; percent, easy/moderate/hard; R40: recall 1/40 to 1, R11: recall 0, 0.1, ... 1"
        )
        return {
            "note": note,
            "overlap": {name: o[0] if len(set(o)) == 1 else list(o) for name, o in self.overlaps.items()},
            "R40": self._values("r40"),
            "R11": self._values("r11"),
        }

    def _values(self, kind: str) -> dict[str, dict[str, list[float] | None]]:
        return {
            name: {
                metric: None if curves is None else [round(v, 6) for v in getattr(curves, kind)()]
                for metric, curves in by_metric.items()
            }
            for name, by_metric in self.curves.items()
        }


def evaluate_kitti_object(
    gt: str | Path, results: str | Path, overlaps: Mapping[str, tuple[float, float, float]] | None = None
) -> KittiScores:
    """Score the frames that have a result file.

    gt: folder of labels; results: folder of result files (see `read_frames`). overlaps: the classes to score and their
    least overlaps (image, ground, space), by default the official ones.

    Raises:
        UsageError: folders or files that are missing, an overlap outside [0, 1). Vision3DError: a broken line.
    """
    chosen = dict(OFFICIAL_OVERLAPS if overlaps is None else overlaps)
    wrong = {name: o for name, o in chosen.items() if not all(0 <= v < 1 for v in o)}
    if wrong:
        raise UsageError(f"an overlap (IoU) lies in [0, 1), got {wrong}")
    return score_frames(read_frames(gt, results, tuple(chosen)), chosen)


def score_frames(frames: KittiFrames, overlaps: Mapping[str, tuple[float, float, float]]) -> KittiScores:
    """`evaluate_kitti_object` on frames that were read already."""
    computed = compute_overlaps(frames)
    oriented = not bool((frames.results.objects.alpha == -10).any())
    curves: dict[str, dict[str, Curves | None]] = {}
    for name, least in overlaps.items():
        mine: dict[str, Curves | None] = dict.fromkeys(METRICS)
        allowed = _allowed(frames.results, name)
        for metric, kind in (("2d", IMAGE), ("bev", GROUND), ("3d", SPACE)):
            if not allowed[kind]:
                continue
            easy, moderate, hard = (count(frames, computed, kind, name, d, least[kind]) for d in DIFFICULTIES)
            counts = (easy, moderate, hard)
            mine[metric] = _curves(counts, [c.tp.astype(np.float64) for c in counts])
            if kind == IMAGE and oriented:
                mine["aos"] = _curves(counts, [c.similarity for c in counts])
        curves[name] = mine
    return KittiScores(len(frames.names), dict(overlaps), curves)


def _curves(counts: tuple[Counts, Counts, Counts], gains: list[np.ndarray]) -> Curves:
    """gains / (tp + fp) at each threshold, 0 beyond the last, then the maximum from the right.

    The second pass may leave nothing at a threshold; that counts as 0.
    """
    values = np.zeros((len(counts), RECALL_POINTS))
    for row, c, gain in zip(values, counts, gains, strict=True):
        shown = c.tp + c.fp
        row[: len(shown)] = np.where(shown > 0, gain / np.maximum(shown, 1), 0.0)
    return Curves(np.maximum.accumulate(values[:, ::-1], axis=1)[:, ::-1].copy(), counts)


def _allowed(results: FlatObjects, name: str) -> tuple[bool, bool, bool]:
    """Whether the class is detected at least once with an image box, with a footprint, with a 3D box."""
    mine = results.types == name.lower()
    box = results.objects
    height, width, length = box.dimensions.T
    x, y, z = box.locations.T
    ground = mine & (x != -1000) & (z != -1000) & (width > 0) & (length > 0)
    return (
        bool((mine & (box.boxes_2d[:, 0] >= 0)).any()),
        bool(ground.any()),
        bool((ground & (y != -1000) & (height > 0)).any()),
    )
