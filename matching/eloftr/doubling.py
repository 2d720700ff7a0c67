"""Adds a map doubled by bilinear interpolation to a finer one, in place, on all 4 x 4 px tiles or on those near some.

The twin is torch's `interpolate(scale_factor=2, mode="bilinear", align_corners=False)` and a sum.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from vision3d.matching.winograd import TILE, all_tiles
from vision3d.sparse.threads import use_torch_threads


def add_doubled(
    coarse: Float[Tensor, "b h w c"], fine: Float[Tensor, "b h2 w2 c"], tiles: Int[Tensor, "n 3"] | None
) -> None:
    """fine += coarse, doubled; contiguous float32 maps on the CPU, the fine one's sides in multiples of 4 px.

    tiles: (item, row, column) of the fine map where the sum is wanted, no tile twice; None: everywhere.
    """
    use_torch_threads()
    if tiles is None:
        tiles = all_tiles(*fine.shape[:3])
    _add(coarse.numpy(), fine.numpy(), tiles.numpy())


@njit(cache=True, parallel=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _add(coarse, fine, tiles):  # pragma: no cover (compiled)
    h, w, c = coarse.shape[1], coarse.shape[2], coarse.shape[3]
    near, far = np.float32(0.75), np.float32(0.25)
    for t in prange(len(tiles)):
        item, top, left = tiles[t, 0], tiles[t, 1] * TILE, tiles[t, 2] * TILE
        for v in range(top, top + TILE):
            y = v // 2
            y2 = min(y + 1, h - 1) if v % 2 else max(y - 1, 0)
            for u in range(left, left + TILE):
                x = u // 2
                x2 = min(x + 1, w - 1) if u % 2 else max(x - 1, 0)
                for k in range(c):
                    one = near * coarse[item, y, x, k] + far * coarse[item, y, x2, k]
                    two = near * coarse[item, y2, x, k] + far * coarse[item, y2, x2, k]
                    fine[item, v, u, k] += near * one + far * two
