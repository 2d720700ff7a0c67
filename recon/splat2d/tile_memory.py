"""A tile's working memory: planes of 16 x 16 numbers in one array, and what a surfel has per column and per row.

Everything that varies over a tile is q + r.(dx, dy) with dx constant in a column and dy in a row: five numbers per
column and row of `lines` replace the arithmetic per pixel. Planes lie 272 numbers apart: at multiples of 4096 bytes
the processor takes loads for dependent on stores.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np

from vision3d.recon.splat2d.project import LOW_PASS, MIN_ALPHA
from vision3d.recon.splat2d.tiles import TILE

PLANE = TILE * TILE + TILE
FAST = {"contract", "nsz", "arcp", "reassoc"}

# Exponents are to base 2: alpha = 2^(log2(opacity) - rho), rho = 0.5 / ln 2 * (u^2 + v^2); the factor sits in the rows.
EXPONENT = np.float32(0.5 / np.log(2))
ROOT = np.float32(np.sqrt(0.5 / np.log(2)))
SCREEN = np.float32(LOW_PASS * 0.5 / np.log(2))
FAINTEST = np.float32(np.log2(MIN_ALPHA))
HALF = np.float32(0.5)
TINY = np.float32(1e-30)

# Parts of `lines`, TILE numbers each: denominator, depth times it, u, v (times it), screen distance.
LINES = 10 * TILE
ROWS = np.uint64(5 * TILE)
WIDTH = np.uint64(TILE)
Z = np.uint64(TILE)
U = np.uint64(2 * TILE)
V = np.uint64(3 * TILE)
SCREEN_LINE = np.uint64(4 * TILE)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def fill_lines(surfel, left, top, reference, lines):  # pragma: no cover (compiled)
    """What a surfel (a row of the table) adds per column of the tile at left, top (px), then per row; depths are
    relative to `reference`."""
    x0, y0, a1, a2, b1, b2 = surfel[0] - left, surfel[1] - top, surfel[2], surfel[3], surfel[4], surfel[5]
    w1, w2, beyond = surfel[6], surfel[7], surfel[8] - reference
    tilt1, tilt2 = reference * w1, reference * w2
    for c in range(np.uint64(0), WIDTH):
        dx = np.float32(c) + HALF - x0
        dy = np.float32(c) + HALF - y0
        lines[c] = w1 * dx
        lines[Z + c] = -tilt1 * dx
        lines[U + c] = a1 * dx
        lines[V + c] = b1 * dx
        lines[SCREEN_LINE + c] = SCREEN * dx * dx
        lines[ROWS + c] = np.float32(1) + w2 * dy
        lines[ROWS + Z + c] = beyond - tilt2 * dy
        lines[ROWS + U + c] = a2 * dy
        lines[ROWS + V + c] = b2 * dy
        lines[ROWS + SCREEN_LINE + c] = SCREEN * dy * dy
