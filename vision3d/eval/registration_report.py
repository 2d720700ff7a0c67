"""`evaluate 3dmatch`, `3dlomatch`, `kitti-odometry` as a function: poses saved first, scores from the files second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vision3d.core import Progress, silent
from vision3d.data.cloud_pairs import CloudPair
from vision3d.data.kitti_registration import KittiRegistrationDataset
from vision3d.data.loader import SampleSource
from vision3d.data.threedmatch import ThreeDMatchDataset
from vision3d.eval.registration_plot import panels, write_recall_plot
from vision3d.eval.registration_predictions import OURS, PredictionSettings, save_predictions
from vision3d.eval.registration_scores import INLIER_M, RULES, PairScore, score_matches, score_poses
from vision3d.eval.registration_tables import error_table, match_table, recall_tables, scene_table, verdict_table
from vision3d.eval.tables import Table
from vision3d.io.atomic import atomic_write_json


@dataclass(frozen=True, slots=True)
class RegistrationReport:
    """Tables for people, scores per pair. notes: what of the benchmark was not there, a line each."""

    benchmark: str
    settings: PredictionSettings
    notes: tuple[str, ...]
    tables: list[Table]
    scores: list[PairScore]

    def json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "benchmark": self.benchmark,
            "complete": not self.notes,
            "missing": list(self.notes),
            "voxel_m": self.settings.voxel,
            "seed": self.settings.seed,
            "tables": [table.json() for table in self.tables],
            "pairs": [score.json() for score in self.scores],
        }


def evaluate_registration(
    pairs: SampleSource[CloudPair],
    benchmark: str,
    out: Path,
    settings: PredictionSettings,
    *,
    notes: Sequence[str] = (),
    expected: Mapping[str, int] | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> RegistrationReport:
    """Registers the pairs into OUT, scores the files by the rules of `benchmark` (of RULES), and writes
    OUT/report.json and OUT/recall.png.

    notes: what of the benchmark is not there; expected: its pairs by scene.

    Raises:
        Vision3DError: clouds cannot be read, or OUT cannot be written. UsageError: fewer than one worker.
    """
    save_predictions(pairs, out, settings, workers, progress)
    return score_registration(benchmark, out, settings, notes=notes, expected=expected or {}, workers=workers)


def score_registration(
    benchmark: str,
    out: Path,
    settings: PredictionSettings,
    *,
    notes: Sequence[str],
    expected: Mapping[str, int],
    workers: int = 1,
) -> RegistrationReport:
    """The second phase alone, from the files in OUT. Vision3DError if one is missing or broken."""
    by_method: dict[str, list[PairScore]] = {}
    for method in settings.methods:
        by_method[method] = score_poses(out, method)
        before = score_poses(out, method, before_icp=True)
        by_method[before[0].method] = before
    rules = RULES[benchmark]
    count = len(next(iter(by_method.values())))
    whole = sum(expected.values())
    used = "FPFH" if settings.features is None else f"features {settings.features} (others: FPFH)"
    votes = "" if settings.votes is None else f", votes ranked by {settings.votes}"
    note = f"Voxels of {settings.voxel:g} m, {used}{votes}, seed {settings.seed}."
    if notes:
        note += f" INCOMPLETE: {count} of {whole or 'more'} pairs, not comparable with published figures."
    timing = f"{workers} processes at once." if workers > 1 else ""
    distance = INLIER_M[benchmark]
    tables = [
        *recall_tables(benchmark, by_method, rules, note),
        error_table(benchmark, by_method, f"{note} {timing}".strip()),
        match_table(benchmark, score_matches(out, distance), distance, note),
        scene_table(benchmark, {m: by_method[m] for m in settings.methods}, rules, expected),
    ]
    if OURS in by_method:
        tables.insert(len(rules) + 1, verdict_table(benchmark, by_method[OURS], rules))
    scores = [score for scores in by_method.values() for score in scores]
    report = RegistrationReport(benchmark, settings, tuple(notes), tables, scores)
    atomic_write_json(out / "report.json", report.json())
    shown = {m: scores for m, scores in by_method.items() if m in settings.methods or m.startswith(OURS)}
    limits = (0.6, 5.0) if benchmark == "KITTI odometry" else (0.3, 15.0)
    write_recall_plot(out / "recall.png", benchmark, panels(shown, *limits))
    return report


def open_benchmark(benchmark: str, root: Path, out: Path) -> tuple[SampleSource[CloudPair], list[str], dict[str, int]]:
    """The pairs of "3DMatch", "3DLoMatch" or "KITTI odometry" under ROOT, what is missing, and pairs by scene.

    The refined ground truth of KITTI is kept in OUT/ground_truth.

    Raises:
        UsageError: nothing of the benchmark is there. Vision3DError: a broken file.
    """
    if benchmark == "KITTI odometry":
        drives = KittiRegistrationDataset(root, out / "ground_truth")
        counts: dict[str, int] = {}
        for name, _, _ in drives.pairs:
            counts[name] = counts.get(name, 0) + 1
        return drives, drives.notes(), counts
    rooms = ThreeDMatchDataset(root, "3DLoMatch" if benchmark == "3DLoMatch" else "3DMatch")
    return rooms, rooms.notes(), {scene.name: scene.pairs for scene in rooms.scenes}
