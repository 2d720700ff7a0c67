"""Tables of a registration benchmark: recalls by each rule and average, errors, verdicts, matches, scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vision3d.eval.registration_predictions import OURS
from vision3d.eval.registration_scores import (
    FMR_LEAST_RATIO,
    MatchScore,
    PairScore,
    Rule,
    errors_of_right,
    feature_match_recall,
    finite,
    recall_by_pairs,
    recall_by_scenes,
    scenes,
    verdict,
)
from vision3d.eval.tables import Cell, Table

Scores = Mapping[str, Sequence[PairScore]]


def recall_tables(title: str, by_method: Scores, rules: Sequence[Rule], note: str) -> list[Table]:
    """One table a rule: recalls, and mean errors over its successes."""
    tables = []
    for rule in rules:
        counted = sum(rule.counted(s) for s in next(iter(by_method.values())))
        rows: list[tuple[Cell, ...]] = []
        for method, scores in by_method.items():
            rotation, translation = errors_of_right(scores, rule)
            rows.append(
                (
                    method,
                    sum(rule.counted(s) and rule.right(s) for s in scores),
                    percent(recall_by_scenes(scores, rule)),
                    percent(recall_by_pairs(scores, rule)),
                    rotation,
                    None if translation is None else 100 * translation,
                )
            )
        columns = ("method", "right", "recall %, scenes", "recall %, pairs", "RE of right deg", "TE of right cm")
        caption = (
            f"Right: {rule.name}; {counted} pairs count. Scenes: mean of the scenes' recalls; pairs: over all of them. "
            f"RE and TE: means over the right poses only. Verdicts do not matter here. {note}"
        )
        tables.append(Table(f"{title}: registration recall", caption, columns, (0, 0, 1, 1, 2, 2), tuple(rows)))
    return tables


def error_table(title: str, by_method: Scores, note: str) -> Table:
    """Medians over all pairs, and time."""
    rows = tuple(
        (
            method,
            _median([s.rotation_deg for s in scores]),
            _centimetres(_median([s.translation_m for s in scores])),
            float(np.mean([s.seconds for s in scores])),
            float(np.median([s.seconds for s in scores])),
            float(np.mean([s.feature_seconds for s in scores])),
            sum(s.failure is not None for s in scores),
        )
        for method, scores in by_method.items()
    )
    columns = ("method", "median RE deg", "median TE cm", "mean s", "median s", "features s", "failed")
    caption = f"Medians of the errors over all pairs, right or not. Seconds a pair, features (mean) included. {note}"
    return Table(f"{title}: errors and time", caption, columns, (0, 2, 2, 3, 3, 3, 0), rows)


def verdict_table(title: str, scores: Sequence[PairScore], rules: Sequence[Rule]) -> Table:
    """How our verdict goes with each rule."""
    rows: list[tuple[Cell, ...]] = []
    for rule in rules:
        v = verdict(scores, rule)
        rows.append((rule.name, v.registered, v.right, v.registered - v.both, percent(v.precision), percent(v.recall)))
    columns = ("rule", "called registered", "right", "registered and wrong", "precision %", "recall %")
    caption = (
        "Precision: right ones of the poses called registered. Recall: those called registered of the right poses."
    )
    return Table(f"{title}: the verdict of {OURS}", caption, columns, (0, 0, 0, 0, 1, 1), tuple(rows))


def match_table(title: str, scores: Sequence[MatchScore], distance: float, note: str) -> Table:
    """Inlier ratio and feature match recall of the matches that the methods start from."""
    by_scene, by_pair = feature_match_recall(scores)
    names = scenes(scores)
    ratios = [float(np.mean([s.inlier_ratio for s in scores if s.scene == name])) for name in names]
    row = (
        "FPFH",
        round(float(np.median([s.matches for s in scores]))),
        100 * float(np.mean(ratios)),
        100 * float(np.mean([s.inlier_ratio for s in scores])),
        100 * by_scene,
        100 * by_pair,
    )
    columns = ("features", "matches", "inliers %, scenes", "inliers %, pairs", "FMR %, scenes", "FMR %, pairs")
    caption = (
        f"Mutual nearest neighbours over all thinned points, no sampling; an inlier lies within {distance:g} m under "
        f"the true pose; FMR: pairs with more than {FMR_LEAST_RATIO:.0%} inliers. {note}"
    )
    return Table(f"{title}: matches", caption, columns, (0, 0, 2, 2, 1, 1), (row,))


def scene_table(title: str, by_method: Scores, rules: Sequence[Rule], expected: Mapping[str, int]) -> Table:
    """Recall of each method in each scene by each rule; expected: how many pairs the scene has in the benchmark."""
    rows: list[tuple[Cell, ...]] = []
    methods = list(by_method)
    for scene in scenes(next(iter(by_method.values()))):
        here = {m: [s for s in scores if s.scene == scene] for m, scores in by_method.items()}
        for rule in rules:
            count = sum(rule.counted(s) for s in here[methods[0]])
            recalls = [percent(recall_by_pairs(here[m], rule)) for m in methods]
            rows.append((scene, rule.name, count, expected.get(scene), *recalls))
    columns = ("scene", "rule", "pairs that count", "pairs of the scene", *methods)
    caption = "Recall in percent. Pairs of the scene: all of the benchmark's, also those whose clouds are not there."
    return Table(f"{title}: by scene", caption, columns, (0, 0, 0, 0, *[1] * len(methods)), tuple(rows))


def percent(share: float | None) -> float | None:
    """A share as percent."""
    return None if share is None else 100 * share


def _median(values: Sequence[float]) -> float | None:
    return finite(float(np.median(values)))


def _centimetres(metres: float | None) -> float | None:
    return None if metres is None else 100 * metres
