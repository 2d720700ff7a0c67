"""Iterated closest points on clouds with known motion: exact where points correspond, to plane where they do not."""

import pytest
import torch

from vision3d.core import RigidTransform
from vision3d.geometry.icp import icp, point_normals
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import angle_between

SMALL = se3_exp(torch.tensor([0.02, -0.03, 0.01, 0.01, -0.02, 0.015]).double())


def corner(count: int, seed: int) -> torch.Tensor:
    """Points on three walls of 2 m that meet."""
    random = torch.Generator().manual_seed(seed)
    points = 2 * torch.rand(count, 3, generator=random).double()
    points[torch.arange(count), torch.arange(count) % 3] = 0
    return points


def test_same_points_are_brought_together() -> None:
    source = corner(600, 0)
    found = icp(source, SMALL.apply(source), RigidTransform.identity(), 0.2)
    torch.testing.assert_close(found.target_from_source.matrix(), SMALL.matrix(), atol=1e-6, rtol=0)
    assert found.fitness == 1
    assert found.rmse < 1e-6


def test_other_points_of_the_same_walls_fit_to_planes() -> None:
    """To points, the samples' spacing (5 cm) bends the result; to planes, it does not."""
    source, target = corner(3000, 0), SMALL.apply(corner(3000, 1))
    plane = icp(source, target, RigidTransform.identity(), 0.2, target_normals=point_normals(target))
    point = icp(source, target, RigidTransform.identity(), 0.2)
    error = [float((r.target_from_source.translation - SMALL.translation).norm()) for r in (plane, point)]
    assert error[0] < 2e-3
    assert error[0] < error[1]
    assert float(angle_between(plane.target_from_source.rotation, SMALL.rotation)) < 2e-3


def test_normals_are_the_walls() -> None:
    points = corner(900, 0)
    inside = (points > 0.4).sum(1) == 2  # away from the edges
    normals = point_normals(points, 10)[inside]
    wall = torch.nn.functional.one_hot(points[inside].argmin(1), 3).double()
    torch.testing.assert_close((normals * wall).sum(1).abs(), torch.ones(len(wall)).double(), atol=1e-6, rtol=0)


def test_bad_starts_and_surfaces() -> None:
    points = corner(300, 0)
    far = RigidTransform(torch.eye(3).double(), torch.tensor([50.0, 0, 0]).double())
    with pytest.raises(ValueError, match="only 0 points"):
        icp(points, points, far, 0.2)
    with pytest.raises(ValueError, match="max_distance is positive"):
        icp(points, points, far, 0)
    with pytest.raises(ValueError, match="no 20 neighbours"):
        point_normals(points[:5])
    flat = points.clone()
    flat[:, 2] = 0
    up = torch.tensor([0, 0, 1.0]).double().expand(len(flat), 3).contiguous()
    with pytest.raises(ValueError, match="leave some motion free"):
        icp(flat, flat, RigidTransform.identity(), 0.2, target_normals=up)
