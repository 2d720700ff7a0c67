"""From points to what FCGF's network takes: occupied voxels, what it sees of each, and several clouds as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.matching.hough.features import FEATURE_RADIUS, NORMAL_RADIUS
from vision3d.matching.hough.fpfh import DIM, fpfh
from vision3d.matching.hough.grid import point_grid
from vision3d.matching.hough.normals import normals


def voxel_inputs(
    points: Float[Tensor, "n 3"], voxel: float, kind: Literal["occupancy", "fpfh"]
) -> Float[Tensor, "n c"]:
    """What the network sees of points (one a voxel): ones, or the square root of each bin of FPFH, 1 for a full one."""
    if kind == "occupancy":
        return torch.ones(len(points), 1)
    table = points.detach().cpu().double().numpy()
    grid = point_grid(table - table.mean(0), FEATURE_RADIUS * voxel)
    directions, _ = normals(grid, NORMAL_RADIUS * voxel, np.zeros(3))
    out = np.empty((len(table), DIM), np.float32)
    out[grid.rows] = np.sqrt(fpfh(grid, directions, FEATURE_RADIUS * voxel) / 200)
    return torch.from_numpy(out)


def voxelise(points: Float[Tensor, "n 3"], voxel: float) -> tuple[Float[Tensor, "m 3"], Int[Tensor, "m 3"]]:
    """The mean point of each occupied voxel, and the voxel's index, in lexicographic order.

    The grid is anchored at the frame's origin, a multiple of 8 voxels below the points: what of the result depends on
    where the coarser grids begin is then as in the published implementation. ValueError without points, for points
    that are not finite, or if they span more than 2^20 voxels.
    """
    if len(points) == 0:
        raise ValueError("a cloud without points has no voxels")
    cells = torch.floor(points.double() / voxel)
    if not bool(torch.isfinite(cells).all()):
        raise ValueError("points must be finite")
    cells -= 8 * torch.floor(cells.amin(dim=0) / 8)
    if float(cells.max()) >= 1 << 20:
        raise ValueError(f"the points span {float(cells.max()):.0f} voxels of {voxel:g}; use larger voxels")
    x, y, z = cells.long().unbind(1)
    keys, which = torch.unique((x << 40) | (y << 20) | z, return_inverse=True)
    counts = torch.bincount(which, minlength=len(keys))
    sums = torch.zeros(len(keys), 3, dtype=torch.float64).index_add_(0, which, points.double())
    mask = (1 << 20) - 1
    indices = torch.stack([keys >> 40, (keys >> 20) & mask, keys & mask], dim=1)
    return (sums / counts[:, None]).to(points.dtype), indices.int()


def voxel_tensor(indices: Sequence[Int[Tensor, "_ 3"]], inputs: Sequence[Float[Tensor, "_ c"]]) -> SparseTensor:
    """Several clouds' voxels and inputs as one batch."""
    numbered = [
        torch.cat([torch.full((len(rows), 1), b, dtype=torch.int32, device=rows.device), rows], dim=1)
        for b, rows in enumerate(indices)
    ]
    stacked = torch.cat(numbered)
    shape = tuple(int(n) + 1 for n in stacked[:, 1:].amax(dim=0))
    return SparseTensor(torch.cat(list(inputs)), stacked, shape, len(numbered))
