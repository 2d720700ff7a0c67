"""Second phase of evaluating registration: errors, recalls and verdicts from the saved files alone.

3DMatch and 3DLoMatch have two rules of success and two ways of averaging, all four are given: RMSE below 0.2 m by
gt.info over the pairs that do not follow each other (official; Predator, GeoTransformer), and 15 deg with 30 cm over
all pairs (DGR, PointDSC, DHVR); each as the mean of the scenes' recalls or over all pairs. KITTI's are 2 m with 5 deg
(FCGF) and 0.6 m with 5 deg (DGR, PointDSC). A pose counts whatever the method's verdict on it is. Predator's code also
leaves out a scene's first pair in gt.log, by mistake (its index 0 means "no pair" there); here it counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vision3d.core import RigidTransform, Vision3DError
from vision3d.eval.registration_errors import information_rmse, inlier_ratio, rotation_error_deg, translation_error
from vision3d.eval.registration_predictions import matches_path, poses_path

INLIER_M = {"3DMatch": 0.1, "3DLoMatch": 0.1, "KITTI odometry": 0.6}
FMR_LEAST_RATIO = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """One pose of a pair. Errors are infinite where the method failed; rmse_m is None where no information is known.

    registered: the method's verdict. seconds: in all, with features; feature_seconds of it.
    """

    name: str
    scene: str
    method: str
    neighbours: bool
    registered: bool
    rotation_deg: float
    translation_m: float
    rmse_m: float | None
    seconds: float
    feature_seconds: float
    overlap: float | None = None
    failure: str | None = None

    def json(self) -> dict[str, object]:
        """Plain values; errors that are infinite are null."""
        return {
            "name": self.name,
            "method": self.method,
            "registered": self.registered,
            "rotation_deg": finite(self.rotation_deg),
            "translation_m": finite(self.translation_m),
            "rmse_m": None if self.rmse_m is None else finite(self.rmse_m),
            "seconds": self.seconds,
            "failure": self.failure,
        }


@dataclass(frozen=True, slots=True)
class MatchScore:
    """Of a pair's putative matches: how many, and the fraction that the true pose brings together."""

    name: str
    scene: str
    matches: int
    inlier_ratio: float


@dataclass(frozen=True, slots=True)
class Rule:
    """When a pose counts as right, and which pairs are counted."""

    name: str
    right: Callable[[PairScore], bool]
    counted: Callable[[PairScore], bool]


RMSE_RULE = Rule(
    "RMSE < 0.2 m, pairs that do not follow each other",
    lambda s: s.rmse_m is not None and s.rmse_m <= 0.2,
    lambda s: s.rmse_m is not None and not s.neighbours,
)


def error_rule(most_m: float, most_deg: float) -> Rule:
    """Both errors below a threshold, over all pairs."""
    return Rule(
        f"RE < {most_deg:g} deg and TE < {most_m:g} m, all pairs",
        lambda s: s.translation_m < most_m and s.rotation_deg < most_deg,
        lambda s: True,
    )


# Of each benchmark; the last rule is the one that means over successes and verdicts go by.
RULES: dict[str, tuple[Rule, ...]] = {
    "3DMatch": (RMSE_RULE, error_rule(0.3, 15)),
    "3DLoMatch": (RMSE_RULE, error_rule(0.3, 15)),
    "KITTI odometry": (error_rule(2.0, 5), error_rule(0.6, 5)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a method's verdict goes with a rule. precision: of the poses called registered, those that are right; recall:
    of the right poses, those called registered; None where there is nothing to divide by."""

    registered: int
    right: int
    both: int

    @property
    def precision(self) -> float | None:
        return self.both / self.registered if self.registered else None

    @property
    def recall(self) -> float | None:
        return self.both / self.right if self.right else None


def read_truths(out: Path) -> list[dict[str, Any]]:
    """What pairs.json says of the pairs. Vision3DError if it is missing or broken."""
    path = out / "pairs.json"
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Vision3DError(f"{path} is missing or broken: register the pairs first") from None
    return list(pairs)


def score_poses(out: Path, method: str, *, before_icp: bool = False) -> list[PairScore]:
    """The scores of a method's saved poses, or of those before ICP, in the order of pairs.json.

    Raises:
        Vision3DError: a file is missing or broken.
    """
    return [_score(out, method, pair, before_icp) for pair in read_truths(out)]


def score_matches(out: Path, distance: float) -> list[MatchScore]:
    """The share of true matches (within `distance` m) of each pair. Vision3DError if a file is missing or broken."""
    scores = []
    for pair in read_truths(out):
        path = matches_path(out, pair["name"])
        try:
            with np.load(path, allow_pickle=False) as data:
                points0, points1 = (torch.from_numpy(data[key]) for key in ("points0", "points1"))
        except (OSError, ValueError, KeyError) as error:
            raise Vision3DError(f"{path} is missing or broken ({error}): register the pairs again") from None
        ratio = inlier_ratio(points0, points1, _pose(pair["target_from_source"]), distance)
        scores.append(MatchScore(pair["name"], pair["scene"], len(points0), ratio))
    return scores


def recall_by_pairs(scores: Sequence[PairScore], rule: Rule) -> float | None:
    """Right ones of the pairs that count; None if none does."""
    flags = [rule.right(s) for s in scores if rule.counted(s)]
    return sum(flags) / len(flags) if flags else None


def recall_by_scenes(scores: Sequence[PairScore], rule: Rule) -> float | None:
    """The mean over scenes of `recall_by_pairs`; scenes without a pair that counts are left out."""
    recalls = [recall_by_pairs([s for s in scores if s.scene == scene], rule) for scene in scenes(scores)]
    known = [recall for recall in recalls if recall is not None]
    return sum(known) / len(known) if known else None


def scenes(scores: Sequence[PairScore] | Sequence[MatchScore]) -> list[str]:
    """The scenes in the order of the pairs."""
    return list(dict.fromkeys(s.scene for s in scores))


def errors_of_right(scores: Sequence[PairScore], rule: Rule) -> tuple[float | None, float | None]:
    """Mean rotation error (deg) and translation error (m) over the right poses only, as the papers report them.

    The methods' means are over different pairs: a method that fails on the hard pairs has smaller ones.
    """
    right = [s for s in scores if rule.counted(s) and rule.right(s)]
    if not right:
        return None, None
    return float(np.mean([s.rotation_deg for s in right])), float(np.mean([s.translation_m for s in right]))


def verdict(scores: Sequence[PairScore], rule: Rule) -> Verdict:
    """How the verdicts go with the rule, over the pairs that count."""
    counted = [s for s in scores if rule.counted(s)]
    return Verdict(
        registered=sum(s.registered for s in counted),
        right=sum(rule.right(s) for s in counted),
        both=sum(s.registered and rule.right(s) for s in counted),
    )


def feature_match_recall(scores: Sequence[MatchScore]) -> tuple[float, float]:
    """Share of pairs with an inlier ratio above 5 %: mean of the scenes, and over all pairs."""
    by_scene = [
        np.mean([s.inlier_ratio > FMR_LEAST_RATIO for s in scores if s.scene == name]) for name in scenes(scores)
    ]
    return float(np.mean(by_scene)), float(np.mean([s.inlier_ratio > FMR_LEAST_RATIO for s in scores]))


def finite(value: float) -> float | None:
    """The value, None if it is infinite."""
    return value if math.isfinite(value) else None


def _score(out: Path, method: str, truth: dict[str, Any], before_icp: bool) -> PairScore:
    path = poses_path(out, method, truth["name"])
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        estimate = saved["coarse" if before_icp else "target_from_source"]
        times: dict[str, float] = dict(saved["seconds"])
        registered, reason = bool(saved["registered"]), saved["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Vision3DError(f"{path} is missing or broken: register the pairs again") from None
    true = _pose(truth["target_from_source"])
    information = truth["information"]
    rotation = translation = math.inf
    rmse = None if information is None else math.inf
    if estimate is not None:
        pose = _pose(estimate)
        rotation, translation = rotation_error_deg(pose, true), translation_error(pose, true)
        if information is not None:
            rmse = information_rmse(pose, true, torch.tensor(information, dtype=torch.float64))
    if before_icp:
        times.pop("refinement", None)
    return PairScore(
        name=truth["name"],
        scene=truth["scene"],
        method=f"{method}, before ICP" if before_icp else method,
        neighbours=truth["neighbours"],
        registered=registered,
        rotation_deg=rotation,
        translation_m=translation,
        rmse_m=rmse,
        seconds=sum(times.values()),
        feature_seconds=times.get("features", 0.0),
        overlap=truth["overlap"],
        failure=reason if estimate is None else None,
    )


def _pose(matrix: list[list[float]]) -> RigidTransform:
    return RigidTransform.from_matrix(torch.tensor(matrix, dtype=torch.float64))
