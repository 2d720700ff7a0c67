"""The tables of the KITTI object benchmark, as its result pages show them, and how overlaps are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vision3d.errors import UsageError
from vision3d.eval.kitti_frames import KittiFrames
from vision3d.eval.kitti_object import OFFICIAL_OVERLAPS, KittiScores
from vision3d.eval.kitti_plots import TITLES
from vision3d.eval.tables import Cell, Table
from vision3d.io.kitti_labels import DONT_CARE, KITTI_TYPES


def score_tables(scores: KittiScores) -> list[Table]:
    """One table with 40 recall positions, one with 11; a dash where the results do not allow the metric."""
    overlaps = "; ".join(
        f"{name} {o[0]:g}" if len(set(o)) == 1 else f"{name} {o[0]:g} (image), {o[1]:g} (from above), {o[2]:g} (3D)"
        for name, o in scores.overlaps.items()
    )
    tables = []
    for kind, recall in (("r40", "40 recall positions, 1/40 to 1"), ("r11", "11 recall positions, 0 to 1")):
        rows: list[tuple[Cell, ...]] = []
        for name, by_metric in scores.curves.items():
            for metric, curves in by_metric.items():
                cells: list[float] | list[None] = [None] * 3 if curves is None else getattr(curves, kind)()
                rows.append((f"{name} ({TITLES[metric]})", *cells))
        caption = (
            f"Average precision in percent, {recall}; official rules, {scores.frames} frames with a result file. "
            f"Least overlap (IoU): {overlaps}."
        )
        columns = ("Benchmark", "Easy", "Moderate", "Hard")
        tables.append(Table(f"KITTI object, {kind.upper()}", caption, columns, (0, 4, 4, 4), tuple(rows)))
    return tables


def parse_overlaps(words: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """ "Car=0.7" or "Car=0.7,0.5,0.5" (image, from above, 3D) to overlaps by class; none: the official ones.

    Raises:
        UsageError: anything else.
    """
    if not words:
        return dict(OFFICIAL_OVERLAPS)
    out: dict[str, tuple[float, float, float]] = {}
    for word in words:
        name, _, numbers = word.partition("=")
        try:
            values = [float(v) for v in numbers.split(",")]
        except ValueError:
            values = []
        if not name or len(values) not in (1, 3) or not all(0 <= v < 1 for v in values):
            raise UsageError(
                f"--overlaps takes CLASS=IOU or CLASS=IMAGE,BEV,3D with IoUs in [0, 1), got {word!r}: "
                "write Car=0.7 or Car=0.7,0.5,0.5"
            )
        if any(name.lower() == other.lower() for other in out):
            raise UsageError(f"--overlaps names the class {name!r} twice")
        one = values * 3 if len(values) == 1 else values
        out[name] = (one[0], one[1], one[2])
    return out


def refuse_unknown_classes(overlaps: Iterable[str], frames: KittiFrames) -> None:
    """UsageError for a class that is none of KITTI's and that no line of the frames has."""
    present = {str(name) for flat in (frames.truth, frames.results) for name in flat.types}
    for name in overlaps:
        if name.lower() not in present | {known.lower() for known in KITTI_TYPES}:
            known = ", ".join(kind for kind in KITTI_TYPES if kind != DONT_CARE)
            raise UsageError(
                f"--overlaps: no label and no result is a {name!r}, which is none of KITTI's classes: {known}"
            )
