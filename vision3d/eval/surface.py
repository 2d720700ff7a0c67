"""How close a reconstructed surface comes to the true one: accuracy, completeness, chamfer, normals, F-score.

Accuracy and completeness as S. Seitz et al., CVPR 2006, section 4 (here means of distances from points to the other
surface); precision, recall and F-score as A. Knapitsch et al., "Tanks and Temples", 2017, section 3.3; normal
consistency as L. Mescheder et al., "Occupancy Networks", CVPR 2019, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from vision3d.core import Vision3DError
from vision3d.eval.surface_distance import Surface


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceEvaluation:
    """Distances in the truth's unit, shares in [0, 1], angles in degrees.

    accuracy: from points of the result to the true surface; completeness: from points of the truth to the result;
    chamfer: the mean of their means. Angles are between the normals at a point and at its nearest point, whichever
    way they face.
    """

    accuracy: float
    accuracy_median: float
    completeness: float
    completeness_median: float
    chamfer: float
    chamfer_relative: float
    normal_error_deg: float
    normal_consistency: float
    threshold: float
    precision: float
    recall: float
    f_score: float
    diagonal: float
    result_points: int
    truth_points: int


def evaluate_surface(
    result: Surface,
    truth: Surface,
    *,
    threshold: float | None = None,
    known: Bool[np.ndarray, " n"] | None = None,
    visible: Bool[np.ndarray, " m"] | None = None,
) -> SurfaceEvaluation:
    """Compare two surfaces in one frame.

    Args:
        threshold: for precision and recall, in the truth's unit (default: 0.5 % of the diagonal of the truth's box).
        known: samples of the result that count (default: all). visible: samples of the truth that count.

    Raises:
        ValueError: a threshold that is not positive. Vision3DError: no sample is left to count.
    """
    diagonal = truth.diagonal()
    limit = 0.005 * diagonal if threshold is None else threshold
    if not limit > 0:
        raise ValueError(f"the threshold must be a positive length, got {threshold}")
    mine = result.samples if known is None else result.samples.select(known)
    theirs = truth.samples if visible is None else truth.samples.select(visible)
    if not len(mine.points) or not len(theirs.points):
        which = "result" if not len(mine.points) else "truth"
        raise Vision3DError(f"no point of the {which} is left to compare: are the two in one frame?")
    to_truth, to_result = truth.closest(mine.points), result.closest(theirs.points)
    cosine = [
        _cosine(mine.normals, truth.normals[to_truth.faces]),
        _cosine(theirs.normals, result.normals[to_result.faces]),
    ]
    accuracy, completeness = to_truth.distance.mean(), to_result.distance.mean()
    precision, recall = (to_truth.distance <= limit).mean(), (to_result.distance <= limit).mean()
    return SurfaceEvaluation(
        accuracy=float(accuracy),
        accuracy_median=float(np.median(to_truth.distance)),
        completeness=float(completeness),
        completeness_median=float(np.median(to_result.distance)),
        chamfer=float(accuracy + completeness) / 2,
        chamfer_relative=float(accuracy + completeness) / 2 / diagonal,
        normal_error_deg=float(np.mean([np.degrees(np.arccos(c)).mean() for c in cosine])),
        normal_consistency=float(np.mean([c.mean() for c in cosine])),
        threshold=limit,
        precision=float(precision),
        recall=float(recall),
        f_score=float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0,
        diagonal=diagonal,
        result_points=len(mine.points),
        truth_points=len(theirs.points),
    )


def _cosine(a: Float64[np.ndarray, "n 3"], b: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
    out: np.ndarray = np.clip(np.abs((a * b).sum(1)), 0, 1)
    return out
