"""Tables of the matching benchmarks, each with the protocol that its numbers were made by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vision3d.eval.auc import auc_exact, auc_trapezoid
from vision3d.eval.estimators import ESTIMATORS, MAX_ITERATIONS
from vision3d.eval.match_scores import MMA_PX, MatchProtocol, PairErrors
from vision3d.eval.pairs import HPATCHES_SIDE_PX
from vision3d.eval.tables import Cell, Table

ByMethod = Mapping[str, Sequence[PairErrors]]
HOMOGRAPHY, POSE = ((3, 5, 10), "px"), ((5, 10, 20), "deg")
MMA_SHOWN = (1, 2, 3, 5, 10)


def homography_tables(by_method: ByMethod, protocol: MatchProtocol, note: str) -> list[Table]:
    """MMA, then the AUC of the corner error, each for all pairs and for light and viewpoint apart."""
    columns = ("matcher", "pairs of", "pairs", "failed", "matches", *(f"MMA@{t} px" for t in MMA_SHOWN))
    rows: list[tuple[Cell, ...]] = [
        (method, group, len(of), _failed(of), _median_count(of), *_accuracies(of))
        for method, scores in by_method.items()
        for group, of in _groups(scores).items()
    ]
    caption = (
        "MMA: share of a pair's matches within t px of the true homography in photo 1, px of the original photos, mean"
        f" over pairs; a pair without matches or that failed counts as 0.{_top(protocol)} {note}"
    )
    accuracy = Table("HPatches: mean matching accuracy", caption, columns, (0, 0, 0, 0, 0, *(1,) * 5), tuple(rows))
    text = (
        "AUC of the corner error: mean distance of photo 0's four corners under the estimated and the true homography,"
        f" px of photo 1 scaled to a shorter side of {HPATCHES_SIDE_PX}; thresholds below are px of that scale."
    )
    return [accuracy, _auc_table("HPatches: homographies", text, HOMOGRAPHY, by_method, protocol, note)]


def pose_tables(benchmark: str, by_method: ByMethod, protocol: MatchProtocol, note: str) -> list[Table]:
    """AUC of the pose error over all listed pairs, and of each list where there are several."""
    size = "640x480 photos" if benchmark == "ScanNet-1500" else "the original photos"
    text = (
        "AUC of max(rotation, translation direction) error of the relative pose, sign of the direction ignored, known"
        f" intrinsics; thresholds below are px of {size} (over the mean focal length for OpenCV)."
    )
    return [_auc_table(f"{benchmark}: relative poses", text, POSE, by_method, protocol, note)]


def _auc_table(
    title: str,
    text: str,
    scale: tuple[tuple[int, ...], str],
    by_method: ByMethod,
    protocol: MatchProtocol,
    note: str,
) -> Table:
    thresholds, unit = scale
    columns = ("matcher", "estimator", "pairs of", "pairs", "failed", "matches", *(f"AUC@{t}" for t in thresholds))
    columns += (f"median {unit}", *(f"exact AUC@{t}" for t in thresholds))
    rows: list[tuple[Cell, ...]] = []
    for method, scores in by_method.items():
        for estimator in protocol.estimators:
            for group, of in _groups(scores).items():
                errors = pooled(of, estimator)
                median = float(np.median(errors))
                rows.append(
                    (
                        method,
                        estimator,
                        group,
                        len(of),
                        _failed(of),
                        _median_count(of),
                        *(auc_trapezoid(errors, t) for t in thresholds),
                        median if np.isfinite(median) else None,
                        *(auc_exact(errors, t) for t in thresholds),
                    )
                )
    named = "; ".join(
        f"{name} = {ESTIMATORS[name].title} at {protocol.threshold_px(name):g} px" for name in protocol.estimators
    )
    seeds = f"{protocol.seeds} seeds with shuffled matches pooled" if protocol.seeds > 1 else "1 seed"
    caption = (
        f"{text} {named}; confidence {protocol.confidence:g}, at most {MAX_ITERATIONS:,} iterations,"
        f" {seeds}.{_top(protocol)} AUC by trapezoids as published, exact AUC without the lines between errors; a pair"
        f" without matches, estimate or valid truth is a failure (inf). Thresholds of the AUC in {unit}. {note}"
    )
    return Table(title, caption, columns, (0, 0, 0, 0, 0, 0, *(1,) * 3, 2, *(1,) * 3), tuple(rows))


def pooled(scores: Sequence[PairErrors], estimator: str) -> np.ndarray:
    """The errors of all pairs and seeds."""
    return np.array([error for score in scores for error in score.errors[estimator]])


def _groups(scores: Sequence[PairErrors]) -> dict[str, list[PairErrors]]:
    groups: dict[str, list[PairErrors]] = {"all": list(scores)}
    for score in scores:
        groups.setdefault(score.group, []).append(score)
    return {"all": groups["all"]} if len(groups) == 2 else groups


def _accuracies(scores: Sequence[PairErrors]) -> tuple[float, ...]:
    mean = 100 * np.mean([score.accuracy or (0.0,) * len(MMA_PX) for score in scores], axis=0)
    return tuple(float(mean[MMA_PX.index(t)]) for t in MMA_SHOWN)


def _failed(scores: Sequence[PairErrors]) -> int:
    return sum(bool(score.failed) for score in scores)


def _median_count(scores: Sequence[PairErrors]) -> int:
    return round(float(np.median([score.matches for score in scores])))


def _top(protocol: MatchProtocol) -> str:
    return "" if protocol.top is None else f" The {protocol.top:,} best scored matches of a pair."
