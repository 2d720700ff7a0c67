"""From a point cloud to thinned points, normals and features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vision3d.matching.hough.fpfh import fpfh
from vision3d.matching.hough.grid import point_grid, thin
from vision3d.matching.hough.normals import normals

NORMAL_RADIUS = 2.0  # voxels
FEATURE_RADIUS = 5.0  # voxels


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """A thinned cloud about `center`: points (the cloud's minus the centre), unit normals, one feature a point."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    features: Float[np.ndarray, "n c"]
    center: Float[np.ndarray, " 3"]


def describe(points: Float[np.ndarray, "n 3"], voxel: float) -> Described:
    """Thins finite points to one a voxel and computes normals (towards the centre) and FPFH."""
    middle = points[:: max(1, len(points) // 20_000)].mean(0)
    thinned = thin(points - middle, voxel)
    center = thinned.mean(0)
    grid = point_grid(thinned - center, FEATURE_RADIUS * voxel)
    directions, _ = normals(grid, NORMAL_RADIUS * voxel, np.zeros(3))
    return Described(grid.points, directions, fpfh(grid, directions, FEATURE_RADIUS * voxel), center + middle)


def describe_with(points: Float[np.ndarray, "n 3"], features: Float[np.ndarray, "n c"], voxel: float) -> Described:
    """The same for points that have features: only normals are computed, and the order changes to the grid's."""
    center = points.mean(0)
    grid = point_grid(points - center, NORMAL_RADIUS * voxel)
    directions, _ = normals(grid, NORMAL_RADIUS * voxel, np.zeros(3))
    return Described(grid.points, directions, np.ascontiguousarray(features[grid.rows]), center)
