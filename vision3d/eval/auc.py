"""Recall and area under the recall curve of errors: exactly, and in the two forms that published tables use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Errors = Float[np.ndarray, " n"] | Sequence[float]


def recall(errors: Errors, threshold: float) -> float:
    """Percentage of errors below the threshold; failures are given as inf."""
    return 100 * float(np.mean(_checked(errors) < threshold))


def auc_exact(errors: Errors, threshold: float) -> float:
    """Mean of the recall over all thresholds in [0, threshold], in percent: 100 * mean(max(0, 1 - error / threshold)).

    Recall is a step function of the threshold and its integral is taken as such: no bins, no interpolation. Failures
    are given as inf. ValueError if there are no errors, or one is negative or NaN.
    """
    return 100 * float(np.mean(np.clip(1 - _checked(errors) / threshold, 0, 1)))


def auc_one_degree_bins(errors: Errors, threshold: int) -> float:
    """AUC as the CO3D tables print it (PoseDiffusion `metric.py`, VGGT `test_co3d.py`), in percent.

    Histogram with edges 0, 1, ..., threshold, mean of its cumulative sum: recall is read at the right end of every
    bin, so an error of 0.9 degrees counts as 0 and the value exceeds `auc_exact` by up to 100 / threshold. As in
    numpy's histogram the last bin is closed: an error equal to the threshold falls into it.
    """
    checked = _checked(errors)
    counts, _ = np.histogram(checked[np.isfinite(checked)], bins=np.arange(threshold + 1))
    return 100 * float(np.mean(np.cumsum(counts))) / len(checked)


def auc_trapezoid(errors: Errors, threshold: float) -> float:
    """AUC as the matching tables print it (SuperGlue's `pose_auc`; LoFTR, glue-factory, HPatches), in percent.

    The n sorted errors are the points (error, k / n) of a curve that starts at (0, 0) and runs straight between them;
    at the threshold it is flat. The straight lines count recall before an error has reached it: on n pairs the value
    exceeds `auc_exact` by up to 100 / n, which is nothing on 1,500 pairs and much on ten.
    """
    checked = np.sort(_checked(errors))
    below = checked[checked < threshold]
    x = np.concatenate([[0.0], below, [threshold]])
    y = np.concatenate([np.arange(len(below) + 1), [len(below)]]) / len(checked)
    return 100 * float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)) / threshold


def _checked(errors: Errors) -> Float[np.ndarray, " n"]:
    values = np.asarray(errors, np.float64).reshape(-1)
    if len(values) == 0:
        raise ValueError("there are no errors to average")
    if not bool((values >= 0).all()):
        raise ValueError(f"errors are at least 0 and not NaN (failures are inf), got {values[~(values >= 0)][:3]}")
    return values
