"""Two-view errors in closed form and against OpenCV; robust estimators on synthetic matches with outliers."""

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vision3d.core import RigidTransform
from vision3d.eval.estimators import ESTIMATORS
from vision3d.eval.two_view import disparity_errors, transfer_error, two_view_pose_error_deg
from vision3d.geometry.epipolar import symmetric_epipolar_distance
from vision3d.geometry.homography import corner_error

H = np.array([[0.9, 0.1, 30], [-0.05, 1.1, 10], [1e-4, -5e-5, 1]])


def test_transfer_and_corner_error_against_opencv():
    estimate = H @ np.array([[1, 0, 2], [0, 1, -1], [0, 0, 1]])
    rng = np.random.default_rng(0)
    points0, points1 = rng.random((20, 2)) * 500, rng.random((20, 2)) * 500
    mapped = cv2.perspectiveTransform(points0[None], estimate)[0]
    expected = np.linalg.norm(mapped - points1, axis=1).mean()
    actual = transfer_error(*(torch.from_numpy(x) for x in (estimate, points0, points1)))
    assert actual == pytest.approx(expected)
    corners = np.array([[0.5, 0.5], [639.5, 0.5], [639.5, 479.5], [0.5, 479.5]])
    a, b = (cv2.perspectiveTransform(corners[None], h)[0] for h in (estimate, H))
    value = float(corner_error(torch.from_numpy(estimate), torch.from_numpy(H), (640, 480)))
    assert value == pytest.approx(np.linalg.norm(a - b, axis=1).mean())


def test_transfer_to_infinity_is_inf():
    at_infinity = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=torch.float64)
    points = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    assert transfer_error(at_infinity, points, points) == np.inf


def test_epipolar_distance_against_opencv_lines():
    rng = np.random.default_rng(1)
    f, p0, p1 = rng.normal(size=(3, 3)), rng.random((9, 2)), rng.random((9, 2))
    lines1 = cv2.computeCorrespondEpilines(p0[:, None], 1, f)[:, 0]  # normalised: |ax + by + c| is the distance
    lines0 = cv2.computeCorrespondEpilines(p1[:, None], 2, f)[:, 0]
    d1 = np.abs((lines1[:, :2] * p1).sum(1) + lines1[:, 2])
    d0 = np.abs((lines0[:, :2] * p0).sum(1) + lines0[:, 2])
    actual = symmetric_epipolar_distance(*(torch.from_numpy(x) for x in (p0, p1, f)))
    np.testing.assert_allclose(actual.numpy(), (d0 + d1) / 2, atol=1e-6)


def _pose(degrees, t):
    rotation = torch.from_numpy(Rotation.from_euler("y", degrees, degrees=True).as_matrix())
    return RigidTransform(rotation, torch.tensor(t, dtype=torch.float64))


def test_two_view_pose_error():
    truth = _pose(10, [1.0, 0, 0])
    assert two_view_pose_error_deg(_pose(13, [5.0, 0, 0]), truth) == pytest.approx(3)
    assert two_view_pose_error_deg(_pose(10, [-1.0, 0, 0]), truth) == pytest.approx(0)  # sign ignored
    assert two_view_pose_error_deg(_pose(10, [1.0, 1.0, 0]), truth) == pytest.approx(45)
    assert two_view_pose_error_deg(_pose(10, [-1.0, 1.0, 0]), truth) == pytest.approx(45)
    assert two_view_pose_error_deg(_pose(10, [0.0, 0, 0]), truth) == np.inf


def test_disparity_errors():
    disparity = torch.full((4, 6), 2.0, dtype=torch.float64)
    disparity[0, 3], disparity[1] = float("inf"), 1.0
    points0 = torch.tensor([[3.5, 2.5], [3.9, 1.1], [3.5, 0.5], [7.0, 1.0], [-0.1, 1.0]], dtype=torch.float64)
    points1 = torch.tensor([[1.5, 2.5], [2.9, 4.1], [1.5, 0.5], [5.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    # exact; right column but 3 px lower; unknown disparity; outside; outside
    np.testing.assert_allclose(disparity_errors(points0, points1, disparity), [0, 3])
    assert len(disparity_errors(points0[:0], points1[:0], disparity)) == 0


@pytest.fixture(scope="module")
def two_views():
    """300 matches of a 3-D scene between two cameras, 0.3 px noise, a third of them random."""
    rng = np.random.default_rng(2)
    k = np.array([[800.0, 0, 320], [0, 810, 240], [0, 0, 1]])
    truth = _pose(12, [0.8, 0.1, -0.2])
    points = rng.uniform([-2, -1.5, 4], [2, 1.5, 8], (300, 3))
    in_cam1 = truth.apply(torch.from_numpy(points)).numpy()
    p0, p1 = ((x @ k.T)[:, :2] / x[:, 2:] + rng.normal(0, 0.3, (300, 2)) for x in (points, in_cam1))
    p1[:100] = rng.random((100, 2)) * [640, 480]
    tensors = [torch.from_numpy(x) for x in (p0, p1, k)]
    return *tensors, truth


@pytest.mark.parametrize("name", ESTIMATORS)
def test_relative_pose_and_fundamental(name, two_views):
    p0, p1, k, truth = two_views
    pose = ESTIMATORS[name].relative_pose(p0, p1, k, k, 1.5, 0)
    assert two_view_pose_error_deg(pose, truth) < 1.5
    assert float(pose.translation @ truth.translation) > 0
    f = ESTIMATORS[name].fundamental(p0, p1, 1.5, 0)
    assert float(symmetric_epipolar_distance(p0[100:], p1[100:], f).median()) < 1
    again = ESTIMATORS[name].fundamental(p0, p1, 1.5, 0)
    assert torch.equal(f, again)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_homography(name):
    rng = np.random.default_rng(3)
    p0 = rng.random((200, 2)) * [640, 480]
    p1 = cv2.perspectiveTransform(p0[None], H)[0] + rng.normal(0, 0.3, (200, 2))
    p1[:80] = rng.random((80, 2)) * [640, 480]
    estimate = ESTIMATORS[name].homography(torch.from_numpy(p0), torch.from_numpy(p1), 2.0, 0)
    assert float(corner_error(estimate, torch.from_numpy(H), (640, 480))) < 1


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("n", [0, 3, 5])
def test_too_few_matches_give_none(name, n):
    points, k = torch.rand(n, 2, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    assert ESTIMATORS[name].fundamental(points, points, 1.0, 0) is None
    assert ESTIMATORS[name].relative_pose(points, points, k, k, 1.0, 0) is None
    if n < 4:
        assert ESTIMATORS[name].homography(points, points, 1.0, 0) is None


@pytest.mark.parametrize("name", ESTIMATORS)
def test_degenerate_matches_do_not_raise(name):
    """All matches at one point, on one line, or not moving: None or some finite model, never an exception."""
    line = torch.stack([torch.arange(30.0), 2 * torch.arange(30.0)], dim=1).double()
    k = torch.eye(3, dtype=torch.float64) * 500
    k[2, 2] = 1
    for points in (line, torch.ones(30, 2, dtype=torch.float64), torch.rand(30, 2, dtype=torch.float64) * 300):
        for model in (
            ESTIMATORS[name].homography(points, points, 2.0, 0),
            ESTIMATORS[name].fundamental(points, points, 2.0, 0),
            ESTIMATORS[name].relative_pose(points, points, k, k, 2.0, 0),
        ):
            assert model is None or isinstance(model, RigidTransform) or bool(torch.isfinite(model).all())
