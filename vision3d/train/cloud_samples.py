"""Pairs of point clouds as training samples: turned at random, voxels of both, and which voxels are the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from vision3d.core import PointCloud, RigidTransform
from vision3d.geometry.rotation import quaternion_to_matrix
from vision3d.matching.hough.voxels import voxel_inputs, voxelise


@runtime_checkable
class PairLike(Protocol):
    """Two clouds and the true motion, in one unit."""

    @property
    def source(self) -> PointCloud: ...

    @property
    def target(self) -> PointCloud: ...

    @property
    def target_from_source(self) -> RigidTransform: ...


@runtime_checkable
class PairSource(Protocol):
    """Pairs by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> PairLike: ...


@dataclass(frozen=True, slots=True)
class VoxelPair:
    """Voxels of two clouds: mean points in each cloud's frame (float32), voxel indices, network inputs.

    matches: rows (of 0, of 1) that are the same place to within a voxel, one for each voxel of cloud 0 that has one.
    """

    points0: Float[Tensor, "n 3"]
    indices0: Int[Tensor, "n 3"]
    inputs0: Float[Tensor, "n c"]
    points1: Float[Tensor, "m 3"]
    indices1: Int[Tensor, "m 3"]
    inputs1: Float[Tensor, "m c"]
    matches: Int[Tensor, "k 2"]
    target_from_source: RigidTransform


@dataclass(frozen=True)
class VoxelPairs:
    """A training set of `pairs`: sample (index, epoch) is the pair turned, moved and scaled by what they draw.

    scale: largest change of size, as a factor. Rotations are any, or about the axis z alone (`upright`).
    """

    pairs: PairSource
    voxel: float
    inputs: Literal["occupancy", "fpfh"]
    seed: int
    scale: float = 1.15
    upright: bool = False

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, epoch: int) -> VoxelPair:
        """Pure in (seed, epoch, index)."""
        random = np.random.default_rng((self.seed, epoch, index))
        size = float(np.exp(random.uniform(-1, 1) * np.log(self.scale)))
        motions = [random_motion(random, 20 * self.voxel, self.upright) for _ in range(2)]
        return voxel_pair(self.pairs[index], self.voxel, self.inputs, size, motions)


def random_motion(random: np.random.Generator, reach: float, upright: bool) -> RigidTransform:
    """Any rotation (about z alone if upright), and a translation of up to `reach` along each axis; float64."""
    quaternion = random.normal(size=4)
    if upright:
        angle = random.uniform(-np.pi, np.pi)
        quaternion = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
    quaternion /= np.linalg.norm(quaternion)
    shift = torch.from_numpy(random.uniform(-reach, reach, 3))
    return RigidTransform(quaternion_to_matrix(torch.from_numpy(quaternion)), shift)


def voxel_pair(
    pair: PairLike,
    voxel: float,
    inputs: Literal["occupancy", "fpfh"],
    size: float,
    motions: Sequence[RigidTransform],
) -> VoxelPair:
    """The voxels of a pair that is `size` times as large, its source moved by the first motion, its target by the
    second. ValueError for an empty cloud or points that are not finite."""
    scaled = RigidTransform(
        pair.target_from_source.rotation.double(), pair.target_from_source.translation.double() * size
    )
    target_from_source = motions[1] @ scaled @ motions[0].inverse()
    sides = []
    for cloud, motion in zip((pair.source, pair.target), motions, strict=True):
        points, indices = voxelise(motion.apply(cloud.points.double() * size), voxel)
        sides.append((points.float(), indices, voxel_inputs(points, voxel, inputs)))
    moved = target_from_source.apply(sides[0][0].double()).numpy()
    distance, nearest = cKDTree(sides[1][0].numpy()).query(moved, distance_upper_bound=voxel)
    rows = np.flatnonzero(np.isfinite(distance))
    matches = torch.from_numpy(np.stack([rows, nearest[rows]], axis=1).astype(np.int64))
    return VoxelPair(*sides[0], *sides[1], matches, target_from_source)
