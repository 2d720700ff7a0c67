"""The orbit: closed, smooth, upright, in the range of the cameras and away from the points."""

import math

import pytest
import torch

from vision3d.core import Camera, RigidTransform
from vision3d.recon.orbit import orbit_path

UP = torch.tensor([0.0, -1, 0], dtype=torch.float64)
CAMERA = Camera(640, 480, (600.0, 610.0), (300.0, 250.0))


def _pose(center: torch.Tensor, target: torch.Tensor, up: torch.Tensor = UP) -> RigidTransform:
    forward = torch.nn.functional.normalize(target - center, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    return RigidTransform(rotation, -rotation @ center)


def _around(n: int, degrees: float, noise: float = 0.05, scale: float = 1.0) -> list[tuple[RigidTransform, Camera]]:
    """n cameras about the origin at distance 3, over an arc (360: all around), 20 degrees up, disturbed."""
    g = torch.Generator().manual_seed(n)
    out = []
    for i in range(n):
        angle = math.radians(degrees * (i / n if degrees == 360 else (i / max(n - 1, 1) - 0.5)))
        center = torch.tensor([math.sin(angle), -0.36, -math.cos(angle)], dtype=torch.float64) * 3
        center = center + noise * torch.randn(3, generator=g, dtype=torch.float64)
        out.append((_pose(center * scale, torch.zeros(3, dtype=torch.float64)), CAMERA))
    return out


def _blob(scale: float = 1.0) -> torch.Tensor:
    points = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    return points.double() * scale


def _check(path: list[tuple[RigidTransform, Camera]], frames: int, up: torch.Tensor = UP) -> torch.Tensor:
    """What holds for every orbit about a blob at the origin; gives the eyes."""
    assert len(path) == frames
    eyes = torch.stack([pose.center() for pose, _ in path])
    steps = torch.linalg.vector_norm(eyes - eyes.roll(1, dims=0), dim=1)
    # No jumps in place, speed or direction, those between the last frame and the first included.
    moves = eyes - eyes.roll(1, dims=0)
    assert float(torch.linalg.vector_norm(moves - moves.roll(1, dims=0), dim=1).max()) < 0.2 * float(steps.max())
    assert float(steps.min()) > 0 and float(steps.max()) < 12 / frames * float(torch.pdist(eyes).max())
    for pose, camera in path:
        RigidTransform.from_matrix(pose.matrix())  # a rotation
        assert camera == path[0][1]
        assert float(-pose.rotation[1] @ up) > 0.3
        seen, front = camera.project(pose.apply(torch.zeros(1, 3, dtype=torch.float64)))
        middle = torch.tensor([camera.width / 2, camera.height / 2], dtype=torch.float64)
        assert bool(front[0]) and float((seen[0] - middle).norm()) < 0.2 * camera.width
    return eyes


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_cameras_all_around_give_a_full_turn(scale: float) -> None:
    cameras = _around(12, 360, scale=scale)
    eyes = _check(orbit_path(cameras, _blob(scale), 120), 120)
    steps = torch.linalg.vector_norm(eyes - eyes.roll(1, dims=0), dim=1)
    assert float(steps.max()) < 1.02 * float(steps.min())  # constant speed
    distance = torch.linalg.vector_norm(eyes, dim=1) / scale
    assert float(distance.min()) > 2.8 and float(distance.max()) < 3.6
    azimuth = torch.atan2(eyes[:, 0], -eyes[:, 2]).sort().values
    assert float(azimuth.diff().max()) < math.radians(6)


@pytest.mark.parametrize(("n", "degrees"), [(7, 60), (20, 180), (3, 20), (2, 15)])
def test_cameras_on_one_side_give_a_path_along_them_and_back(n: int, degrees: float) -> None:
    eyes = _check(orbit_path(_around(n, degrees, noise=0.02), _blob(), 160), 160)
    azimuth = torch.rad2deg(torch.atan2(eyes[:, 0], -eyes[:, 2]))
    assert float(azimuth.max()) == pytest.approx(degrees / 2, abs=4)
    assert float(azimuth.min()) == pytest.approx(-degrees / 2, abs=4)
    elevation = torch.rad2deg(torch.asin(-eyes[:, 1] / torch.linalg.vector_norm(eyes, dim=1)))
    assert float((elevation - 20).abs().max()) < 0.07 * degrees + 4
    assert float(torch.linalg.vector_norm(eyes, dim=1).min()) > 2.8  # the points end at 1


def test_one_camera() -> None:
    cameras = _around(1, 0, noise=0)
    eyes = _check(orbit_path(cameras, _blob(), 60), 60)
    away = torch.linalg.vector_norm(eyes - cameras[0][0].center(), dim=1)
    assert 0.05 < float(away.max()) < 0.5  # it moves, but not far


def test_uneven_ring_and_two_heights_stay_between_the_cameras() -> None:
    high = [(_pose(pose.center() * 1.4 + UP * 2, torch.zeros(3).double()), c) for pose, c in _around(9, 360)]
    cameras = [*_around(14, 360), *high]
    eyes = _check(orbit_path(cameras, _blob(), 200), 200)
    centers = torch.stack([pose.center() for pose, _ in cameras])
    assert float((eyes @ UP).min()) > float((centers @ UP).min()) - 0.1
    assert float((eyes @ UP).max()) < float((centers @ UP).max()) + 0.1
    distance = torch.linalg.vector_norm(centers, dim=1)
    assert float(torch.linalg.vector_norm(eyes, dim=1).min()) > float(distance.min()) - 0.01


def test_any_world_orientation() -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double()).Q
    turn = turn * torch.linalg.det(turn)
    world = RigidTransform(turn, torch.zeros(3, dtype=torch.float64))
    cameras = _around(9, 70)
    turned = [(pose @ world.inverse(), camera) for pose, camera in cameras]
    eyes = _check(orbit_path(turned, torch.zeros(1, 3), 90), 90, turn @ UP)
    plain = torch.stack([pose.center() for pose, _ in orbit_path(cameras, torch.zeros(1, 3), 90)])
    assert torch.allclose(eyes, plain @ turn.mT, atol=1e-6)


def test_without_points_the_axes_say_where_to_look() -> None:
    nothing = torch.zeros(0, 3)
    _check(orbit_path(_around(8, 90), nothing, 90), 90)
    nan = torch.full((3, 3), float("nan"))
    parallel = [
        (RigidTransform(torch.eye(3).double(), torch.tensor([-x, 0, 0]).double()), CAMERA) for x in (0.0, 1.0, 2.0)
    ]
    for cameras in (parallel, parallel[:1], parallel[:1] * 3):
        for points in (nothing, nan):
            path = orbit_path(cameras, points, 30)
            assert all(bool(torch.isfinite(pose.matrix()).all()) for pose, _ in path)
            assert all(float(pose.rotation[2, 2]) > 0.5 for pose, _ in path)  # it still looks along +z


def test_camera_in_the_middle_of_the_points_gives_finite_poses() -> None:
    inside = [(RigidTransform.identity(), CAMERA)]
    for points in (torch.zeros(1, 3), _blob()):
        for cameras in (inside, inside + _around(5, 360)):
            path = orbit_path(cameras, points, 20)
            assert all(bool(torch.isfinite(pose.matrix()).all()) for pose, _ in path)


def test_one_camera_for_all_frames() -> None:
    wide = Camera(800, 600, (500.0, 500.0), (400.0, 300.0))
    cameras = _around(5, 60)
    cameras[0] = (cameras[0][0], wide)
    camera = orbit_path(cameras, _blob(), 3)[0][1]
    assert (camera.width, camera.height, camera.focal, camera.center) == (640, 480, (600, 610), (320, 240))


def test_wrong_input() -> None:
    cameras = _around(3, 60)
    with pytest.raises(ValueError, match="at least one camera"):
        orbit_path([], _blob(), 10)
    with pytest.raises(ValueError, match="at least one frame"):
        orbit_path(cameras, _blob(), 0)
    broken = RigidTransform(cameras[0][0].rotation, cameras[0][0].translation * float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        orbit_path([(broken, CAMERA)], _blob(), 10)
