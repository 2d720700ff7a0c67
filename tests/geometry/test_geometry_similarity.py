"""Similarity alignment: exact on clean data, robust with outliers, refusing what is not determined."""

import pytest
import torch

from vision3d.core import RigidTransform
from vision3d.geometry.rotation import angle_between, rotation_exp
from vision3d.geometry.similarity import Similarity, align_poses, fit_similarity, fit_similarity_robust


def _similarity() -> Similarity:
    rotation = rotation_exp(torch.randn(3, dtype=torch.float64))
    return Similarity(torch.tensor(2.5, dtype=torch.float64), rotation, torch.randn(3, dtype=torch.float64))


def _poses(n: int) -> RigidTransform:
    return RigidTransform(rotation_exp(torch.randn(n, 3, dtype=torch.float64)), torch.randn(n, 3, dtype=torch.float64))


def _same(a: Similarity, b: Similarity) -> bool:
    pairs = ((a.scale, b.scale), (a.rotation, b.rotation), (a.translation, b.translation))
    return all(torch.allclose(x, y, atol=1e-9) for x, y in pairs)


@pytest.mark.parametrize("n", [3, 4, 50])
def test_umeyama_is_exact(n: int) -> None:
    true, points = _similarity(), torch.randn(n, 3, dtype=torch.float64)
    assert _same(fit_similarity(points, true.apply(points)), true)
    assert torch.allclose(true.inverse().apply(true.apply(points)), points)


def test_umeyama_never_mirrors() -> None:
    points = torch.randn(30, 3, dtype=torch.float64)
    fitted = fit_similarity(points, points * torch.tensor([1.0, 1, -1]))
    assert float(torch.linalg.det(fitted.rotation)) == pytest.approx(1)


def test_weights_and_fixed_scale() -> None:
    true, points = _similarity(), torch.randn(10, 3, dtype=torch.float64)
    target = true.apply(points)
    target[0] += 100
    weights = torch.ones(10, dtype=torch.float64)
    weights[0] = 0
    assert _same(fit_similarity(points, target, weights), true)
    assert float(fit_similarity(points, true.apply(points), with_scale=False).scale) == 1


def test_undetermined_is_an_error() -> None:
    line = torch.arange(5, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2, 3], dtype=torch.float64)
    with pytest.raises(ValueError, match="on a line"):
        fit_similarity(line, line)
    with pytest.raises(ValueError, match="3 points"):
        fit_similarity(line[:2], line[:2])
    with pytest.raises(ValueError, match="off a line"):
        fit_similarity_robust(line, line)


@pytest.mark.parametrize(("n", "bad"), [(5, 1), (12, 5), (60, 25)])
def test_robust_fit_ignores_outliers(n: int, bad: int) -> None:
    true, points = _similarity(), torch.randn(n, 3, dtype=torch.float64)
    target = true.apply(points)
    target[:bad] += 10 * torch.randn(bad, 3, dtype=torch.float64)
    fitted, inlier = fit_similarity_robust(points, target, torch.Generator().manual_seed(1))
    assert _same(fitted, true)
    assert bool(inlier[bad:].all()) and not bool(inlier[:bad].any())


@pytest.mark.parametrize("n", [2, 3, 9])
def test_align_poses_also_on_a_line(n: int) -> None:
    true, cam_from_a = _similarity(), _poses(n)
    rotation = cam_from_a.rotation
    center = torch.arange(n, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.5, 2], dtype=torch.float64)
    cam_from_a = RigidTransform(rotation, -(rotation @ center[..., None])[..., 0])
    cam_from_b = true.move_pose(cam_from_a)
    assert torch.allclose(cam_from_b.center(), true.apply(center))
    assert _same(align_poses(cam_from_a, cam_from_b), true)


def test_moved_cameras_see_the_same() -> None:
    b_from_a, cam_from_a = _similarity(), _poses(4)
    points = torch.randn(4, 7, 3, dtype=torch.float64)
    cam_from_b = b_from_a.move_pose(cam_from_a)
    in_cam = cam_from_b.apply(b_from_a.apply(points))
    assert torch.allclose(in_cam, b_from_a.scale * cam_from_a.apply(points))
    assert float(angle_between(cam_from_b.rotation, cam_from_a.rotation @ b_from_a.rotation.mT).max()) < 1e-7


def test_one_camera_cannot_be_aligned() -> None:
    with pytest.raises(ValueError, match="2 cameras"):
        align_poses(_poses(1), _poses(1))
