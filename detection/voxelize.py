"""Points to means of voxels: hard voxelisation (limits on points and voxels) and dynamic (none), mean encoding.

Zhou and Tuzel, "VoxelNet", CVPR 2018, section 2.1.1 (grouping, limit of points); Yan et al., "SECOND", Sensors 2018,
section 3.1 (limit of voxels, hash table); the mean of a voxel's points as feature as in OpenPCDet's MeanVFE. Within
the limits the first points and the first voxels in the order of the cloud count: shuffle the points before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from vision3d.detection.grid import VoxelGrid
from vision3d.sparse.hash_table import capacity, home, shift_of


@dataclass(frozen=True, slots=True)
class Voxels:
    """The voxels of one cloud that hold points, in lexicographic order.

    means: of the points' columns (x, y, z m, then the rest). indices: (z, y, x). counts: points that the mean is of.
    """

    means: Float32[Tensor, "m c"]
    indices: Int32[Tensor, "m 3"]
    counts: Int64[Tensor, " m"]


def voxelize(
    points: Float[Tensor, "n c"], grid: VoxelGrid, max_points: int | None = None, max_voxels: int | None = None
) -> Voxels:
    """Voxels of a cloud whose first columns are x, y, z in m; points outside the grid are left out.

    max_points: how many points of a voxel count, max_voxels: how many voxels are kept; None: all (dynamic).

    Raises:
        ValueError: a number that is not finite, fewer than 3 columns, a limit below 1.
    """
    rows = _check(points, max_points, max_voxels)
    n, channels = rows.shape
    low, size, cells = _limits(grid)
    slots = capacity(n + 1)
    slot_keys, slot_rows = np.zeros(slots, np.uint64), np.full(slots, -1, np.int32)
    most_voxels = n if max_voxels is None else min(max_voxels, n)
    keys, counts = np.zeros(most_voxels, np.int64), np.zeros(most_voxels, np.int64)
    sums = np.zeros((most_voxels, channels))
    most_points = n if max_points is None else max_points
    args = (slot_keys, slot_rows, shift_of(slots), most_points, keys, counts, sums)
    m = _gather(rows, low, size, cells, *args)
    order = np.argsort(keys[:m])
    return _finish(sums[:m][order], keys[:m][order], counts[:m][order], cells)


def voxelize_slow(
    points: Float[Tensor, "n c"], grid: VoxelGrid, max_points: int | None = None, max_voxels: int | None = None
) -> Voxels:
    """`voxelize` in plain NumPy, voxel by voxel: the twin that tests compare with."""
    rows = _check(points, max_points, max_voxels)
    low, size, cells = _limits(grid)
    cell = np.floor((rows[:, :3] - low) / size)
    rows, cell = (a[((cell >= 0) & (cell < cells)).all(1)] for a in (rows, cell))
    x, y, z = cell.astype(np.int64).T
    keys = (z * cells[1] + y) * cells[0] + x
    found, first = np.unique(keys, return_index=True)
    kept = np.sort(found[np.argsort(first)][:max_voxels])
    members = [rows[keys == key][:max_points].astype(np.float64) for key in kept]
    sums = np.array([member.sum(0) for member in members]).reshape(len(kept), rows.shape[1])
    return _finish(sums, kept, np.array([len(member) for member in members], np.int64), cells)


def _check(points: Tensor, max_points: int | None, max_voxels: int | None) -> Float32[np.ndarray, "n c"]:
    if points.ndim != 2 or points.shape[1] < 3:
        raise ValueError(f"points are [n c] with x, y, z first, got {list(points.shape)}")
    if any(limit is not None and limit < 1 for limit in (max_points, max_voxels)):
        raise ValueError(f"limits are at least 1, got {max_points} points and {max_voxels} voxels")
    bad = ~torch.isfinite(points).all(1)
    if bool(bad.any()):
        raise ValueError(
            f"{int(bad.sum())} of {len(points)} points are NaN or infinite, the first is {int(bad.nonzero()[0])}: "
            "leave them out before (read_scan does with invalid='drop')"
        )
    out: np.ndarray = np.ascontiguousarray(points.detach().cpu().float().numpy())
    return out


def _limits(grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(grid.low, np.float32), np.array(grid.size, np.float32), np.array(grid.cells, np.int64)


def _finish(sums: np.ndarray, keys: np.ndarray, counts: np.ndarray, cells: np.ndarray) -> Voxels:
    means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    z, rest = np.divmod(keys, cells[0] * cells[1])
    y, x = np.divmod(rest, cells[0])
    indices = np.stack([z, y, x], axis=1).astype(np.int32)
    return Voxels(torch.from_numpy(means), torch.from_numpy(indices), torch.from_numpy(counts))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _gather(rows, low, size, cells, slot_keys, slot_rows, shift, most_points, keys, counts, sums):  # pragma: no cover
    """Sums up the points of each voxel, voxels in the order of their first points; returns how many voxels."""
    mask = np.uint64(slot_rows.shape[0] - 1)
    found = 0
    for i in range(rows.shape[0]):
        x = np.floor((rows[i, 0] - low[0]) / size[0])
        y = np.floor((rows[i, 1] - low[1]) / size[1])
        z = np.floor((rows[i, 2] - low[2]) / size[2])
        if not (0 <= x < cells[0] and 0 <= y < cells[1] and 0 <= z < cells[2]):
            continue
        key = (np.int64(z) * cells[1] + np.int64(y)) * cells[0] + np.int64(x)
        slot = home(np.uint64(key), shift)
        while slot_rows[slot] >= 0 and slot_keys[slot] != np.uint64(key):
            slot = (slot + np.uint64(1)) & mask
        voxel = slot_rows[slot]
        if voxel < 0:
            if found == keys.shape[0]:
                continue
            voxel = found
            slot_keys[slot] = np.uint64(key)
            slot_rows[slot] = voxel
            keys[voxel] = key
            found += 1
        if counts[voxel] < most_points:
            counts[voxel] += 1
            for c in range(rows.shape[1]):
                sums[voxel, c] += rows[i, c]
    return found
