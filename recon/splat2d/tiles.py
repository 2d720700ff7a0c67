"""Which surfels touch which 16 x 16 tile, front to back: a counting sort of (tile, surfel) pairs in two passes.

Surfels come sorted by depth, in fixed blocks; every block counts its pairs per tile, a prefix sum over blocks gives
each its place, and every block writes there. The lists do not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Int

TILE = 16
BLOCKS = 16
MAX_PAIRS = 4_000_000  # pairs listed at a time; more tile rows than hold them wait for their turn


@dataclass(frozen=True, slots=True)
class TileLists:
    """Pairs of the tile rows row0 <= row < row1; tile t (row by row) owns starts[t] to starts[t + 1].

    members: index of the surfel in depth order. slots: the pair's place when pairs are ordered by surfel; surfel i owns
    firsts[i] to firsts[i + 1] there. Both are empty unless asked for.
    """

    row0: int
    row1: int
    starts: Int[np.ndarray, " t"]
    members: Int[np.ndarray, " p"]
    slots: Int[np.ndarray, " s"]
    firsts: Int[np.ndarray, " m"]


def bands(boxes: Int[np.ndarray, "m 4"], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Ranges of tile rows that hold at most MAX_PAIRS pairs each (or are a single row)."""
    rows = -(-size[1] // TILE)
    per_row = np.zeros(rows + 1, np.int64)
    _count_rows(boxes, per_row)
    totals = np.cumsum(per_row)[:rows].tolist()
    if sum(totals) <= MAX_PAIRS:
        return [(0, rows)]
    out, start, held = [], 0, 0
    for row, total in enumerate(totals):
        if row > start and held + total > MAX_PAIRS:
            out.append((start, row))
            start, held = row, 0
        held += total
    return [*out, (start, rows)]


def list_tiles(
    boxes: Int[np.ndarray, "m 4"], size: tuple[int, int], row0: int, row1: int, with_slots: bool
) -> TileLists:
    """The lists of tile rows row0 to row1; slots serve to add up gradients."""
    columns = -(-size[0] // TILE)
    tiles = columns * (row1 - row0)
    counts = np.zeros((BLOCKS, tiles), np.int32)
    firsts = np.zeros(len(boxes) + 1 if with_slots else 0, np.int64)
    _count(boxes, columns, row0, row1, counts, firsts)
    np.cumsum(firsts, out=firsts)
    starts = np.zeros(tiles + 1, np.int64)
    np.cumsum(counts.sum(0), out=starts[1:])
    places = starts[:-1] + np.cumsum(counts, axis=0) - counts
    members = np.empty(int(starts[-1]), np.int32)
    slots = np.empty(int(starts[-1]) if with_slots else 0, np.int32)
    _fill(boxes, columns, row0, row1, places, firsts, members, slots)
    return TileLists(row0, row1, starts, members, slots, firsts)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def pixel_box(bounds, width, height, box):  # pragma: no cover (compiled)
    """First and last column, first and last row whose centres lie within bounds [4] (px); empty: last < first."""
    half = np.float32(0.5)
    for axis in range(2):
        end = np.float32(width if axis == 0 else height)
        box[2 * axis] = np.int32(max(min(np.ceil(bounds[2 * axis] - half), end), np.float32(0)))
        last = max(min(np.floor(bounds[2 * axis + 1] - half), end - np.float32(1)), np.float32(-1))
        box[2 * axis + 1] = np.int32(last)
    if box[1] < box[0] or box[3] < box[2]:
        box[0], box[1], box[2], box[3] = 0, -1, 0, -1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _count_rows(boxes, per_row):  # pragma: no cover (compiled)
    """Differences from tile row to tile row of the number of pairs."""
    for i in range(len(boxes)):
        if boxes[i, 1] >= boxes[i, 0]:
            wide = boxes[i, 1] // TILE - boxes[i, 0] // TILE + 1
            per_row[boxes[i, 2] // TILE] += wide
            per_row[boxes[i, 3] // TILE + 1] -= wide


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _count(boxes, columns, row0, row1, counts, firsts):  # pragma: no cover (compiled)
    m = len(boxes)
    for block in numba.prange(BLOCKS):
        for i in range(m * block // BLOCKS, m * (block + 1) // BLOCKS):
            if boxes[i, 1] < boxes[i, 0]:
                continue
            left, right = boxes[i, 0] // TILE, boxes[i, 1] // TILE
            top, bottom = max(boxes[i, 2] // TILE, row0), min(boxes[i, 3] // TILE, row1 - 1)
            if bottom >= top and len(firsts):
                firsts[i + 1] = (right - left + 1) * (bottom - top + 1)
            for row in range(top, bottom + 1):
                for tile in range((row - row0) * columns + left, (row - row0) * columns + right + 1):
                    counts[block, tile] += 1


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _fill(boxes, columns, row0, row1, places, firsts, members, slots):  # pragma: no cover (compiled)
    m = len(boxes)
    for block in numba.prange(BLOCKS):
        for i in range(m * block // BLOCKS, m * (block + 1) // BLOCKS):
            if boxes[i, 1] < boxes[i, 0]:
                continue
            left, right = boxes[i, 0] // TILE, boxes[i, 1] // TILE
            top, bottom = max(boxes[i, 2] // TILE, row0), min(boxes[i, 3] // TILE, row1 - 1)
            slot = firsts[i] if len(firsts) else 0
            for row in range(top, bottom + 1):
                for tile in range((row - row0) * columns + left, (row - row0) * columns + right + 1):
                    place = places[block, tile]
                    members[place] = i
                    if len(slots):
                        slots[place] = slot
                    places[block, tile] = place + 1
                    slot += 1
