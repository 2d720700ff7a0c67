"""The simulators' ray casting and sensors: against brute force and closed forms."""

import numpy as np
import pytest
import torch

from vision3d.data.simulation.depth_camera import DepthCameraConfig, depth_points, look, thinned
from vision3d.data.simulation.lidar import LidarConfig, elevations, ray_directions, receive
from vision3d.data.simulation.materials import MATERIALS, PAINT, WALL
from vision3d.data.simulation.solids import Solid, blob, box, leaves, limb, loft, tube
from vision3d.data.simulation.triangle_tree import build_tree, first_triangles, first_triangles_slow, rays_by_owner


def _rays(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    origins = rng.normal(0, 4, (n, 3))
    directions = rng.normal(size=(n, 3))
    directions[: n // 8, 0] = 0.0  # along the axes' planes
    directions[: n // 16, 1] = 0.0
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize("m", [0, 1, 3, 40, 700])
def test_tree_equals_brute_force(m: int) -> None:
    rng = np.random.default_rng(m)
    corners = rng.normal(0, 3, (m, 1, 3)) + rng.normal(0, 0.7, (m, 3, 3))
    corners = np.concatenate([corners, corners[: m // 4]])  # twice the same: the lower number wins
    origins, directions = _rays(rng, 400)
    distance, triangle = first_triangles(build_tree(corners), origins, directions, 9.0)
    slow_distance, slow_triangle = first_triangles_slow(corners, origins, directions, 9.0)
    assert np.array_equal(triangle, slow_triangle)
    assert np.allclose(distance, slow_distance, rtol=1e-12, atol=0)
    assert m < 40 or (triangle >= 0).sum() > 15


def test_tree_does_not_depend_on_threads_or_equal_middles() -> None:
    rng = np.random.default_rng(1)
    corners = rng.normal(0, 1, (300, 3, 3))
    corners -= corners.mean(1, keepdims=True)  # all middles in one place: nothing to split by
    origins, directions = _rays(rng, 300)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(first_triangles(build_tree(corners), origins, directions, np.inf))
    torch.set_num_threads(before)
    slow = first_triangles_slow(corners, origins, directions, np.inf)
    for result in results:
        assert np.array_equal(result[0], results[0][0])
        assert np.array_equal(result[1], slow[1])


def test_rays_by_owner_counts_what_stands_behind_others() -> None:
    rng = np.random.default_rng(2)
    parts = [box(1, 1, 1, 5 + 2 * k, 0.3 * k, -0.5) for k in range(4)]
    owners = np.repeat(np.arange(4), 12).astype(np.int32)
    directions = np.stack([np.ones(2000), *rng.uniform(-0.3, 0.3, (2, 2000))], axis=1)
    origins = np.zeros_like(directions)
    tree = build_tree(np.concatenate(parts))
    alone = rays_by_owner(tree, owners, 4, origins, directions, 100.0)
    expected = [int(np.isfinite(first_triangles_slow(p, origins, directions, 100.0)[0]).sum()) for p in parts]
    assert alone.tolist() == expected
    _, first = first_triangles(tree, origins, directions, 100.0)
    assert np.bincount(owners[first[first >= 0]], minlength=4)[3] < alone[3]  # hidden by those before it


def test_tree_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not finite"):
        build_tree(np.full((1, 3, 3), np.nan))


def test_beams_of_the_lidar() -> None:
    up = np.rad2deg(elevations())
    assert len(up) == 64 and up[0] == pytest.approx(2.0) and up[-1] == pytest.approx(-24.33)
    assert (np.diff(up) < 0).all()
    rays = ray_directions(2150).reshape(64, 2150, 3)
    assert np.allclose(np.linalg.norm(rays, axis=-1), 1)
    step = np.diff(np.unwrap(np.arctan2(rays[..., 1], rays[..., 0]), axis=1), axis=1)
    assert np.allclose(np.rad2deg(step), 360 / 2150)
    some = ray_directions(2150, -0.5, 0.5)
    assert abs(np.arctan2(some[:, 1], some[:, 0])).max() < 0.51
    whole = {tuple(r) for r in np.round(rays.reshape(-1, 3), 9)}
    assert sum(tuple(r) in whole for r in np.round(some, 9)) == len(some)  # a part of the same turn


def test_receiver_noise_and_drop_out() -> None:
    n, config = 20000, LidarConfig()
    wall = np.full(n, WALL.number, np.uint8)

    def shot(distance: float, cosine: float, share: float = 0.35) -> tuple[float, float, float, float]:
        seen, measured, intensity = receive(
            np.random.default_rng(0),
            config,
            np.full(n, distance),
            np.full(n, cosine),
            wall,
            np.full(n, share, np.float32),
        )
        return seen.mean(), measured.mean(), measured.std(), intensity.mean()

    seen, mean, spread, bright = shot(10.0, 1.0)
    assert seen > 0.99 and mean == pytest.approx(10, abs=1e-3)
    assert spread == pytest.approx(np.hypot(config.noise, WALL.roughness), rel=0.03)
    assert shot(75.0, 0.02)[0] < 0.5 < shot(25.0, 0.3)[0]  # far and grazing is lost
    assert shot(30.0, 0.5, 0.01)[0] < shot(30.0, 0.5, 0.1)[0]
    assert shot(30.0, 0.06)[3] < bright and shot(90.0, 1.0)[0] == 0 and shot(1.0, 1.0)[0] == 0
    glass = receive(
        np.random.default_rng(0),
        config,
        np.full(n, 10.0),
        np.ones(n),
        np.full(n, MATERIALS[4].number, np.uint8),
        np.full(n, 0.1, np.float32),
    )[0]
    assert glass.mean() < 0.25


def test_solids_are_closed_and_of_their_size() -> None:
    rng = np.random.default_rng(0)
    for soup in (box(2, 1, 0.5), tube(0.3, 0.2, 1.0), limb((0, 0, 0), (1, 0.5, 0.2), 0.1, 0.05), blob(1, 2, 0.5)):
        edges = np.round(soup[:, [[0, 1], [1, 2], [2, 0]]], 9).reshape(-1, 2, 3)
        keys = [tuple(sorted(map(tuple, e))) for e in edges.tolist()]
        assert all(keys.count(k) == 2 for k in set(keys))  # every edge between two triangles
    assert len(leaves(rng, np.zeros((5, 3)), 0.1)) == 5
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    assert len(loft(np.stack([square, square + np.array([0, 0, 1.0])]), caps=False)) == 8
    fitted = Solid.of(box(3, 1, 1, 7, 7, 7), PAINT).fitted(4.0, 1.6, 1.5).corners
    assert np.allclose(fitted.min((0, 1)), [-2, -0.8, 0]) and np.allclose(fitted.max((0, 1)), [2, 0.8, 1.5])


def test_depth_camera_sees_a_wall_where_it_is() -> None:
    config = DepthCameraConfig()
    wall = np.array([[[2.0, -9, -9], [2, 9, -9], [2, 9, 9]], [[2.0, -9, -9], [2, 9, 9], [2, -9, 9]]])
    pose = look(np.array([0.0, 0.3, 0.2]), 0.2, -0.1, 0.05)
    assert np.allclose(pose[:, :3].T @ pose[:, :3], np.eye(3)) and np.linalg.det(pose[:, :3]) > 0
    points, cosine = depth_points(wall, pose, config)
    assert len(points) == config.width * config.height
    assert np.allclose((points @ pose[:, :3].T + pose[:, 3])[:, 0], 2.0)
    direction = points @ pose[:, :3].T
    assert np.allclose(cosine, direction[:, 0] / np.linalg.norm(direction, axis=1))


def test_thinned_means() -> None:
    points = np.array([[0.01, 0.01, 0.01], [0.03, 0.01, 0.01], [-0.01, 0.0, 0.0], [0.5, 0.5, 0.5]])
    out = thinned(points, 0.05)
    assert np.allclose(out, [[-0.01, 0, 0], [0.02, 0.01, 0.01], [0.5, 0.5, 0.5]])
    assert len(thinned(points[:0], 0.05)) == 0
