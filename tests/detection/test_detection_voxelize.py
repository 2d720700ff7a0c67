"""Voxels of clouds: the kernel against its twin, limits, borders, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vision3d.detection.grid import VoxelGrid
from vision3d.detection.voxelize import voxelize, voxelize_slow
from vision3d.io.scans import read_scan

SMALL = VoxelGrid(low=(0.0, -2.0, -1.0), high=(4.0, 2.0, 1.0), size=(0.5, 0.5, 0.25))


def random_cloud(n: int = 800, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 4, generator=generator) * torch.tensor([5.0, 5, 3, 1]) - torch.tensor([0.5, 2.5, 1.5, 0])


@pytest.mark.parametrize(("max_points", "max_voxels"), [(None, None), (1, None), (3, 40), (None, 100), (5, 10**6)])
def test_kernel_equals_twin(max_points: int | None, max_voxels: int | None) -> None:
    points = random_cloud()
    fast, slow = (f(points, SMALL, max_points, max_voxels) for f in (voxelize, voxelize_slow))
    torch.testing.assert_close(fast.means, slow.means, rtol=1e-6, atol=1e-6)
    assert torch.equal(fast.indices, slow.indices) and torch.equal(fast.counts, slow.counts)
    assert len(fast.means) > 30 and (max_voxels is None or len(fast.means) <= max_voxels)


def test_means_indices_and_limits_by_hand() -> None:
    points = torch.tensor(
        [
            [0.1, -1.9, -0.9, 1.0],
            [3.9, 1.9, 0.9, 5.0],
            [0.3, -1.7, -0.8, 3.0],
            [0.2, -1.8, -0.9, 8.0],
            [4.0, 0.0, 0.0, 9.0],  # the upper border is outside
            [0.0, -2.0, -1.0, 2.0],  # the lower one inside
        ]
    )
    every = voxelize(points, SMALL)
    assert every.indices.tolist() == [[0, 0, 0], [7, 7, 7]] and every.counts.tolist() == [4, 1]
    torch.testing.assert_close(every.means[0], torch.tensor([0.15, -1.85, -0.9, 3.5]))
    two = voxelize(points, SMALL, max_points=2)  # the first two in the order of the cloud
    torch.testing.assert_close(two.means[0], torch.tensor([0.2, -1.8, -0.85, 2.0]))
    assert voxelize(points, SMALL, max_voxels=1).indices.tolist() == [[0, 0, 0]]


def test_kitti_scan(test_data: Path) -> None:
    cloud = read_scan(test_data / "kitti/training/velodyne/000008.bin")
    assert cloud.features is not None
    rows = torch.cat([cloud.points, cloud.features], 1)
    grid = VoxelGrid()
    assert grid.cells == (1408, 1600, 40) and grid.spatial_shape == (41, 1600, 1408)
    assert len(voxelize(rows, grid, 5, 40000).means) == 35986  # as the bench of sparse convolutions
    assert len(voxelize(rows, grid, 5, 16000).means) == 16000


def test_centers() -> None:
    indices = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4]])
    got = SMALL.centers(indices, (2, 1, 1))
    torch.testing.assert_close(got, torch.tensor([[0.25, -1.75, -0.75], [2.25, -0.25, 0.25]]))


@pytest.mark.parametrize("count", [0, 1])
def test_few_points(count: int) -> None:
    voxels = voxelize(torch.tensor([[1.0, 0, 0, 0.5]])[:count], SMALL, 5, 10)
    assert voxels.means.shape == (count, 4) and voxels.indices.shape == (count, 3)


def test_all_points_out_of_range() -> None:
    assert len(voxelize(torch.full((10, 4), 1e6), SMALL).means) == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("column", [0, 3])
def test_numbers_that_are_not_finite(bad: float, column: int) -> None:
    points = random_cloud(10)
    points[4, column] = bad
    with pytest.raises(ValueError, match="1 of 10 points are NaN or infinite, the first is 4"):
        voxelize(points, SMALL)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="x, y, z first"):
        voxelize(torch.zeros(5, 2), SMALL)
    with pytest.raises(ValueError, match="at least 1"):
        voxelize(torch.zeros(5, 4), SMALL, max_points=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0.0, 0.5, 0.5)}, "above 0"),
        ({"size": (0.3, 0.5, 0.5)}, "whole number"),
        ({"high": (-1.0, 2.0, 1.0)}, "above low"),
        ({"low": (float("nan"), -2.0, -1.0)}, "finite"),
        ({"high": (1e6, 1e6 - 2.0, 1e6 - 1.0), "size": (0.5, 0.5, 0.5)}, "too large"),
    ],
)
def test_bad_grids(settings: dict[str, tuple[float, float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoxelGrid(**{"low": SMALL.low, "high": SMALL.high, "size": SMALL.size, **settings})
