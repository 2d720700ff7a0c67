"""What a refiner sees around the predicted place in the other photo (DKM, section 3.3): features and correlations.

Correlations are with a window of whole-pixel offsets around that place, so that all samples share one fraction of a
pixel: the fast way takes products with (2r + 2)^2 pixels once and interpolates the products.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from vision3d.sparse.threads import use_torch_threads


def correlate(
    x0: Float[Tensor, "b c h w"], x1: Float[Tensor, "b c h w"], warp: Float[Tensor, "b 2 h w"], radius: int
) -> Float[Tensor, "b k h w"]:
    """Products of x0 with x1 at the (2r + 1)^2 px around warp ([-1, 1] across) by rows, over sqrt(c); zero outside."""
    _, c, h, w = x0.shape
    at = warp.permute(0, 2, 3, 1)
    products = []
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            moved = at + at.new_tensor([2 * dx / w, 2 * dy / h])
            products.append((x0 * F.grid_sample(x1, moved, align_corners=False)).sum(1))
    out: Tensor = torch.stack(products, 1) / c**0.5
    return out


def gather_inputs(
    x0: Float[Tensor, "h w c"], x1: Float[Tensor, "h w c"], warp: Float[Tensor, "h w 2"], radius: int,
    out: Float[Tensor, "h w d"], first: int,
) -> None:  # fmt: skip
    """Writes x0, x1 at the warp and, from channel `first`, the correlations of `correlate` (radius 0: none) into out.

    Contiguous float32 on the CPU.
    """
    use_torch_threads()
    _gather(x0.numpy(), x1.numpy(), warp.numpy(), radius, out.numpy(), first)


@njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _gather(x0, x1, warp, radius, out, first):
    h, w, c = x0.shape
    side = 2 * radius + 2
    scale = np.float32(1 / np.sqrt(c))
    for y in prange(h):
        products = np.empty((side, side), np.float32)
        for x in range(w):
            # beyond these bounds every sample is off the photo anyway
            px = min(
                max((warp[y, x, 0] + 1) * w / 2 - np.float32(0.5), np.float32(-radius - 2)), np.float32(w + radius + 1)
            )
            py = min(
                max((warp[y, x, 1] + 1) * h / 2 - np.float32(0.5), np.float32(-radius - 2)), np.float32(h + radius + 1)
            )
            left, top = int(np.floor(px)), int(np.floor(py))
            fx, fy = np.float32(px - left), np.float32(py - top)
            for k in range(c):
                out[y, x, k] = x0[y, x, k]
                out[y, x, c + k] = 0
            for i in range(2):
                for j in range(2):
                    v, u = top + i, left + j
                    if 0 <= v < h and 0 <= u < w:
                        share = (fy if i else 1 - fy) * (fx if j else 1 - fx)
                        for k in range(c):
                            out[y, x, c + k] += share * x1[v, u, k]
            if radius > 0:
                for i in range(side):
                    v = top - radius + i
                    for j in range(side):
                        u = left - radius + j
                        total = np.float32(0)
                        if 0 <= v < h and 0 <= u < w:
                            for k in range(c):
                                total += x0[y, x, k] * x1[v, u, k]
                        products[i, j] = total * scale
                for i in range(side - 1):
                    for j in range(side - 1):
                        upper = (1 - fx) * products[i, j] + fx * products[i, j + 1]
                        lower = (1 - fx) * products[i + 1, j] + fx * products[i + 1, j + 1]
                        out[y, x, first + i * (side - 1) + j] = (1 - fy) * upper + fy * lower
