"""Fusion of depth maps: closed form, the NumPy twin, threads, edges, limits."""

import numpy as np
import pytest
import torch
from depth_scenes import AROUND, plane, scaled, sphere, view_of

from vision3d.core import DepthView
from vision3d.recon.fusion_maps import FusionMap, Typical, fusion_map, relative_noise, typical_pixel
from vision3d.recon.tsdf import SIDE, Grid, TooManyBlocksError, TsdfVolume, find_blocks, fuse, fuse_slow, prepare

GRID = Grid(np.array([0.013, -0.02, 0.017]), 0.03, 4.0)
TYPICAL = Typical(2.0, 0.03)


def _fused(maps: list[FusionMap], grid: Grid) -> TsdfVolume:
    return fuse(maps, grid, find_blocks(maps, grid, 10_000))


def _points(volume: TsdfVolume) -> np.ndarray:
    """Indices of all grid points in the order of the arrays."""
    inside = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return (volume.blocks[:, None] * SIDE + inside).reshape(-1, 3)


def test_as_the_twin() -> None:
    views = [view_of(sphere(), center, 60) for center in AROUND[::3]]
    views[0].depth[20:25] = float("nan")
    views[1].depth[:, 30] = 0
    views[2].weight[:] = torch.rand(60, 60)
    maps = prepare(views, GRID, 80.0, TYPICAL)
    volume = _fused(maps, GRID)
    distance, weight = fuse_slow(maps, GRID, _points(volume))
    close = np.isclose(volume.weight.reshape(-1), weight, rtol=1e-3, atol=1e-4)
    close &= np.isclose(volume.distance.reshape(-1), distance, atol=1e-3)
    # Single precision puts a point in another pixel, or across the truncation, once in a while.
    assert close.mean() > 0.9995 and (weight > 0).mean() > 0.1
    # Outside of the blocks no grid point near the sphere would have a distance.
    everywhere = np.stack(np.meshgrid(*[np.arange(-44, 44)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    _, weight = fuse_slow(maps, GRID, everywhere)
    kept = set(map(tuple, volume.blocks.tolist()))
    world = everywhere * GRID.voxel + GRID.origin
    radius = np.linalg.norm(world, axis=1)
    towards = world @ np.array(AROUND[6]) / np.linalg.norm(AROUND[6]) > 0.7 * radius  # the third view looks at it
    near = everywhere[(weight > 0) & towards & (np.abs(radius - 1) < 0.7 * GRID.truncation * GRID.voxel)]
    assert len(near) > 1000 and all(tuple(b) in kept for b in np.unique(near // SIDE, axis=0).tolist())


def test_distance_from_a_plane_is_exact() -> None:
    normal = np.array([0.3, -0.2, 0.9]) / np.linalg.norm([0.3, -0.2, 0.9])
    view = view_of(plane(normal.tolist(), -0.1), (0.4, 0.3, 2.0), 80)
    volume = _fused(prepare([view], GRID, 80.0, TYPICAL), GRID)
    expected = ((_points(volume) * GRID.voxel + GRID.origin) @ normal + 0.1) / (GRID.truncation * GRID.voxel)
    seen = volume.weight.reshape(-1) > 0
    # 2 px from the border, depth is interpolated and not taken from the nearest pixel
    error = np.abs(volume.distance.reshape(-1) - np.minimum(expected, 1))[seen]
    assert seen.sum() > 10_000 and np.quantile(error, 0.97) < 1e-4 and error.max() < 0.15
    assert volume.distance.reshape(-1)[seen].min() > -1 and not volume.distance.reshape(-1)[~seen].any()


def test_threads_do_not_matter() -> None:
    views = [view_of(sphere(), center, 60) for center in AROUND[:5]]
    before = torch.get_num_threads()
    volumes = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            volumes.append(_fused(prepare(views, GRID, 80.0, TYPICAL), GRID))
    finally:
        torch.set_num_threads(before)
    for name in ("blocks", "distance", "weight"):
        assert np.array_equal(getattr(volumes[0], name), getattr(volumes[1], name))


def test_blocks_are_sorted_unique_and_around_every_point() -> None:
    grid = Grid(np.zeros(3), 0.004, 4.0)  # many blocks: the table of keys has to grow
    views = [view_of(sphere(), center, 60) for center in AROUND[:3]]
    maps = prepare(views, grid, 80.0, TYPICAL)
    # Pixels are wider than the truncation here.
    blocks = find_blocks(maps, grid, 10**6)
    assert len(blocks) > 5000 and np.array_equal(np.unique(blocks, axis=0), blocks)
    kept = set(map(tuple, blocks.tolist()))
    for view, prepared in zip(views, maps, strict=True):
        y, x = np.nonzero(prepared.values[..., 2] > 0)
        rays = torch.tensor(np.stack([x + 0.5, y + 0.5], axis=1))
        z = view.depth.double()[torch.from_numpy(y), torch.from_numpy(x)][:, None]
        points = view.cam_from_world.inverse().apply(torch.cat([view.camera.unproject(rays) * z, z], dim=1)).numpy()
        assert all(tuple(b) in kept for b in np.floor(points / grid.voxel / SIDE).astype(int).tolist())
    with pytest.raises(TooManyBlocksError):
        find_blocks(maps, grid, 1000)


def test_a_surface_beyond_all_keys_is_refused() -> None:
    view = view_of(sphere(), AROUND[0], 40)
    grid = Grid(np.full(3, 1e9), 0.03, 4.0)
    with pytest.raises(ValueError, match="million blocks"):
        find_blocks(prepare([view], grid, 80.0, TYPICAL), grid, 10_000)


def test_both_sides_of_a_step_are_left_out() -> None:
    view = view_of(plane((0, 0, 1), 0.0), (0.01, 0, 2.0), 40)
    flat = fusion_map(view, 0.05, 4.0, 80.0, TYPICAL).values[..., 2]
    view.depth[:, 20:] -= 0.5
    cut = fusion_map(view, 0.05, 4.0, 80.0, TYPICAL).values[..., 2]
    assert (flat > 0).all() and not cut[:, 19:21].any() and (cut[:, :19] > 0).all() and (cut[:, 21:] > 0).all()
    # A step that is small beside a voxel is none.
    view.depth[:, 20:] += 0.45
    assert (fusion_map(view, 0.06, 4.0, 80.0, TYPICAL).values[..., 2] > 0).all()


def test_unusable_depth_and_far_pixels_are_left_out() -> None:
    view = view_of(plane((0, 0, 1), 0.0), (0.01, 0, 2.0), 40)
    bad = [float("nan"), float("inf"), -1.0, 0.0, 1e6]
    view.depth[0, :5] = torch.tensor(bad)
    view.weight[0, 5], view.weight[0, 6] = 0.0, float("nan")
    values = fusion_map(view, 0.05, 4.0, 80.0, TYPICAL).values
    assert not values[0, :7].any() and np.isfinite(values).all() and (values[2:] > 0).all()
    with pytest.raises(ValueError, match="40x40 px"):
        cut = (view.depth[:10], view.color[:, :10], view.weight[:10])
        small = DepthView("a", view.camera, view.cam_from_world, *cut)
        fusion_map(small, 0.05, 4.0, 80.0, TYPICAL)


def test_the_unit_does_not_matter() -> None:
    views = [view_of(sphere(), center, 50) for center in AROUND[:3]]
    volumes = []
    for factor in (1.0, 2.0**-13, 2.0**17):
        grid = Grid(GRID.origin * factor, GRID.voxel * factor, GRID.truncation)
        volumes.append(
            _fused(prepare([scaled(v, factor) for v in views], grid, 80.0, Typical(2.0 * factor, 0.03 * factor)), grid)
        )
    for other in volumes[1:]:
        assert np.array_equal(volumes[0].blocks, other.blocks)
        assert np.array_equal(volumes[0].distance, other.distance)
        assert np.array_equal(volumes[0].weight, other.weight)


def test_typical_pixel() -> None:
    view = view_of(plane((0, 0, 1), 0.0), (0.0, 0.001, 2.0), 40)
    found = typical_pixel([view])
    assert found is not None
    assert abs(found.depth - 2) < 0.01 and abs(found.width - 2 / (0.5 * (48 + 50))) < 1e-3
    view.depth.zero_()
    assert typical_pixel([view]) is None


def test_noise_is_measured_and_does_not_tear_the_map() -> None:
    view = view_of(plane((0.2, 0.1, 1), 0.0), (0.01, 0, 2.0), 100)
    inverse = 1 / view.depth.double()
    assert relative_noise(inverse.numpy()) < 1e-6 and relative_noise(np.zeros((5, 5))) == 0
    noisy = (inverse * (1 + 0.02 * torch.randn(100, 100))).numpy()
    assert abs(relative_noise(noisy) - 0.02) < 0.002
    exact = fusion_map(view, 0.005, 4.0, 80.0, TYPICAL).values
    view.depth[:] = torch.from_numpy(1 / noisy)
    values = fusion_map(view, 0.005, 4.0, 80.0, TYPICAL).values
    assert (values[..., 2] > 0).mean() > 0.99
    assert np.median(np.abs(values[..., 1] / exact[..., 1] - 1)) < 0.1
