"""A map doubled by bilinear interpolation plus a layer's response to a finer one, on 4 x 4 px tiles: float32 on a CPU.

The response is added where it belongs while the tiles are in the cache; nothing is gathered. The twin is torch's
`interpolate(scale_factor=2, mode="bilinear", align_corners=False)` and a linear layer.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from vision3d.matching.winograd import TILE, zeros
from vision3d.sparse.microkernels import ROWS, add_rows, lanes, vectors_at_once
from vision3d.sparse.threads import use_torch_threads

TILES = 6  # at once: 96 px, a multiple of ROWS
_ROWS = ROWS
_NEAR, _FAR = np.float32(0.75), np.float32(0.25)


def double_and_add(
    coarse: Float[Tensor, "b h w d"],
    fine: Float[Tensor, "b h2 w2 c"],
    weight: Float[Tensor, "d c"],
    tiles: Int[Tensor, "n 3"],
) -> Float[Tensor, "b h2 w2 d"]:
    """coarse, doubled, + fine @ weight.T on the tiles (item, row, column; none twice) of the fine map, zero elsewhere.

    Contiguous maps on the CPU, the fine one's sides in multiples of 4 px, d a multiple of the numbers in a vector.
    """
    b, height, width, c = fine.shape
    d = len(weight)
    if d % lanes(4) or height % TILE or width % TILE or coarse.shape != (b, height // 2, width // 2, d):
        shapes = f"{list(coarse.shape)}, {list(fine.shape)} and a weight {list(weight.shape)}"
        raise ValueError(f"needed are maps [b h w d], [b 2h 2w c], d in {lanes(4)}s, 2h and 2w in 4s; got {shapes}")
    use_torch_threads()
    out = zeros((b * height * width + 1, d)).numpy()  # the last row takes what is no pixel's
    vectors = vectors_at_once(d, 4)
    _double(
        coarse.numpy(),
        fine.reshape(-1, c).numpy(),
        weight.T.contiguous().numpy().reshape(-1),
        tiles.numpy(),
        vectors,
        vectors * lanes(4),
        out,
    )
    return torch.from_numpy(out)[:-1].view(b, height, width, d)


@njit(cache=True, parallel=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _double(coarse, fine, weight, tiles, vectors, span, out):  # pragma: no cover (compiled)
    h, w, d, c = coarse.shape[1], coarse.shape[2], coarse.shape[3], fine.shape[1]
    spare, flat = len(out) - 1, out.reshape(-1)
    for chunk in prange(-(-len(tiles) // TILES)):
        places = np.empty(TILES * TILE * TILE, np.int64)
        count = 0
        for t in range(chunk * TILES, min((chunk + 1) * TILES, len(tiles))):
            item, top, left = tiles[t, 0], tiles[t, 1] * TILE, tiles[t, 2] * TILE
            for v in range(top, top + TILE):
                y = v // 2
                y2 = min(y + 1, h - 1) if v % 2 else max(y - 1, 0)
                for u in range(left, left + TILE):
                    x = u // 2
                    x2 = min(x + 1, w - 1) if u % 2 else max(x - 1, 0)
                    place = (item * 2 * h + v) * 2 * w + u
                    places[count] = place
                    count += 1
                    for k in range(d):
                        one = _NEAR * coarse[item, y, x, k] + _FAR * coarse[item, y, x2, k]
                        two = _NEAR * coarse[item, y2, x, k] + _FAR * coarse[item, y2, x2, k]
                        out[place, k] = _NEAR * one + _FAR * two
        for at in range(0, d, span):
            for first in range(0, count, _ROWS):
                rows = min(_ROWS, count - first)
                add_rows(vectors, fine, weight, at, flat, at, places, places, first, rows, 0, spare, c, d)
