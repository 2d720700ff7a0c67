"""`evaluate hpatches`, `megadepth1500`, `scannet1500` as a function: matches saved first, metrics from files second.

Both phases go over processes and go on where a killed run was. Written are OUT/matches/METHOD/PAIR.npz,
OUT/errors/METHOD/PAIR.json, OUT/pairs.csv, OUT/report.json, OUT/report.md and OUT/recall.png.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from vision3d.core import Progress, silent
from vision3d.data.hpatches import LEFT_OUT, SEQUENCES
from vision3d.data.listed_pairs import ListedPair
from vision3d.errors import Vision3DError
from vision3d.eval.match_predictions import Method, Workers, check_methods, save_predictions
from vision3d.eval.match_scores import MMA_PX, MatchProtocol, PairErrors, score_saved_pair
from vision3d.eval.match_tables import ByMethod, homography_tables, pooled, pose_tables
from vision3d.eval.pair_matches import PhotoSize
from vision3d.eval.registration_plot import Panel, write_recall_plot
from vision3d.eval.tables import Table
from vision3d.io.atomic import atomic_write_json, atomic_write_text
from vision3d.matching.base import Matcher

Benchmark = Literal["HPatches", "MegaDepth-1500", "ScanNet-1500"]
PAIRS: dict[Benchmark, int] = {
    "HPatches": 5 * (SEQUENCES - len(LEFT_OUT)),
    "MegaDepth-1500": 1500,
    "ScanNet-1500": 1500,
}
MOST_CURVES = 8  # of the plot; beyond, those of the first estimator alone
MOST_REASONS = 20  # failed pairs that report.json names per method; pairs.csv has all


@dataclass(frozen=True, slots=True)
class MatchReport:
    """Tables for people, errors per pair. sizes: how photos were matched, by method; notes: what a reader must know."""

    benchmark: Benchmark
    protocol: MatchProtocol
    sizes: dict[str, str]
    settings: dict[str, dict[str, object]]
    notes: tuple[str, ...]
    tables: list[Table]
    by_method: dict[str, list[PairErrors]]

    def json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "benchmark": self.benchmark,
            "protocol": asdict(self.protocol),
            "photos": self.sizes,
            "settings": self.settings,
            "notes": list(self.notes),
            "tables": [table.json() for table in self.tables],
            "mma": {method: _curves(scores) for method, scores in self.by_method.items() if scores[0].accuracy},
            "failed": {
                method: [{"pair": s.name, "reason": s.failed} for s in scores if s.failed][:MOST_REASONS]
                for method, scores in self.by_method.items()
            },
        }

    def markdown(self) -> str:
        """The tables."""
        return "\n".join(table.markdown() for table in self.tables)


def evaluate_matching(
    benchmark: Benchmark,
    pairs: Sequence[ListedPair],
    methods: Sequence[Method],
    out: Path,
    protocol: MatchProtocol,
    *,
    size: PhotoSize | None,
    notes: Sequence[str] = (),
    workers: int = 1,
    progress: Progress = silent,
) -> MatchReport:
    """Matches all pairs with all methods, or takes what OUT has of it, measures, and writes the report into OUT.

    size: of the photos as they are matched, None: each matcher's own longer side. notes: what a reader must know of
    the pairs.

    Raises:
        UsageError: fewer than one worker, an unknown method, one twice.
        Vision3DError: weights are missing, OUT cannot be written, every pair of a method failed.
    """
    check_methods(methods)
    matchers: dict[str, Matcher] = {method.name: method.make() for method in methods}
    for method in methods:
        method.find_weights()  # before the work, not after hours of it
    by_method: dict[str, list[PairErrors]] = {}
    with Workers(workers) as processes:
        save_predictions(pairs, methods, out, size, processes, progress)
        for method in methods:
            score = partial(_score, out=out, method=method.name, protocol=protocol)
            found: list[PairErrors] = processes.map(score, pairs, None, f"metrics ({method.name})", progress)
            failed = [s for s in found if s.failed]
            if len(failed) == len(found):
                raise Vision3DError(f"{method.name} failed on every pair; on {failed[0].name}: {failed[0].failed}")
            by_method[method.name] = found
    said = (*notes, *_notes(benchmark, by_method))
    sizes = {name: (size or PhotoSize(longer=matcher.max_size)).text() for name, matcher in matchers.items()}
    note = " ".join([_sizes_text(sizes), *(f"{line}." for line in said)])
    tables = (
        homography_tables(by_method, protocol, note)
        if benchmark == "HPatches"
        else pose_tables(benchmark, by_method, protocol, note)
    )
    settings = {name: matcher.settings for name, matcher in matchers.items()}
    report = MatchReport(benchmark, protocol, sizes, settings, said, tables, by_method)
    atomic_write_text(out / "pairs.csv", _csv(by_method, protocol))
    atomic_write_text(out / "report.md", report.markdown())
    write_recall_plot(out / "recall.png", benchmark, [_panel(benchmark, by_method, protocol)])
    atomic_write_json(out / "report.json", report.json())
    return report


def _score(pair: ListedPair, _: None, *, out: Path, method: str, protocol: MatchProtocol) -> PairErrors:
    return score_saved_pair(pair, out / "matches" / method, out / "errors" / method, protocol)


def _notes(benchmark: Benchmark, by_method: ByMethod) -> list[str]:
    first = next(iter(by_method.values()))
    notes = []
    if len(first) != PAIRS[benchmark]:
        notes.append(
            f"{len(first)} pairs instead of {PAIRS[benchmark]}: not comparable with published figures of {benchmark}"
        )
    unknown = sum(not score.known for score in first)
    if unknown:
        notes.append(f"pairs without a valid truth in the index: {unknown}, which count as failures")
    for method, scores in by_method.items():
        failed = [score for score in scores if score.failed]
        if failed:
            notes.append(
                f"pairs that {method} failed on: {len(failed)}, which count as wrong (first: {failed[0].name})"
            )
    return notes


def _sizes_text(sizes: dict[str, str]) -> str:
    if len(set(sizes.values())) == 1:
        text = next(iter(sizes.values()))
        return f"{text[0].upper()}{text[1:]}."
    return " ".join(f"{name}: {text}." for name, text in sizes.items())


def _curves(scores: Sequence[PairErrors]) -> dict[str, list[float]]:
    groups: dict[str, list[tuple[float, ...]]] = {"all": []}
    for score in scores:
        for group in ("all", score.group):
            groups.setdefault(group, []).append(score.accuracy or (0.0,) * len(MMA_PX))
    return {group: (100 * np.mean(rows, axis=0)).tolist() for group, rows in groups.items()}


def _panel(benchmark: Benchmark, by_method: ByMethod, protocol: MatchProtocol) -> Panel:
    shown = protocol.estimators if len(by_method) * len(protocol.estimators) <= MOST_CURVES else protocol.estimators[:1]
    errors = {
        f"{method}, {estimator}": pooled(scores, estimator)
        for method, scores in by_method.items()
        for estimator in shown
    }
    if benchmark == "HPatches":
        return Panel("All pairs and seeds", "corner error, px of a shorter side of 480", 10.0, (3.0, 5.0), errors)
    return Panel("All pairs and seeds", "pose error, deg", 20.0, (5.0, 10.0), errors)


def _csv(by_method: ByMethod, protocol: MatchProtocol) -> str:
    """One row for each method and pair: errors of the estimators' seeds (inf: failure), MMA where there is one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name} error {seed}" for name in protocol.estimators for seed in range(protocol.seeds)]
    accuracy = any(score.accuracy for scores in by_method.values() for score in scores)
    mma = [f"within {t} px" for t in MMA_PX] if accuracy else []
    writer.writerow(["method", "pair", "group", "matches", "seconds", "valid truth", "failed", *columns, *mma])
    for method, scores in by_method.items():
        for s in scores:
            errors = [f"{error:.6g}" for name in protocol.estimators for error in s.errors[name]]
            within = [f"{a:.6g}" for a in s.accuracy or ()]
            writer.writerow(
                [method, s.name, s.group, s.matches, f"{s.seconds:.4g}", s.known, s.failed, *errors, *within]
            )
    return text.getvalue()
