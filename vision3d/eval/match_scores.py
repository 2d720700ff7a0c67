"""Second phase of the matching benchmarks: the errors of one pair from its saved matches and its truth.

Homographies: mean matching accuracy (MMA) of Mikolajczyk and Schmid, PAMI 2005, as D2-Net counts it (the share of a
pair's matches within t px of the truth; a pair without matches has 0), and the error of four corners. Poses: the larger
of rotation and direction error, as in SuperGlue's and LoFTR's evaluation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Correspondences
from vision3d.data.listed_pairs import CalibratedTruth, ListedPair
from vision3d.data.pairs import HomographyTruth
from vision3d.eval.estimators import ESTIMATORS, Estimator, make_estimators
from vision3d.eval.pair_matches import SavedMatches, file_digest, load_matches, matches_path
from vision3d.eval.pairs import HPATCHES_SIDE_PX
from vision3d.eval.two_view import two_view_pose_error_deg
from vision3d.geometry.homography import apply_homography, corner_error
from vision3d.io.atomic import atomic_write_json

MMA_PX = tuple(range(1, 11))
FORMAT = 1  # of the files of errors; another number makes them all anew


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchProtocol:
    """Robust estimators and what they are given.

    opencv_px, poselib_px: inlier thresholds; for homographies px of photo 1 scaled to a shorter side of 480, for poses
    px of the photos that the list's cameras are for. seeds: repetitions with shuffled matches, their errors pooled.
    top: only so many matches of a pair, the best scored (None: all).
    """

    estimators: tuple[str, ...] = ("opencv-ransac", "poselib")
    opencv_px: float = 3.0
    poselib_px: float = 3.0
    confidence: float = 0.99999
    seeds: int = 1
    top: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.estimators if name not in ESTIMATORS]
        if unknown or not self.estimators or len(set(self.estimators)) < len(self.estimators):
            raise ValueError(f"estimators are some of {', '.join(ESTIMATORS)}; got {', '.join(unknown) or 'none'}")
        if self.seeds < 1 or not min(self.opencv_px, self.poselib_px) > 0 or not 0 < self.confidence < 1:
            raise ValueError("seeds are at least 1, thresholds above 0 px, the confidence between 0 and 1")
        if self.top is not None and self.top < 1:
            raise ValueError(f"--top keeps the best matches of a pair and is at least 1, got {self.top}")

    def threshold_px(self, estimator: str) -> float:
        """Of an estimator by name."""
        return self.poselib_px if estimator == "poselib" else self.opencv_px


@dataclass(frozen=True, slots=True)
class PairErrors:
    """Of one method on one pair.

    errors: by estimator, one a seed, px or degrees, inf without an estimate or without a truth. accuracy: share of the
    matches within each of MMA_PX px, None where the truth is no homography. failed: why there are no matches, "" where
    matching went through. known: whether the pair has a valid truth.
    """

    name: str
    group: str
    matches: int
    seconds: float
    failed: str
    known: bool
    errors: dict[str, tuple[float, ...]]
    accuracy: tuple[float, ...] | None


def score_saved_pair(pair: ListedPair, matches: Path, errors: Path, protocol: MatchProtocol) -> PairErrors:
    """The errors of matches/NAME.npz, kept in errors/NAME.json as long as matches, truth and protocol stay."""
    path = errors / f"{pair.name}.json"
    key = {
        "format": FORMAT,
        "matches": file_digest(matches_path(matches, pair)),
        "truth": _truth_digest(pair),
        "protocol": json.loads(json.dumps(asdict(protocol))),
    }
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] == key:
            return _from_plain(pair, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # absent, damaged or of another kind
    found = score_pair(pair, load_matches(matches, pair), protocol)
    plain = {
        **{name: getattr(found, name) for name in ("matches", "seconds", "failed", "known", "accuracy")},
        "errors": {name: [e if np.isfinite(e) else None for e in values] for name, values in found.errors.items()},
    }
    atomic_write_json(path, {"key": key, **plain})
    return found


def score_pair(pair: ListedPair, saved: SavedMatches, protocol: MatchProtocol) -> PairErrors:
    """The errors of matches in px of the original photos."""
    matches = saved.matches if protocol.top is None else best(saved.matches, protocol.top)
    truth, estimators = pair.truth, make_estimators(protocol.confidence)
    known = isinstance(truth, HomographyTruth) or truth.cam1_from_cam0 is not None
    errors: dict[str, tuple[float, ...]] = {}
    for name in protocol.estimators:
        errors[name] = tuple(
            _error(truth, matches, saved, estimators[name], protocol.threshold_px(name), seed)
            if known and not saved.error
            else np.inf
            for seed in range(protocol.seeds)
        )
    accuracy = matching_accuracy(truth, matches) if isinstance(truth, HomographyTruth) else None
    return PairErrors(pair.name, pair.group, len(matches), saved.seconds, saved.error, known, errors, accuracy)


def best(matches: Correspondences, count: int) -> Correspondences:
    """The best scored, of equal ones the first."""
    return matches.select(torch.argsort(matches.scores, descending=True, stable=True)[:count])


def matching_accuracy(truth: HomographyTruth, matches: Correspondences) -> tuple[float, ...]:
    """Share of matches at most 1, 2, ... 10 px from the truth in photo 1 (px of the original); 0 without matches."""
    if not len(matches):
        return (0.0,) * len(MMA_PX)
    away = (apply_homography(truth.h_1_from_0, matches.points0) - matches.points1).norm(dim=1)
    away = torch.nan_to_num(away, nan=torch.inf)
    return tuple(float((away <= t).double().mean()) for t in MMA_PX)


def _error(
    truth: HomographyTruth | CalibratedTruth,
    matches: Correspondences,
    saved: SavedMatches,
    estimator: Estimator,
    threshold_px: float,
    seed: int,
) -> float:
    if isinstance(truth, HomographyTruth):
        scale = min(saved.size1) / HPATCHES_SIDE_PX
        h = estimator.homography(matches.points0, matches.points1, threshold_px * scale, seed)
        return np.inf if h is None else float(corner_error(h, truth.h_1_from_0, saved.size0)) / scale
    points = (_at(matches.points0, saved.size0, truth.size), _at(matches.points1, saved.size1, truth.size))
    pose = estimator.relative_pose(*points, truth.k0, truth.k1, threshold_px, seed)
    if pose is None or truth.cam1_from_cam0 is None:
        return np.inf
    return two_view_pose_error_deg(pose, truth.cam1_from_cam0)


def _at(points: Float[Tensor, "n 2"], original: tuple[int, int], size: tuple[int, int] | None) -> Float[Tensor, "n 2"]:
    """px of the original to px of the size that the camera is for."""
    if size is None or size == original:
        return points
    return points * points.new_tensor([size[0] / original[0], size[1] / original[1]])


def _truth_digest(pair: ListedPair) -> str:
    truth = pair.truth
    if isinstance(truth, HomographyTruth):
        values = [truth.h_1_from_0]
    else:
        pose = truth.cam1_from_cam0
        values = [truth.k0, truth.k1, torch.tensor(truth.size or (0, 0)), *([] if pose is None else [pose.matrix()])]
    return hashlib.sha256(b"".join(v.double().numpy().tobytes() for v in values)).hexdigest()


def _from_plain(pair: ListedPair, plain: dict[str, Any]) -> PairErrors:
    errors = {name: tuple(np.inf if e is None else float(e) for e in es) for name, es in plain["errors"].items()}
    accuracy = None if plain["accuracy"] is None else tuple(float(a) for a in plain["accuracy"])
    return PairErrors(
        pair.name,
        pair.group,
        int(plain["matches"]),
        float(plain["seconds"]),
        str(plain["failed"]),
        bool(plain["known"]),
        errors,
        accuracy,
    )
