"""The two passes of the KITTI object evaluation: score thresholds from true positives, then counts at each of them.

Rules of the official evaluation (object development kit), for one class, difficulty and kind of overlap. Pass 1 gives
each ground truth its best-scored result; the scores of the true positives give the thresholds at 41 recall positions.
Pass 2 gives it the result that overlaps most, one of sufficient height before any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int64

from vision3d.eval.kitti_frames import FlatObjects, KittiFrames
from vision3d.eval.kitti_overlaps import FrameOverlaps

RECALL_POINTS = 41
COUNTED, IGNORED, OTHER = 0, 1, -1
# The neighbour of a class is neither missed nor a false alarm when found; small letters, as names are compared.
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
_NJIT = numba.njit(cache=True, nogil=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What a ground truth must fulfil to count: more than min_height px, at most this occluded and truncated."""

    name: str
    min_height: int
    max_occlusion: int
    max_truncation: float


DIFFICULTIES = (Difficulty("easy", 40, 0, 0.15), Difficulty("moderate", 25, 1, 0.3), Difficulty("hard", 25, 2, 0.5))


@dataclass(frozen=True, slots=True)
class Counts:
    """At each threshold (falling scores): true positives, false positives, misses, and the sum of orientation
    similarities (1 + cos of the error of alpha) / 2 over the true positives. truths: ground truths that count."""

    truths: int
    thresholds: Float64[np.ndarray, " t"]
    tp: Int64[np.ndarray, " t"]
    fp: Int64[np.ndarray, " t"]
    fn: Int64[np.ndarray, " t"]
    similarity: Float64[np.ndarray, " t"]


def truth_states(truth: FlatObjects, name: str, difficulty: Difficulty) -> Int64[np.ndarray, " g"]:
    """COUNTED, IGNORED (neighbour class, or too small, hidden or cut off) or OTHER, which is looked through."""
    objects = truth.objects
    height = objects.boxes_2d[:, 3] - objects.boxes_2d[:, 1]
    hard = (
        (objects.occlusion > difficulty.max_occlusion)
        | (objects.truncation > difficulty.max_truncation)
        | (height <= difficulty.min_height)
    )
    state = np.where(truth.types == name.lower(), np.where(hard, IGNORED, COUNTED), OTHER)
    neighbour = NEIGHBOURS.get(name.lower())
    out: np.ndarray = np.where(truth.types == neighbour, IGNORED, state) if neighbour else state
    return out.astype(np.int64)


def result_states(results: FlatObjects, name: str, difficulty: Difficulty) -> Int64[np.ndarray, " d"]:
    """COUNTED, IGNORED (cut to whole px, lower than the least height: of whatever class) or OTHER (another class)."""
    boxes = results.objects.boxes_2d
    height = np.abs(boxes[:, 1] - boxes[:, 3]).astype(np.int64)
    state = np.where(results.types == name.lower(), COUNTED, OTHER)
    return np.where(height < difficulty.min_height, IGNORED, state).astype(np.int64)


def count(
    frames: KittiFrames, overlaps: FrameOverlaps, kind: int, name: str, difficulty: Difficulty, min_overlap: float
) -> Counts:
    """Both passes over all frames. kind: IMAGE, GROUND or SPACE; an overlap must be above min_overlap."""
    truth, results = truth_states(frames.truth, name, difficulty), result_states(frames.results, name, difficulty)
    scores = frames.results.objects.scores
    assert scores is not None
    places = (frames.truth.starts, frames.results.starts, overlaps.starts)
    pairs, excused = overlaps.pairs[kind], overlaps.excused[kind]
    truths = int((truth == COUNTED).sum())
    found = np.empty(truths)
    hits = _best_scores(*places, truth, results, pairs, scores, min_overlap, found)
    thresholds = recall_thresholds(found[:hits], truths)
    whole = np.zeros((3, len(thresholds)), np.int64)
    similarity = np.zeros(len(thresholds))
    angle = (frames.truth.objects.alpha, frames.results.objects.alpha)
    _count_all(*places, truth, results, pairs, excused, scores, *angle, min_overlap, thresholds, whole, similarity)
    return Counts(truths, thresholds, whole[0], whole[1], whole[2], similarity)


def recall_thresholds(scores: Float64[np.ndarray, " n"], truths: int) -> Float64[np.ndarray, " t"]:
    """Scores of true positives at which recall comes nearest to 0, 1/40, ... 1, falling; at most 41 of them.

    truths: number of ground truths, at least as many as scores.
    """
    out = np.empty(len(scores))
    ordered = np.sort(scores)[::-1].copy()
    return out[: _thresholds(ordered, truths, RECALL_POINTS, out)]


@_NJIT  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _thresholds(ordered, truths, points, out):  # pragma: no cover (compiled)
    recall, made = 0.0, 0
    n = ordered.shape[0]
    for i in range(n):
        here = (i + 1) / truths
        after = (i + 2) / truths if i < n - 1 else here
        if i < n - 1 and after - recall < recall - here:
            continue
        out[made] = ordered[i]
        made += 1
        recall += 1.0 / (points - 1.0)
    return made


@_NJIT  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _best_scores(
    gt_starts, det_starts, pair_starts, truth, results, pairs, scores, min_overlap, found
):  # pragma: no cover (compiled)
    """Pass 1: the scores of the true positives are written to `found`; returns how many."""
    assigned = np.zeros(results.shape[0], np.bool_)
    hits = 0
    for f in range(gt_starts.shape[0] - 1):
        first, many = gt_starts[f], gt_starts[f + 1] - gt_starts[f]
        for g in range(first, gt_starts[f + 1]):
            if truth[g] == OTHER:
                continue
            best, best_score = -1, -1e7
            for d in range(det_starts[f], det_starts[f + 1]):
                if results[d] == OTHER or assigned[d]:
                    continue
                overlap = pairs[pair_starts[f] + (d - det_starts[f]) * many + g - first]
                if overlap > min_overlap and scores[d] > best_score:
                    best, best_score = d, scores[d]
            if best >= 0:
                assigned[best] = True
                if truth[g] == COUNTED and results[best] == COUNTED:
                    found[hits] = scores[best]
                    hits += 1
    return hits


@_NJIT  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _count_all(
    gt_starts, det_starts, pair_starts, truth, results, pairs, excused, scores, gt_alpha, det_alpha, min_overlap,
    thresholds, whole, similarity,
):  # fmt: skip  # pragma: no cover (compiled)
    """Pass 2 at every threshold; frame by frame, so that the sums do not depend on anything else."""
    assigned = np.zeros(results.shape[0], np.bool_)
    for f in range(gt_starts.shape[0] - 1):
        first, many = gt_starts[f], gt_starts[f + 1] - gt_starts[f]
        for t in range(thresholds.shape[0]):
            least = thresholds[t]
            tp, fp, fn = 0, 0, 0
            similar = 0.0
            for d in range(det_starts[f], det_starts[f + 1]):
                assigned[d] = False
            for g in range(first, gt_starts[f + 1]):
                if truth[g] == OTHER:
                    continue
                best, largest = -1, 0.0
                for d in range(det_starts[f], det_starts[f + 1]):
                    if results[d] == OTHER or assigned[d] or scores[d] < least:
                        continue
                    overlap = pairs[pair_starts[f] + (d - det_starts[f]) * many + g - first]
                    if not overlap > min_overlap:
                        continue
                    if results[d] == COUNTED:
                        if overlap > largest:
                            best, largest = d, overlap
                    elif best < 0:  # too small to count: taken until one that counts comes, however little it overlaps
                        best = d
                if best < 0:
                    if truth[g] == COUNTED:
                        fn += 1
                    continue
                assigned[best] = True
                if truth[g] == COUNTED and results[best] == COUNTED:
                    tp += 1
                    similar += (1.0 + np.cos(gt_alpha[g] - det_alpha[best])) / 2.0
            for d in range(det_starts[f], det_starts[f + 1]):
                free = results[d] == COUNTED and not assigned[d] and scores[d] >= least
                if free and not excused[d] > min_overlap:
                    fp += 1
            whole[0, t] += tp
            whole[1, t] += fp
            whole[2, t] += fn
            similarity[t] += similar
