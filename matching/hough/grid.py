"""Points in the cells of a grid: thinning to one point a cell, and which cells lie beside which, in Numba."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from vision3d.sparse.hash_table import capacity, fill, home, shift_of

_BITS = 21  # of a 64-bit key, for each axis
MAX_CELLS = (1 << _BITS) - 4  # along an axis; two cells of margin on either side
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True, eq=False)
class PointGrid:
    """Points sorted by cell. Point i was row `rows[i]`; cell c holds points[starts[c] : starts[c + 1]]."""

    cell: float
    origin: Float[np.ndarray, " 3"]
    points: Float[np.ndarray, "n 3"]
    rows: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " c1"]
    slot_keys: np.ndarray
    slot_rows: np.ndarray
    shift: np.uint64

    def beside(self) -> Int[np.ndarray, "c 27"]:
        """Of each cell, the 27 cells around it and itself, -1 where there is none."""
        out = np.empty((len(self.starts) - 1, 27), np.int32)
        keys = _keys(self.points[self.starts[:-1]], self.origin, self.cell)
        _beside(keys, self.slot_keys, self.slot_rows, self.shift, out)
        return out


def point_grid(points: Float[np.ndarray, "n 3"], cell: float) -> PointGrid:
    """Sorts points (finite, one or more) into cubic cells. ValueError if the points span too many cells."""
    origin = _origin(points, cell)
    keys = _keys(points, origin, cell)
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    slots = capacity(len(first))
    slot_keys, slot_rows = np.empty(slots, np.uint64), np.full(slots, -1, np.int32)
    shift = shift_of(slots)
    fill(sorted_keys[first], slot_keys, slot_rows, shift)
    return PointGrid(
        cell=cell,
        origin=origin,
        points=np.ascontiguousarray(points[order]),
        rows=order.astype(np.int32),
        starts=np.append(first, len(points)).astype(np.int32),
        slot_keys=slot_keys,
        slot_rows=slot_rows,
        shift=shift,
    )


def thin(points: Float[np.ndarray, "n 3"], cell: float) -> Float[np.ndarray, "m 3"]:
    """The mean of the points in each cell, in the order in which cells are first met. ValueError as in `point_grid`."""
    keys = _keys(points, _origin(points, cell), cell)
    slots = capacity(len(points))
    ids, sums, counts = np.empty(len(points), np.int32), np.zeros((len(points), 3)), np.zeros(len(points), np.int64)
    slot_keys, slot_rows = np.empty(slots, np.uint64), np.full(slots, -1, np.int32)
    m = _thin(points, keys, slot_keys, slot_rows, shift_of(slots), ids, sums, counts)
    return sums[:m] / counts[:m, None]


def thin_slow(points: Float[np.ndarray, "n 3"], cell: float) -> Float[np.ndarray, "m 3"]:
    """`thin` in NumPy, in the order of the keys."""
    _, which = np.unique(_keys(points, _origin(points, cell), cell), return_inverse=True)
    counts = np.bincount(which)
    return np.stack([np.bincount(which, weights=points[:, d]) / counts for d in range(3)], axis=1)


def auto_voxel(points0: Float[np.ndarray, "n 3"], points1: Float[np.ndarray, "m 3"]) -> float:
    """The voxel that thins the smaller of two clouds to about 5500 points, or to a third of its points."""
    voxels = []
    for points in (points0, points1):
        some = points[:: max(1, len(points) // 200_000)]
        wanted = min(5500.0, len(points) / 3)
        voxel = max(float(np.sqrt(((some - some.mean(0)) ** 2).sum(1).mean())) / 20, 1e-12)
        for _ in range(6):
            voxel *= float(np.sqrt(len(thin(some, voxel)) / wanted))
        voxels.append(voxel)
    return float(f"{min(voxels):.2g}")


def _origin(points: np.ndarray, cell: float) -> np.ndarray:
    low, high = points.min(0), points.max(0)
    if float((high - low).max()) / cell > MAX_CELLS:
        raise ValueError(
            f"the points span {float((high - low).max()):g}, more than {MAX_CELLS} cells of {cell:g}: use larger voxels"
        )
    origin: np.ndarray = low - 2 * cell
    return origin


def _keys(points: np.ndarray, origin: np.ndarray, cell: float) -> np.ndarray:
    keys = np.empty(len(points), np.uint64)
    _write_keys(points, origin, 1 / cell, keys)
    return keys


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def cell_key(x, y, z):  # pragma: no cover (compiled)
    """The key of a cell with non-negative numbers."""
    return np.uint64((np.int64(x) << 42) | (np.int64(y) << 21) | np.int64(z))


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def find_cell(key, slot_keys, slot_rows, shift):  # pragma: no cover (compiled)
    """The cell with a key, or -1."""
    mask = np.uint64(slot_rows.shape[0] - 1)
    slot = home(key, shift)
    while slot_rows[slot] >= 0 and slot_keys[slot] != key:
        slot = (slot + _ONE) & mask
    return slot_rows[slot]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _write_keys(points, origin, per_cell, keys):  # pragma: no cover (compiled)
    for i in range(points.shape[0]):
        x = np.int64((points[i, 0] - origin[0]) * per_cell)
        y = np.int64((points[i, 1] - origin[1]) * per_cell)
        z = np.int64((points[i, 2] - origin[2]) * per_cell)
        keys[i] = cell_key(x, y, z)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _thin(points, keys, slot_keys, slot_rows, shift, ids, sums, counts):  # pragma: no cover (compiled)
    """Sums and counts per cell; returns how many cells there are."""
    mask = np.uint64(slot_rows.shape[0] - 1)
    m = 0
    for i in range(points.shape[0]):
        slot = home(keys[i], shift)
        while slot_rows[slot] >= 0 and slot_keys[slot] != keys[i]:
            slot = (slot + _ONE) & mask
        if slot_rows[slot] < 0:
            slot_keys[slot] = keys[i]
            slot_rows[slot] = m
            m += 1
        row = slot_rows[slot]
        ids[i] = row
        counts[row] += 1
        for d in range(3):
            sums[row, d] += points[i, d]
    return m


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _beside(keys, slot_keys, slot_rows, shift, out):  # pragma: no cover (compiled)
    for c in range(keys.shape[0]):
        key = np.int64(keys[c])
        n = 0
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                for dz in range(-1, 2):
                    other = np.uint64(key + (np.int64(dx) << 42) + (np.int64(dy) << 21) + dz)
                    out[c, n] = find_cell(other, slot_keys, slot_rows, shift)
                    n += 1
