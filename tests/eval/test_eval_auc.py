"""AUC and recall: literal values by hand, bounds between the three conventions, an independent integral."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision3d.eval.auc import auc_exact, auc_one_degree_bins, auc_trapezoid, recall

ERRORS = st.lists(st.floats(0, 200) | st.just(float("inf")), min_size=1, max_size=30)


def test_values_by_hand():
    errors = [0.0, 1.0, 2.5, 7.0, float("inf")]
    assert recall(errors, 5) == 60
    assert recall(errors, 1) == 20  # below, not at, the threshold
    # (1 - 0/5) + (1 - 1/5) + (1 - 2.5/5) = 2.3 of 5
    assert auc_exact(errors, 5) == pytest.approx(46)
    # bins [0,1) [1,2) [2,3) [3,4) [4,5]: counts 1 1 1 0 0, cumulated 1 2 3 3 3, mean 12/5 of 5
    assert auc_one_degree_bins(errors, 5) == pytest.approx(48)
    # (0,0) (0,.2) (1,.4) (2.5,.6) (5,.6): (.2+.4)/2*1 + (.4+.6)/2*1.5 + .6*2.5 = .3 + .75 + 1.5 = 2.55 of 5
    assert auc_trapezoid(errors, 5) == pytest.approx(51)


def test_all_perfect_and_all_failed():
    for auc in (auc_exact, auc_one_degree_bins, auc_trapezoid):
        assert auc([0.0, 0.0], 10) == 100
        assert auc([float("inf"), 180.0], 10) == 0


def test_error_equal_to_the_threshold():
    assert auc_exact([30.0], 30) == 0
    assert auc_one_degree_bins([30.0], 30) == pytest.approx(100 / 30)  # numpy's last bin is closed
    assert auc_trapezoid([30.0], 30) == 0


@given(ERRORS, st.sampled_from([3, 5, 10, 30]))
def test_exact_is_the_integral_of_recall(errors, threshold):
    finite = sorted(e for e in errors if e < threshold)
    edges = [0.0, *finite, float(threshold)]
    # Between two sorted errors recall is constant: k of n.
    area = sum((b - a) * k for k, (a, b) in enumerate(itertools.pairwise(edges)))
    assert auc_exact(errors, threshold) == pytest.approx(100 * area / threshold / len(errors), abs=1e-9)


@given(ERRORS, st.sampled_from([3, 5, 10, 30]))
def test_conventions_stay_within_their_bounds(errors, threshold):
    exact = auc_exact(errors, threshold)
    assert exact - 1e-9 <= auc_one_degree_bins(errors, threshold) <= exact + 100 / threshold + 1e-9
    assert exact - 1e-9 <= auc_trapezoid(errors, threshold) <= exact + 100 / len(errors) + 1e-9


def test_trapezoid_against_numpy_interpolation():
    rng = np.random.default_rng(0)
    errors = rng.exponential(6, 200)
    x = np.linspace(0, 10, 200_001)
    curve = np.interp(x, np.r_[0, np.sort(errors)], np.arange(201) / 200)
    below = np.sort(errors)[np.sort(errors) < 10]
    curve[x > below[-1]] = len(below) / 200
    assert auc_trapezoid(errors, 10) == pytest.approx(100 * np.trapezoid(curve, x) / 10, abs=1e-3)


@pytest.mark.parametrize("errors", [[], [-1.0], [float("nan")]])
def test_bad_errors_are_refused(errors):
    with pytest.raises(ValueError, match="error"):
        auc_exact(errors, 5)
