"""Epipolar geometry, homographies, triangulation and PnP on synthetic views, with OpenCV as the oracle."""

import math

import cv2
import numpy as np
import pytest
import torch

from vision3d.core import Camera, RigidTransform
from vision3d.geometry.epipolar import (
    decompose_essential,
    epipolar_distances,
    essential_from_pose,
    fundamental_from_pose,
    in_front,
    pose_from_essential,
    sampson_distance,
    symmetric_epipolar_distance,
)
from vision3d.geometry.homography import apply_homography, corner_error, fit_homography, shift_origin
from vision3d.geometry.pnp import NoPoseError, absolute_pose
from vision3d.geometry.rotation import angle_between, rotation_exp
from vision3d.geometry.triangulation import (
    reprojection_errors,
    triangulate_dlt,
    triangulate_midpoint,
    triangulation_angle,
)

CAMERA = Camera(640, 480, (500.0, 510.0), (310.0, 250.0), "OPENCV", (0.05, -0.02, 0.001, -0.002))
CAM1_FROM_CAM0 = RigidTransform(
    rotation_exp(torch.tensor([0.1, -0.3, 0.05], dtype=torch.float64)),
    torch.tensor([1.0, 0.1, 0.2], dtype=torch.float64),
)


def _points(n: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, dtype=torch.float64) * torch.tensor([4.0, 3, 3]) + torch.tensor([-2.0, -1.5, 4])


def _rays(points: torch.Tensor, pose: RigidTransform) -> torch.Tensor:
    in_cam = pose.apply(points)
    return in_cam[:, :2] / in_cam[:, 2:]


def test_essential_matrix_holds_and_gives_the_pose_back() -> None:
    points = _points()
    x0, x1 = _rays(points, RigidTransform.identity()), _rays(points, CAM1_FROM_CAM0)
    essential = essential_from_pose(CAM1_FROM_CAM0)
    assert float(symmetric_epipolar_distance(x0, x1, essential).max()) < 1e-14
    pose, front = pose_from_essential(essential, x0, x1)
    assert bool(front.all())
    assert float(angle_between(pose.rotation, CAM1_FROM_CAM0.rotation)) < 1e-7
    assert torch.allclose(pose.translation, CAM1_FROM_CAM0.translation / CAM1_FROM_CAM0.translation.norm())
    four = decompose_essential(torch.stack([essential, essential]))
    assert four.rotation.shape == (2, 4, 3, 3)
    assert torch.allclose(torch.linalg.det(four.rotation), torch.ones(2, 4, dtype=torch.float64))


def test_in_front_agrees_with_depth() -> None:
    points = torch.randn(200, 3, dtype=torch.float64) * 3
    x0, x1 = _rays(points, RigidTransform.identity()), _rays(points, CAM1_FROM_CAM0)
    true = (points[:, 2] > 0) & (CAM1_FROM_CAM0.apply(points)[:, 2] > 0)
    assert torch.equal(in_front(CAM1_FROM_CAM0, x0, x1), true)


def test_epipolar_distances_agree_with_opencv() -> None:
    k = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64)
    f = fundamental_from_pose(CAM1_FROM_CAM0, k, k)
    p0, p1 = torch.rand(30, 2, dtype=torch.float64) * 400, torch.rand(30, 2, dtype=torch.float64) * 400
    d0, d1 = epipolar_distances(p0, p1, f)
    for side, points, other, ours in ((1, p0, p1, d1), (2, p1, p0, d0)):
        lines = cv2.computeCorrespondEpilines(points.numpy()[:, None], side, f.numpy())[:, 0]
        assert np.allclose(np.abs((lines[:, :2] * other.numpy()).sum(1) + lines[:, 2]), ours.numpy())
    squared = [
        cv2.sampsonDistance(np.append(a, 1.0), np.append(b, 1.0), f.numpy()) for a, b in zip(p0, p1, strict=True)
    ]
    assert np.allclose(np.sqrt(squared), sampson_distance(p0, p1, f).numpy())


def test_sampson_approximates_the_distance_to_a_perfect_match() -> None:
    points = _points()
    k = torch.tensor([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]], dtype=torch.float64)
    p0 = _rays(points, RigidTransform.identity()) @ k[:2, :2].mT + k[:2, 2]
    p1 = _rays(points, CAM1_FROM_CAM0) @ k[:2, :2].mT + k[:2, 2]
    noise = torch.randn(40, 2, dtype=torch.float64)
    distance = sampson_distance(p0, p1 + noise, fundamental_from_pose(CAM1_FROM_CAM0, k, k))
    assert bool((distance <= noise.norm(dim=1) * 1.01).all())


def test_no_point_in_front_is_an_error() -> None:
    with pytest.raises(ValueError, match="in front"):
        pose_from_essential(essential_from_pose(CAM1_FROM_CAM0), torch.zeros(0, 2).double(), torch.zeros(0, 2).double())


def test_homography_from_points_batched_and_against_opencv() -> None:
    true = torch.tensor([[1.2, 0.1, -30], [-0.05, 0.9, 20], [1e-4, -2e-4, 1]], dtype=torch.float64)
    p0 = torch.rand(3, 25, 2, dtype=torch.float64) * 600
    p1 = apply_homography(true.expand(3, 3, 3), p0)
    fitted = fit_homography(p0, p1)
    assert torch.allclose(fitted / fitted[:, 2:, 2:], true.expand(3, 3, 3), atol=1e-8)
    assert np.allclose(cv2.perspectiveTransform(p0.numpy(), true.numpy()), p1.numpy())
    four = fit_homography(p0[0, :4], p1[0, :4])
    assert float(corner_error(four, true, (640, 480))) < 1e-6


@pytest.mark.parametrize("case", ["three", "line"])
def test_homography_degenerate(case: str) -> None:
    points = torch.rand(3 if case == "three" else 6, 2, dtype=torch.float64)
    if case == "line":
        points[:, 1] = 2 * points[:, 0]
    with pytest.raises(ValueError, match="homography"):
        fit_homography(points, points)


def test_corner_error_and_shift_of_origin() -> None:
    shift = torch.tensor([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert float(corner_error(shift, torch.eye(3), (100, 50))) == pytest.approx(5)
    to_infinity = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-2, 0, 1]])
    assert math.isinf(float(corner_error(to_infinity, torch.eye(3), (100, 50))))
    zero_based = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 1]])  # pixel centre (0, 0) stays, so does our (0.5, 0.5)
    point = apply_homography(shift_origin(zero_based, 0.5), torch.tensor([[0.5, 0.5], [1.5, 0.5]]))
    assert torch.equal(point, torch.tensor([[0.5, 0.5], [2.5, 0.5]]))


def _views(n: int) -> RigidTransform:
    turns = torch.linspace(-0.4, 0.4, n, dtype=torch.float64)
    rotation = rotation_exp(torch.stack([0 * turns, turns, 0 * turns], dim=1))
    center = torch.stack([6 * torch.sin(-turns), 0 * turns, 5.5 - 6 * torch.cos(turns)], dim=1)
    return RigidTransform(rotation, -(rotation @ center[..., None])[..., 0])


@pytest.mark.parametrize("triangulate", [triangulate_dlt, triangulate_midpoint])
def test_triangulation_recovers_points(triangulate: object) -> None:
    points, views = _points(), _views(5)
    rays = torch.stack(
        [_rays(points, RigidTransform(views.rotation[i], views.translation[i])) for i in range(5)], dim=1
    )
    assert callable(triangulate)
    assert torch.allclose(triangulate(views, rays), points, atol=1e-9)
    seen = torch.rand(40, 5) < 0.6
    rays = torch.where(seen[..., None], rays, torch.full_like(rays, 99.0))
    out = triangulate(views, rays, seen)
    enough = seen.sum(1) >= 2
    assert torch.allclose(out[enough], points[enough], atol=1e-8)
    assert bool(out[~enough].isnan().all()) and bool((~enough).any())


def test_triangulation_agrees_with_opencv() -> None:
    points, views = _points(), _views(2)
    rays = torch.stack([_rays(points, RigidTransform(views.rotation[i], views.translation[i])) for i in range(2)], 1)
    rays = rays + 1e-4 * torch.randn_like(rays)
    matrix = views.matrix()[:, :3].numpy()
    x = cv2.triangulatePoints(matrix[0], matrix[1], rays[:, 0].numpy().T, rays[:, 1].numpy().T)
    assert np.allclose(triangulate_dlt(views, rays).numpy(), (x[:3] / x[3]).T, atol=5e-4)


def test_reprojection_error_and_angle() -> None:
    points = _points()
    pixels, _ = CAMERA.project(CAM1_FROM_CAM0.apply(points))
    errors = reprojection_errors(points, CAMERA, CAM1_FROM_CAM0, pixels + torch.tensor([3.0, 4.0]))
    assert torch.allclose(errors, torch.full_like(errors, 5.0))
    behind = torch.tensor([[0.0, 0, -9]], dtype=torch.float64)
    assert bool(reprojection_errors(behind, CAMERA, CAM1_FROM_CAM0, pixels[:1]).isinf().all())
    origin = torch.zeros(1, 3)
    corner = triangulation_angle(origin, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 2]))
    assert float(corner) == pytest.approx(math.pi / 2)


def test_absolute_pose_with_outliers_and_distortion() -> None:
    points = _points(200)
    pixels, _ = CAMERA.project(CAM1_FROM_CAM0.apply(points))
    pixels[:60] = torch.rand(60, 2, dtype=torch.float64) * 480
    found = absolute_pose(pixels, points, CAMERA)
    assert float(angle_between(found.cam_from_world.rotation, CAM1_FROM_CAM0.rotation)) < 1e-5
    assert torch.allclose(found.cam_from_world.translation, CAM1_FROM_CAM0.translation, atol=1e-4)
    assert bool(found.inliers[60:].all()) and int(found.inliers[:60].sum()) < 5


def test_absolute_pose_says_when_there_is_none() -> None:
    with pytest.raises(NoPoseError, match="needs 6 correspondences, got 3"):
        absolute_pose(torch.rand(3, 2), torch.rand(3, 3), CAMERA)
    with pytest.raises(NoPoseError, match="no pose fits"):
        absolute_pose(torch.rand(50, 2) * 480, torch.rand(50, 3), CAMERA, max_error=0.5, min_inliers=25)
