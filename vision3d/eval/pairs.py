"""Second phase of `evaluate pairs`: saved matches and ground truth in, one table per set of pairs out.

No image is resized for the metrics: matches are px of the original photos, whatever size the matcher worked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision3d.data.pairs import HomographyTruth, PointsTruth, PoseTruth
from vision3d.eval.auc import auc_exact, auc_trapezoid, recall
from vision3d.eval.estimators import ESTIMATORS, Estimator
from vision3d.eval.pair_matches import SavedMatches
from vision3d.eval.pair_sets import BenchmarkPair, DisparityTruth, Kind
from vision3d.eval.tables import Cell, Table
from vision3d.eval.two_view import disparity_errors, transfer_error, two_view_pose_error_deg
from vision3d.geometry.epipolar import symmetric_epipolar_distance
from vision3d.geometry.homography import corner_error

HPATCHES_SIDE_PX = 480
KINDS: tuple[Kind, ...] = ("homography", "epipolar", "pose", "stereo")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairProtocol:
    """Thresholds of the robust estimators and how often they are repeated.

    homography_px: px of photo 1 scaled to a shorter side of 480; epipolar_px, pose_px: px of the original photos.
    """

    estimators: tuple[str, ...] = ("poselib", "opencv-magsac")
    homography_px: float = 3.0
    epipolar_px: float = 2.0
    pose_px: float = 2.0
    seeds: int = 5

    def __post_init__(self) -> None:
        unknown = [name for name in self.estimators if name not in ESTIMATORS]
        if unknown or not self.estimators:
            raise ValueError(f"estimators are some of {', '.join(ESTIMATORS)}; got {', '.join(unknown) or 'none'}")
        if self.seeds < 1 or not min(self.homography_px, self.epipolar_px, self.pose_px) > 0:
            raise ValueError("seeds is at least 1 and thresholds are above 0 px")

    def caption(self, kind: Kind) -> str:
        """The protocol of a kind of pairs in words."""
        seeds = f"{self.seeds} seeds pooled" if self.seeds > 1 else "1 seed"
        auc = "AUC: exact integral, a pair without an estimate is a failure"
        if kind == "homography":
            return (
                f"Mean distance of the four corners of photo 0, mapped to photo 1 by the estimated and the true "
                f"homography, in px of photo 1 scaled to a shorter side of {HPATCHES_SIDE_PX} (HPatches); points, "
                f"where the plane fills a part of the photo: the same at annotated points on it. Inlier threshold "
                f"{self.homography_px:g} px of that scale; {seeds}. {auc}. median: over pairs and seeds."
            )
        if kind == "epipolar":
            return (
                f"Symmetric epipolar error (mean of the two point-line distances) of the hand-annotated points under "
                f"the estimated fundamental matrix, px of the originals. AUC and median: over the pairs' mean errors; "
                f"points: share of all annotated points below 3 px. Inlier threshold {self.epipolar_px:g} px; "
                f"{seeds}. {auc}."
            )
        if kind == "pose":
            return (
                f"max(rotation, translation direction) error of the relative pose, known intrinsics, sign of the "
                f"direction ignored. Inlier threshold {self.pose_px:g} px of the originals; {seeds}. {auc}. median: "
                f"over pairs and seeds."
            )
        return (
            "Share of the matches within 1, 2 and 3 px of the ground-truth disparity (matches at pixels without "
            "ground truth left out); no estimator. median: distance to the truth in px."
        )


@dataclass(frozen=True, slots=True)
class PairResult:
    """Errors of one matcher and estimator on one pair, one per seed (for stereo: one per match).

    error: what AUC is taken of: corner error, mean epipolar error (px), pose error (deg), distance to the true match
    (px); points: errors at annotated points, px, all seeds in a row; estimator None for stereo.
    """

    pair: BenchmarkPair
    matcher: str
    estimator: str | None
    matches: int
    seconds: float
    error: np.ndarray
    points: np.ndarray

    def json(self) -> dict[str, object]:
        """Plain values; inf becomes None."""
        error = {"errors": [_number(e) for e in self.error.tolist()]} if self.estimator else {}
        return {
            "pair": self.pair.name,
            "group": self.pair.group,
            "kind": self.pair.kind,
            "matcher": self.matcher,
            "estimator": self.estimator,
            "matches": self.matches,
            "seconds": self.seconds,
            "median_error": _median(self.error),
            "median_point_error": _median(self.points),
            **error,
        }


def evaluate_pair(pair: BenchmarkPair, saved: SavedMatches, matcher: str, protocol: PairProtocol) -> list[PairResult]:
    """Errors of saved matches on one pair, per estimator."""

    def result(estimator: str | None, error: np.ndarray, points: np.ndarray) -> PairResult:
        return PairResult(pair, matcher, estimator, len(saved.matches), saved.seconds, error, points)

    if isinstance(pair.truth, DisparityTruth):
        errors = disparity_errors(saved.matches.points0, saved.matches.points1, pair.truth.disparity)
        return [result(None, errors.numpy(), np.zeros(0))]
    results = []
    for name in protocol.estimators:
        runs = [_measure(pair, saved, ESTIMATORS[name], protocol, seed) for seed in range(protocol.seeds)]
        error = np.array([run[0] for run in runs])
        results.append(result(name, error, np.concatenate([run[1] for run in runs])))
    return results


def _measure(
    pair: BenchmarkPair, saved: SavedMatches, estimator: Estimator, protocol: PairProtocol, seed: int
) -> tuple[float, np.ndarray]:
    """The pair's error, and the errors at annotated points, if any; inf where there is no estimate."""
    if isinstance(pair.truth, HomographyTruth):
        return _homography(pair.truth, pair.on_plane, saved, estimator, protocol.homography_px, seed)
    if isinstance(pair.truth, PointsTruth):
        return _epipolar(pair.truth, saved, estimator, protocol.epipolar_px, seed)
    assert isinstance(pair.truth, PoseTruth)
    return _pose(pair.truth, saved, estimator, protocol.pose_px, seed), np.zeros(0)


def _homography(
    truth: HomographyTruth,
    on_plane: PointsTruth | None,
    saved: SavedMatches,
    estimator: Estimator,
    threshold_px: float,
    seed: int,
) -> tuple[float, np.ndarray]:
    scale = min(saved.size1) / HPATCHES_SIDE_PX
    estimate = estimator.homography(saved.matches.points0, saved.matches.points1, threshold_px * scale, seed)
    if estimate is None:
        return np.inf, np.full(0 if on_plane is None else 1, np.inf)
    error = float(corner_error(estimate, truth.h_1_from_0, saved.size0)) / scale
    if on_plane is None:
        return error, np.zeros(0)
    return error, np.array([transfer_error(estimate, on_plane.points0, on_plane.points1) / scale])


def _epipolar(
    truth: PointsTruth, saved: SavedMatches, estimator: Estimator, threshold_px: float, seed: int
) -> tuple[float, np.ndarray]:
    estimate = estimator.fundamental(saved.matches.points0, saved.matches.points1, threshold_px, seed)
    if estimate is None:
        return np.inf, np.full(len(truth.points0), np.inf)
    errors = symmetric_epipolar_distance(truth.points0, truth.points1, estimate).numpy()
    errors = np.where(np.isfinite(errors), errors, np.inf)  # at the epipole there is no line
    return float(errors.mean()), errors


def _pose(truth: PoseTruth, saved: SavedMatches, estimator: Estimator, threshold_px: float, seed: int) -> float:
    k0, k1 = truth.camera0.matrix(), truth.camera1.matrix()
    estimate = estimator.relative_pose(saved.matches.points0, saved.matches.points1, k0, k1, threshold_px, seed)
    return np.inf if estimate is None else two_view_pose_error_deg(estimate, truth.cam1_from_cam0)


# kind -> (AUC thresholds, their unit)
_AUC: dict[Kind, tuple[tuple[int, ...], str]] = {
    "homography": ((3, 5, 10), "px"),
    "epipolar": ((3, 5, 10), "px"),
    "pose": ((5, 10, 20), "deg"),
}


def summarize(results: Sequence[PairResult], protocol: PairProtocol, note: str = "") -> list[Table]:
    """One table per set of pairs, rows in the order in which matchers and estimators come; note: ends each caption."""
    groups: dict[tuple[Kind, str], dict[tuple[str, str | None], list[PairResult]]] = {}
    for result in sorted(results, key=lambda r: (KINDS.index(r.pair.kind), r.pair.group)):
        rows = groups.setdefault((result.pair.kind, result.pair.group), defaultdict(list))
        rows[result.matcher, result.estimator].append(result)
    tables = []
    for (kind, group), rows in groups.items():
        count = len(next(iter(rows.values())))
        title = f"{group} ({count} pair{'s' if count > 1 else ''})"
        caption = " ".join(filter(None, [protocol.caption(kind), note]))
        columns, digits = _columns(kind, any(len(r.points) for group in rows.values() for r in group))
        cells = tuple(_row(kind, matcher, estimator, group) for (matcher, estimator), group in rows.items())
        tables.append(Table(title, caption, columns, digits, cells))
    return tables


def _columns(kind: Kind, points: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if kind == "stereo":
        return ("matcher", "matches", "< 1 px %", "< 2 px %", "< 3 px %", "median px"), (0, 0, 1, 1, 1, 2)
    thresholds, unit = _AUC[kind]
    columns = ["matcher", "estimator", "matches", *(f"AUC@{t} {unit}" for t in thresholds), f"median {unit}"]
    if points:
        columns += ["points AUC@5 px", "points median px"] if kind == "homography" else ["points < 3 px %"]
    return tuple(columns), (0, 0, 0, 1, 1, 1, 2, 1, 2)[: len(columns)]


def _row(kind: Kind, matcher: str, estimator: str | None, results: Sequence[PairResult]) -> tuple[Cell, ...]:
    errors = np.concatenate([r.error for r in results])
    matches = round(float(np.median([r.matches for r in results])))
    if kind == "stereo":
        shares = [recall(errors, t) if len(errors) else None for t in (1, 2, 3)]
        return matcher, matches, *shares, _median(errors)
    points = np.concatenate([r.points for r in results])
    at_points: list[Cell] = []
    if len(points):
        at_points = [auc_exact(points, 5), _median(points)] if kind == "homography" else [recall(points, 3)]
    return matcher, estimator, matches, *(auc_exact(errors, t) for t in _AUC[kind][0]), _median(errors), *at_points


def published_auc(results: Sequence[PairResult]) -> list[dict[str, object]]:
    """The same AUCs as SuperGlue's and LoFTR's code computes them (`auc_trapezoid`), for comparison with papers."""
    groups: dict[tuple[str, str, str], list[PairResult]] = defaultdict(list)
    for result in results:
        if result.estimator is not None:
            groups[result.pair.group, result.matcher, result.estimator].append(result)
    rows: list[dict[str, object]] = []
    for (group, matcher, estimator), members in groups.items():
        thresholds, unit = _AUC[members[0].pair.kind]
        errors = np.concatenate([r.error for r in members])
        values = {f"AUC@{t} {unit}": auc_trapezoid(errors, t) for t in thresholds}
        rows.append({"set": group, "matcher": matcher, "estimator": estimator, **values})
    return rows


def _median(values: np.ndarray) -> float | None:
    return _number(float(np.median(values))) if len(values) else None


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
