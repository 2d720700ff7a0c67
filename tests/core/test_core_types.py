"""Core types: closed forms and laws."""

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vision3d.core import Camera, Correspondences, Image, RigidTransform, Warp
from vision3d.core.camera import CAMERA_MODELS

DISTORTION = {"SIMPLE_RADIAL": (-0.1,), "RADIAL": (-0.1, 0.02), "OPENCV": (-0.1, 0.02, 0.003, -0.002)}


def _camera(model: str) -> Camera:
    focal = (500.0, 500.0) if CAMERA_MODELS[model][0] == 1 else (500.0, 520.0)
    return Camera(640, 480, focal, (321.0, 238.5), model, DISTORTION.get(model, ()))


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_projection_equals_colmap(model: str) -> None:
    camera = _camera(model)
    oracle = pycolmap.Camera(model=model, width=640, height=480, params=list(camera.colmap_params()))
    points = torch.randn(50, 3, dtype=torch.float64) * 0.4 + torch.tensor([0, 0, 2.0], dtype=torch.float64)
    pixels, front = camera.project(points)
    assert bool(front.all())
    np.testing.assert_allclose(pixels.numpy(), oracle.img_from_cam(points.numpy()), atol=1e-9)
    np.testing.assert_allclose(camera.unproject(pixels).numpy(), (points[:, :2] / points[:, 2:]).numpy(), atol=1e-7)


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_colmap_parameters_round_trip(model: str) -> None:
    camera = _camera(model)
    assert Camera.from_colmap(model, 640, 480, camera.colmap_params()) == camera


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_resized_camera_sees_the_same_relative_pixels(model: str) -> None:
    camera = _camera(model)
    small = camera.resized(320, 200)
    points = torch.randn(20, 3, dtype=torch.float64) * 0.3 + torch.tensor([0, 0, 2.0], dtype=torch.float64)
    expected = camera.project(points)[0] * torch.tensor([320 / 640, 200 / 480], dtype=torch.float64)
    torch.testing.assert_close(small.project(points)[0], expected)


def test_points_behind_are_marked() -> None:
    _, front = _camera("PINHOLE").project(torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0, 0]]))
    assert front.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "FISHEYE"}, "not supported"),
        ({"distortion": (0.1,)}, "distortion parameters"),
        ({"focal": (0.0, 500.0)}, "positive"),
        ({"model": "SIMPLE_PINHOLE"}, "one focal length"),
    ],
)
def test_impossible_cameras_are_refused(change: dict, message: str) -> None:
    values = {"width": 640, "height": 480, "focal": (500.0, 520.0), "center": (320.0, 240.0), **change}
    with pytest.raises(ValueError, match=message):
        Camera(**values)


def test_skew_is_refused() -> None:
    with pytest.raises(ValueError, match="skew"):
        Camera.from_matrix(640, 480, torch.tensor([[500.0, 2, 320], [0, 500, 240], [0, 0, 1]]))


numbers = st.lists(st.floats(-3, 3), min_size=6, max_size=6)


def _transform(values: list[float]) -> RigidTransform:
    rotation = Rotation.from_rotvec(values[:3]).as_matrix()
    return RigidTransform(torch.from_numpy(rotation), torch.tensor(values[3:], dtype=torch.float64))


@given(numbers, numbers)
def test_transforms_compose_like_matrices(a: list[float], b: list[float]) -> None:
    b_from_a, c_from_b = _transform(a), _transform(b)
    torch.testing.assert_close((c_from_b @ b_from_a).matrix(), c_from_b.matrix() @ b_from_a.matrix())
    identity = (b_from_a.inverse() @ b_from_a).matrix()
    torch.testing.assert_close(identity, torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(b_from_a.apply(b_from_a.center()[None])[0], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(RigidTransform.from_matrix(b_from_a.matrix()).matrix(), b_from_a.matrix())


def test_transform_of_a_batch() -> None:
    batch = RigidTransform.from_matrix(torch.stack([_transform([0.1 * i] * 6).matrix() for i in range(4)]))
    points = torch.randn(4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(batch.inverse().apply(batch.apply(points)), points)


@pytest.mark.parametrize(
    "matrix", [2 * torch.eye(4), torch.diag(torch.tensor([1.0, 1, -1, 1])), torch.full((3, 4), torch.nan)]
)
def test_not_a_rotation_is_refused(matrix: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="not a rotation"):
        RigidTransform.from_matrix(matrix)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(-50, 50))
def test_image_coordinates_undo_resize_and_crop(sx: float, sy: float, offset: float) -> None:
    image = Image(torch.zeros(3, 4, 5), "a", (50, 40), (sx, sy), (offset, -offset))
    points = torch.rand(7, 2, dtype=torch.float64) * 30
    torch.testing.assert_close(image.from_original(image.to_original(points)), points)
    assert image.size == (5, 4)


def test_correspondences_select_and_swap() -> None:
    matches = Correspondences(torch.rand(5, 2), torch.rand(5, 2), torch.rand(5))
    assert len(matches.select(torch.tensor([True, False, True, False, False]))) == 2
    assert torch.equal(matches.swap().swap().points0, matches.points0)
    assert len(Correspondences.empty()) == 0


def test_warp_samples_in_proportion_to_certainty() -> None:
    certainty = torch.zeros(4, 6)
    certainty[1, 2] = 1.0
    certainty[3, 5] = 0.5
    target = torch.rand(4, 6, 2)
    sampled = Warp(target, certainty, ((2.0, 2.0), (3.0, 1.0))).sample(10, torch.Generator().manual_seed(0))
    assert sorted(map(tuple, sampled.points0.tolist())) == [(5.0, 3.0), (11.0, 7.0)]
    first = sampled.points0[:, 0] == 5.0
    torch.testing.assert_close(sampled.points1[first][0], target[1, 2] * torch.tensor([3.0, 1.0]))
    assert len(Warp(target, torch.zeros(4, 6)).sample(3)) == 0


def test_shapes_are_checked() -> None:
    """The canary: without the shape-checking hook every annotation in this project is only a comment."""
    with pytest.raises(Exception, match=r"(?i)type-check"):
        Correspondences(torch.rand(5, 2), torch.rand(4, 2), torch.rand(5))
