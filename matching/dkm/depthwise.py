"""The refiners' blocks on a CPU: depthwise 5x5 convolution, folded normalisation and ReLU in one sweep, then a product.

Maps have their channels last. Rows are taken in strips so that what lies between the two steps stays in the cache;
the readable twin is `Refiner`'s plain layers.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from vision3d.sparse.threads import use_torch_threads

STRIP = 1 << 21  # numbers at once: 8 MiB, so that each product is long enough for its threads


def depthwise_block(
    x: Float[Tensor, "h w c"],
    taps: Float[Tensor, "25 c"],
    shift: Float[Tensor, " c"],
    mix: Float[Tensor, "c d"],
    bias: Float[Tensor, " d"],
    out: Float[Tensor, "h w d"],
) -> None:
    """out = relu(depthwise(x) + shift) @ mix + bias; contiguous float32 on the CPU, x must not be out."""
    use_torch_threads()
    height, width, channels = x.shape
    rows = max(1, STRIP // (width * channels))
    strip = torch.empty(rows * width, channels)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        part = strip[: (bottom - top) * width]
        _depthwise(x.numpy(), taps.numpy(), shift.numpy(), top, bottom, part.numpy())
        torch.addmm(bias, part, mix, out=out[top:bottom].view(-1, out.shape[2]))


@njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _depthwise(x, taps, shift, top, bottom, out):
    """Four neighbouring px of a row together, so that each value read serves up to four of them."""
    h, w, c = x.shape
    groups = (w + 3) // 4
    for job in prange((bottom - top) * groups):
        y, u = top + job // groups, (job % groups) * 4
        first = (y - top) * w + u
        count = min(4, w - u)
        for p in range(count):
            for k in range(c):
                out[first + p, k] = shift[k]
        for i in range(5):
            v = y + i - 2
            if v < 0 or v >= h:
                continue
            if u >= 2 and u + 6 <= w:
                for k in range(c):
                    t0, t1, t2 = taps[5 * i, k], taps[5 * i + 1, k], taps[5 * i + 2, k]
                    t3, t4 = taps[5 * i + 3, k], taps[5 * i + 4, k]
                    a, b, d, e = x[v, u - 2, k], x[v, u - 1, k], x[v, u, k], x[v, u + 1, k]
                    f, g, m, n = x[v, u + 2, k], x[v, u + 3, k], x[v, u + 4, k], x[v, u + 5, k]
                    out[first, k] += t0 * a + t1 * b + t2 * d + t3 * e + t4 * f
                    out[first + 1, k] += t0 * b + t1 * d + t2 * e + t3 * f + t4 * g
                    out[first + 2, k] += t0 * d + t1 * e + t2 * f + t3 * g + t4 * m
                    out[first + 3, k] += t0 * e + t1 * f + t2 * g + t3 * m + t4 * n
            else:
                for p in range(count):
                    for j in range(5):
                        q = u + p + j - 2
                        if 0 <= q < w:
                            for k in range(c):
                                out[first + p, k] += taps[5 * i + j, k] * x[v, q, k]
        for p in range(count):
            for k in range(c):
                out[first + p, k] = max(out[first + p, k], np.float32(0))
