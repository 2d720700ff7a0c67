"""A tile's working memory: planes of 16 x 16 numbers in one array, and what a surfel is inside a tile.

A row of a tile is taken in strips of LANES pixels. Everything that varies over a tile is q + r.(dx, dy): five numbers
per column and five per row replace the arithmetic per pixel. Planes lie 272 numbers apart: at multiples of 4096 bytes
the processor takes loads for dependent on stores.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.recon.splat2d.lanes import LANES, centres, store
from vision3d.recon.splat2d.project import LOW_PASS, MIN_ALPHA
from vision3d.recon.splat2d.tiles import TILE

PLANE = TILE * TILE + TILE
FAST = {"contract", "nsz", "arcp", "reassoc"}
ACROSS = TILE // LANES  # strips side by side
STRIPS = TILE * ACROSS  # strip h * TILE + r: columns h * LANES to (h + 1) * LANES of row r

# Exponents are to base 2: alpha = 2^(log2(opacity) - rho), rho = 0.5 / ln 2 * (u^2 + v^2); the factor sits in the rows.
EXPONENT = np.float32(0.5 / np.log(2))
ROOT = np.float32(np.sqrt(0.5 / np.log(2)))
SCREEN = np.float32(LOW_PASS * 0.5 / np.log(2))
FAINTEST = np.float32(np.log2(MIN_ALPHA))
HALF = np.float32(0.5)
TINY = np.float32(1e-30)

# Places in a surfel's record: numbers, then five per column and five per row of the tile.
X = np.uint64(0)  # of its centre, px in the tile
Y = np.uint64(1)
OPACITY = np.uint64(2)
LARGEST = np.uint64(3)  # denominator before the near plane
BEYOND = np.uint64(4)  # depth where the plane does not count
PLACE = np.uint64(5)
COLOR = np.uint64(6)  # three, and the sum of their squares
NORMAL = np.uint64(10)
COLUMNS = np.uint64(16)  # denominator, depth times it, u, v (times it), screen distance: TILE numbers each
ROWS = np.uint64(16 + 5 * TILE)
Z = np.uint64(TILE)
U = np.uint64(2 * TILE)
V = np.uint64(3 * TILE)
DISTANCE = np.uint64(4 * TILE)
RECORD = 16 + 10 * TILE


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def fill_record(table, s, left, top, near, reference, place, memory, at):  # pragma: no cover (compiled)
    """Writes what surfel s is in the tile at left, top (px), at a place of its list, to memory[at : at + RECORD];
    depths are relative to `reference`."""
    x0, y0, z0 = table[s, 0] - left, table[s, 1] - top, table[s, 8]
    a1, a2, b1, b2, w1, w2 = table[s, 2], table[s, 3], table[s, 4], table[s, 5], table[s, 6], table[s, 7]
    c0, c1, c2 = table[s, 10], table[s, 11], table[s, 12]
    memory[at + X], memory[at + Y] = x0, y0
    memory[at + OPACITY] = table[s, 9]
    memory[at + LARGEST] = z0 / max(near, TINY * z0)
    memory[at + BEYOND] = z0 - reference
    memory[at + PLACE] = np.float32(place)
    memory[at + COLOR], memory[at + COLOR + np.uint64(1)], memory[at + COLOR + np.uint64(2)] = c0, c1, c2
    memory[at + COLOR + np.uint64(3)] = c0 * c0 + c1 * c1 + c2 * c2
    memory[at + NORMAL], memory[at + NORMAL + np.uint64(1)] = table[s, 13], table[s, 14]
    memory[at + NORMAL + np.uint64(2)] = table[s, 15]
    for i in range(np.uint64(0), np.uint64(TILE), np.uint64(LANES)):
        column, row = at + COLUMNS + i, at + ROWS + i
        dx, dy = centres() + (np.float32(i) - x0), centres() + (np.float32(i) - y0)
        store(memory, column, dx * w1)
        store(memory, column + Z, dx * (-reference * w1))
        store(memory, column + U, dx * a1)
        store(memory, column + V, dx * b1)
        store(memory, column + DISTANCE, dx * dx * SCREEN)
        store(memory, row, dy * w2 + np.float32(1))
        store(memory, row + Z, dy * (-reference * w2) + (z0 - reference))
        store(memory, row + U, dy * a2)
        store(memory, row + V, dy * b2)
        store(memory, row + DISTANCE, dy * dy * SCREEN)
