"""`evaluate spair71k` as a function: predictions saved first, PCK by the rules in use from the files second.

J. Min et al., "SPair-71k", arXiv 1908.10543, section 4. Papers disagree on the average, on `<` or `<=`, and on the size
that distances are measured at: every table says which, and report.json and report.md have all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vision3d.core import Progress, silent
from vision3d.data.semantic_pairs import PairSplit, SemanticPair
from vision3d.errors import UsageError
from vision3d.eval.pck import PckRule, PredictedPair, pck
from vision3d.eval.semantic_predictions import Prediction, read_predictions, save_predictions
from vision3d.eval.tables import Cell, Table
from vision3d.io.atomic import atomic_write_json, atomic_write_text

AVERAGES: tuple[Literal["image", "point"], ...] = ("image", "point")
SQUASHED = 256  # px, of the squashed protocol where the run's own is the original resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticProtocol:
    """alphas: thresholds as shares of the longer side of the target's box or image. strict, square: see `PckRule`."""

    alphas: tuple[float, ...] = (0.1, 0.05, 0.01)
    reference: Literal["box", "image"] = "box"
    strict: bool = False
    square: int | None = None

    def __post_init__(self) -> None:
        if not self.alphas or not all(0 < alpha <= 1 for alpha in self.alphas):
            raise UsageError(f"alphas are shares above 0 and up to 1, got {self.alphas}")
        if self.square is not None and self.square < 1:
            raise UsageError(f"the square has 1 px or more, got {self.square}")

    def rule(self, average: Literal["image", "point"]) -> PckRule:
        """The rule of PCK with one of the averages."""
        return PckRule(reference=self.reference, average=average, strict=self.strict, square=self.square)

    def text(self) -> str:
        """In words."""
        return self.rule("image").text().replace("PCK per image", "PCK in %")


@dataclass(frozen=True, slots=True)
class SemanticReport:
    """Tables for people. scores: by method, average and group. notes: what to know of the set, a line each."""

    title: str
    protocol: SemanticProtocol
    notes: tuple[str, ...]
    tables: list[Table]
    scores: dict[str, Any]

    def json(self) -> dict[str, object]:
        """Plain values; PCK in percent."""
        return {
            "benchmark": self.title,
            "protocol": self.protocol.text(),
            "alphas": list(self.protocol.alphas),
            "notes": list(self.notes),
            "methods": self.scores,
            "tables": [table.json() for table in self.tables],
        }

    def markdown(self) -> str:
        """All tables, with the notes above them."""
        return "\n".join([*(f"- {note}" for note in self.notes), "", *(table.markdown() for table in self.tables)])


def evaluate_semantic(
    split: PairSplit,
    title: str,
    methods: Sequence[str],
    out: Path,
    protocol: SemanticProtocol,
    *,
    limit: int | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> SemanticReport:
    """Predicts the pairs by every method into OUT, scores the files, and writes OUT/report.json and OUT/report.md.

    limit: at most so many pairs, spread evenly over the split.

    Raises:
        UsageError: no or unknown or repeated methods, a limit or workers below 1, or no pair to evaluate.
        Vision3DError: a picture cannot be read, weights are missing, or OUT cannot be written.
    """
    if not methods or len(set(methods)) < len(methods):
        raise UsageError(f"name one or more different methods, got {', '.join(methods) or 'none'}")
    pairs = chosen_pairs(split, limit)
    for method in methods:
        save_predictions(pairs, method, out, workers, progress)
    return score_semantic(split, pairs, title, methods, out, protocol, workers)


def chosen_pairs(split: PairSplit, limit: int | None) -> tuple[SemanticPair, ...]:
    """The split's pairs, or `limit` of them spread evenly. UsageError for a limit below 1 or a split without pairs."""
    if limit is not None and limit < 1:
        raise UsageError(f"the limit is 1 pair or more, got {limit}")
    if not split.pairs:
        raise UsageError(f"no pair of this split has keypoints in common ({len(split.left_out)} left out)")
    total = len(split.pairs)
    if limit is None or limit >= total:
        return split.pairs
    return tuple(split.pairs[i * total // limit] for i in range(limit))


def score_semantic(
    split: PairSplit,
    pairs: Sequence[SemanticPair],
    title: str,
    methods: Sequence[str],
    out: Path,
    protocol: SemanticProtocol,
    workers: int = 1,
) -> SemanticReport:
    """The second phase alone, from the files in OUT. Vision3DError if one is missing or broken."""
    predictions = {method: read_predictions(pairs, method, out) for method in methods}
    scored = {
        method: [_predicted(pair, found[pair.pair_id]) for pair in pairs] for method, found in predictions.items()
    }
    notes = _notes(split, pairs)
    note = " ".join([f"{protocol.text()}.", *notes])
    tables = [
        _main_table(title, scored, predictions, protocol, note, workers),
        _group_table(f"{title}: by category", pairs, scored, protocol, note, {"category": lambda pair: pair.category}),
        _protocol_table(title, scored, protocol, notes),
    ]
    if any(pair.difficulty is not None for pair in pairs):
        kinds = ("viewpoint", "scale", "truncation", "occlusion")
        by = {kind: _level_of(kind) for kind in kinds}
        tables.insert(2, _group_table(f"{title}: by difficulty", pairs, scored, protocol, note, by))
    scores = {method: _scores(method, scored, predictions, protocol) for method in methods}
    report = SemanticReport(title, protocol, notes, tables, scores)
    _write(report, out)
    return report


def with_table(report: SemanticReport, table: Table, out: Path) -> SemanticReport:
    """The report with another table at its end, saved as `evaluate_semantic` saves it."""
    longer = replace(report, tables=[*report.tables, table])
    _write(longer, out)
    return longer


def _write(report: SemanticReport, out: Path) -> None:
    atomic_write_json(out / "report.json", report.json())
    atomic_write_text(out / "report.md", report.markdown())


def _predicted(pair: SemanticPair, prediction: Prediction) -> PredictedPair:
    return PredictedPair(prediction.found, pair.points1.double().numpy(), pair.size1, pair.box1)


def _percent(pairs: Sequence[PredictedPair], alpha: float, rule: PckRule) -> float | None:
    value = pck(pairs, alpha, rule)
    return None if value is None else 100 * value


def _notes(split: PairSplit, pairs: Sequence[SemanticPair]) -> tuple[str, ...]:
    notes = []
    if split.synthetic:
        notes.append("SYNTHETIC set: not comparable with published figures of SPair-71k.")
    if len(pairs) < len(split.pairs):
        notes.append(f"{len(pairs)} of {len(split.pairs)} pairs: not comparable with figures on all of them.")
    if split.left_out:
        notes.append(f"{len(split.left_out)} pairs without common keypoints left out.")
    if split.overhanging:
        notes.append(f"{split.overhanging} target boxes stick out of their picture and are taken as annotated.")
    return tuple(notes)


def _main_table(
    title: str,
    scored: dict[str, list[PredictedPair]],
    predictions: dict[str, dict[str, Prediction]],
    protocol: SemanticProtocol,
    note: str,
    workers: int,
) -> Table:
    columns = [f"{average} @{alpha:g}" for average in AVERAGES for alpha in protocol.alphas]
    rows: list[tuple[Cell, ...]] = []
    for method, pairs in scored.items():
        values = [_percent(pairs, alpha, protocol.rule(average)) for average in AVERAGES for alpha in protocol.alphas]
        time = _times(predictions[method])
        seconds = (time["describe_s"] + time["transfer_s"]) / workers
        rows.append((method, *values, len(pairs), time["pictures"], seconds, len(pairs) / max(seconds, 1e-9)))
    caption = (
        f"{note} image: mean over pairs; point: over all keypoints. pictures: described, with those that the "
        f"cache had dropped. s: reading, describing, carrying over by {workers} process(es), without their start."
    )
    return Table(
        f"{title}: PCK",
        caption,
        ("method", *columns, "pairs", "pictures", "s", "pairs/s"),
        (0, *(1 for _ in columns), 0, 0, 1, 1),
        tuple(rows),
    )


def _group_table(
    title: str,
    pairs: Sequence[SemanticPair],
    scored: dict[str, list[PredictedPair]],
    protocol: SemanticProtocol,
    note: str,
    by: Mapping[str, Callable[[SemanticPair], str | int | None]],
) -> Table:
    """A row per value of each of the keys `by`, with both averages of every method at the first alpha."""
    alpha = protocol.alphas[0]
    rows: list[tuple[Cell, ...]] = []
    for kind, key in by.items():
        values = [key(pair) for pair in pairs]
        for value in sorted({v for v in values if v is not None}, key=str):
            members = [i for i, v in enumerate(values) if v == value]
            cells = [
                _percent([predicted[i] for i in members], alpha, protocol.rule(average))
                for predicted in scored.values()
                for average in AVERAGES
            ]
            rows.append((str(value) if len(by) == 1 else f"{kind} {value}", len(members), *cells))
    columns = [f"{method}, per {average}" for method in scored for average in AVERAGES]
    return Table(
        title,
        f"{note} alpha = {alpha:g}.",
        (" and ".join(by) if len(by) == 1 else "level", "pairs", *columns),
        (0, 0, *(1 for _ in columns)),
        tuple(rows),
    )


def _protocol_table(
    title: str, scored: dict[str, list[PredictedPair]], protocol: SemanticProtocol, notes: Sequence[str]
) -> Table:
    """The same predictions by every protocol, at the first alpha."""
    alpha = protocol.alphas[0]
    rows: list[tuple[Cell, ...]] = []
    references: tuple[Literal["box", "image"], ...] = ("box", "image")
    for reference in references:
        for square in (None, protocol.square or SQUASHED):
            for strict in (False, True):
                rule = PckRule(reference=reference, strict=strict, square=square)
                cells = [
                    _percent(pairs, alpha, replace(rule, average=average))
                    for pairs in scored.values()
                    for average in AVERAGES
                ]
                where = "original" if square is None else f"{square}x{square}"
                rows.append((reference, "<" if strict else "<=", where, *cells))
    columns = [f"{method}, per {average}" for method in scored for average in AVERAGES]
    return Table(
        f"{title}: the same predictions by every protocol",
        " ".join([f"PCK in %, alpha = {alpha:g} of the longer side of the target's box or image.", *notes]),
        ("alpha of", "distance", "measured at", *columns),
        (0, 0, 0, *(1 for _ in columns)),
        tuple(rows),
    )


def _level_of(kind: str) -> Callable[[SemanticPair], int | None]:
    return lambda pair: None if pair.difficulty is None else int(getattr(pair.difficulty, kind))


def _times(predictions: dict[str, Prediction]) -> dict[str, float]:
    values = list(predictions.values())
    return {
        "pictures": sum(p.pictures for p in values),
        "describe_s": sum(p.describe_s for p in values),
        "transfer_s": sum(p.transfer_s for p in values),
    }


def _scores(
    method: str,
    scored: dict[str, list[PredictedPair]],
    predictions: dict[str, dict[str, Prediction]],
    protocol: SemanticProtocol,
) -> dict[str, object]:
    pairs = scored[method]
    return {
        **{
            f"per_{average}": {f"{a:g}": _percent(pairs, a, protocol.rule(average)) for a in protocol.alphas}
            for average in AVERAGES
        },
        "pairs": len(pairs),
        "points": sum(len(pair.truth) for pair in pairs),
        **_times(predictions[method]),
    }
