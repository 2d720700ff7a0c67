"""Voxel features around points of a grid inside each proposal: voxel query and pooling of Voxel R-CNN.

Deng et al., "Voxel R-CNN: Towards High Performance Voxel-based 3D Object Detection", AAAI 2021, sections 3.2 (voxel
query), 3.3 (accelerated local aggregation). Names of parameters are OpenPCDet's.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from vision3d.core import SparseTensor
from vision3d.detection.grid import Steps, VoxelGrid


class VoxelPool(nn.Module):
    """Up to `samples` voxels within `reach` voxels and `radius` m of each query point, embedded with their offsets.

    The first in lexicographic order (z, y, x) of the voxels count; points without any get what no voxel at all gives.
    """

    def __init__(self, in_channels: int, channels: int, radius: float, reach: int = 4, samples: int = 16) -> None:
        super().__init__()
        self.radius, self.reach, self.samples = radius, reach, samples
        self.channels = channels
        # Lists of one, as the published names have it: one for each radius there.
        self.mlps_in = nn.ModuleList([nn.Sequential(nn.Linear(in_channels, channels, False), nn.BatchNorm1d(channels))])
        self.mlps_pos = nn.ModuleList([nn.Sequential(nn.Linear(3, channels, False), nn.BatchNorm1d(channels))])
        out = nn.Sequential(nn.Linear(channels, channels, False), nn.BatchNorm1d(channels), nn.ReLU())
        self.mlps_out = nn.ModuleList([out])
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)

    def forward(
        self, x: SparseTensor, stride: Steps, grid: VoxelGrid, points: Float[Tensor, "q 3"], batch: Int[Tensor, " q"]
    ) -> Float[Tensor, "q c"]:
        """points: m, in the frame of the grid; batch: which cloud each belongs to."""
        if not len(points):
            return points.new_zeros(0, self.channels)
        near = voxel_query(x, stride, grid, points, batch, self.radius, self.reach, self.samples)
        empty = near[:, 0] < 0
        near = near.clamp(min=0)
        centers = grid.centers(x.indices, stride)
        if len(x):
            features = through(self.mlps_in[0], x.features)
            offsets = (centers[near] - points[:, None]).masked_fill(empty[:, None, None], 0)
            seen = features[near].masked_fill(empty[:, None, None], 0)
        else:
            offsets = points.new_zeros(len(points), self.samples, 3)
            seen = points.new_zeros(len(points), self.samples, self.channels)
        where = through(self.mlps_pos[0], offsets.flatten(0, 1)).reshape(seen.shape)
        pooled = (seen + where).relu().amax(dim=1)
        return through(self.mlps_out[0], pooled)


def voxel_query(
    x: SparseTensor,
    stride: Steps,
    grid: VoxelGrid,
    points: Float[Tensor, "q 3"],
    batch: Int[Tensor, " q"],
    radius: float,
    reach: int,
    samples: int,
) -> Int64[Tensor, "q s"]:
    """Rows of the first `samples` voxels near each point, the first of them again where there are fewer; -1: none.

    Near: index at most `reach` from that of the point's voxel in z, y and x, and centre at most `radius` m away.
    """
    order, keys = _sorted(x)
    cell = _cells(stride, grid, points, batch)
    out = np.full((len(points), samples), -1, np.int64)
    shape = np.array(x.spatial_shape, np.int64)
    centers = grid.centers(x.indices, stride)[order].double().cpu().numpy()
    _query(keys, centers, cell, points.detach().double().cpu().numpy(), shape, radius * radius, reach, out)
    found = torch.from_numpy(out).to(points.device)
    return torch.where(found >= 0, order[found.clamp(min=0)], found) if len(x) else found


def voxel_query_slow(
    x: SparseTensor,
    stride: Steps,
    grid: VoxelGrid,
    points: Float[Tensor, "q 3"],
    batch: Int[Tensor, " q"],
    radius: float,
    reach: int,
    samples: int,
) -> Int64[Tensor, "q s"]:
    """`voxel_query` by comparing every point with every voxel: the twin that tests compare with."""
    order, _ = _sorted(x)
    out = torch.full((len(points), samples), -1)
    cell = torch.from_numpy(_cells(stride, grid, points, batch))
    centers = grid.centers(x.indices, stride).double()
    for q, point in enumerate(points.double()):
        apart = (x.indices[order].long() - cell[q]).abs()
        near = (apart[:, 0] == 0) & (apart[:, 1:] <= reach).all(1)
        near &= (centers[order] - point).square().sum(1) <= radius * radius
        rows = order[near.nonzero()[:, 0]][:samples]
        if len(rows):
            out[q] = rows[0]
            out[q, : len(rows)] = rows
    return out


def _sorted(x: SparseTensor) -> tuple[Tensor, np.ndarray]:
    """The order that makes the sites lexicographic, and their keys in it."""
    extents = x.sites.extents
    if math.prod(extents) >= 2**63:
        raise ValueError(f"a batch of grids {extents} has too many sites to number them")
    keys = torch.zeros(len(x), dtype=torch.int64, device=x.indices.device)
    for column, extent in enumerate(extents):
        keys = keys * extent + x.indices[:, column]
    keys, order = keys.sort()
    return order, keys.cpu().numpy()


def _cells(stride: Steps, grid: VoxelGrid, points: Tensor, batch: Tensor) -> np.ndarray:
    """(batch, z, y, x) of the voxels that hold the points."""
    size = torch.tensor(grid.size).double() * torch.tensor(stride[::-1])
    cell = ((points.detach().cpu().double() - torch.tensor(grid.low).double()) / size).floor().long()
    out: np.ndarray = torch.cat([batch.cpu().long()[:, None], cell.flip(1)], dim=1).numpy()
    return np.ascontiguousarray(out)


def through(layers: nn.Module, rows: Float[Tensor, "n c"]) -> Float[Tensor, "n d"]:
    """Layers on rows; batch norm of a single row in training goes by the running statistics."""
    for layer in layers.children():
        if isinstance(layer, nn.BatchNorm1d) and layer.training and len(rows) < 2:
            rows = nn.functional.batch_norm(
                rows, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps
            )
        else:
            rows = layer(rows)
    return rows


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _query(keys, centers, cell, points, shape, radius2, reach, out):  # pragma: no cover (compiled)
    for q in range(cell.shape[0]):
        count = 0
        x0, x1 = max(cell[q, 3] - reach, 0), min(cell[q, 3] + reach, shape[2] - 1)
        for z in range(max(cell[q, 1] - reach, 0), min(cell[q, 1] + reach, shape[0] - 1) + 1):
            for y in range(max(cell[q, 2] - reach, 0), min(cell[q, 2] + reach, shape[1] - 1) + 1):
                if count == out.shape[1] or x1 < x0:
                    break
                row = ((cell[q, 0] * shape[0] + z) * shape[1] + y) * shape[2]
                i = np.searchsorted(keys, row + x0)
                while i < keys.shape[0] and keys[i] <= row + x1 and count < out.shape[1]:
                    dx = centers[i, 0] - points[q, 0]
                    dy = centers[i, 1] - points[q, 1]
                    dz = centers[i, 2] - points[q, 2]
                    if dx * dx + dy * dy + dz * dz <= radius2:
                        if count == 0:
                            out[q, :] = i
                        out[q, count] = i
                        count += 1
                    i += 1
