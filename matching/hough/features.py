"""From a point cloud to thinned points, normals and FPFH, and the mutual matches of two clouds' features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.matching.hough.fpfh import fpfh
from vision3d.matching.hough.grid import point_grid, thin
from vision3d.matching.hough.normals import normals
from vision3d.matching.nearest import mutual_nearest

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
    middle = points.mean(0)
    thinned = thin(points - middle, voxel)
    center = thinned.mean(0)
    grid = point_grid(thinned - center, FEATURE_RADIUS * voxel)
    directions, _ = normals(grid, NORMAL_RADIUS * voxel, np.zeros(3))
    return Described(grid.points, directions, fpfh(grid, directions, FEATURE_RADIUS * voxel), center + middle)


def mutual_matches(
    features0: Float[np.ndarray, "n c"], features1: Float[np.ndarray, "m c"]
) -> tuple[Int[np.ndarray, "k 2"], Float[np.ndarray, " k"]]:
    """Pairs whose features are each other's nearest (Euclidean), and their distances.

    -|a - b|^2 / 2 is the product of (a, 1, -|a|^2 / 2) and (b, -|b|^2 / 2, 1); features are centred and scaled first,
    so that float32 keeps the digits.
    """
    if not len(features0) or not len(features1):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    a, b = torch.from_numpy(features0).float(), torch.from_numpy(features1).float()
    middle = (a.mean(0) + b.mean(0)) / 2
    a, b = a - middle, b - middle
    scale = torch.sqrt((a.square().sum(1).mean() + b.square().sum(1).mean()) / 2).clamp(min=1e-20)
    a, b = a / scale, b / scale
    half0, half1 = a.square().sum(1, keepdim=True) / 2, b.square().sum(1, keepdim=True) / 2
    indices, similarity = mutual_nearest(
        torch.cat([a, torch.ones_like(half0), -half0], 1), torch.cat([b, -half1, torch.ones_like(half1)], 1)
    )
    return indices.numpy(), _distances(similarity, scale)


def _distances(similarity: Tensor, scale: Tensor) -> np.ndarray:
    out: np.ndarray = ((-2 * similarity).clamp(min=0).sqrt() * scale).double().numpy()
    return out


def describe_with(points: Float[np.ndarray, "n 3"], features: Float[np.ndarray, "n c"], voxel: float) -> Described:
    """The same for points that have features: only normals are computed, and the order changes to the grid's."""
    center = points.mean(0)
    grid = point_grid(points - center, NORMAL_RADIUS * voxel)
    directions, _ = normals(grid, NORMAL_RADIUS * voxel, np.zeros(3))
    return Described(grid.points, directions, np.ascontiguousarray(features[grid.rows]), center)
