"""The first convolution, 3x3 of stride 2 on a grey photo, on a CPU; its twin is `torch.nn.functional.conv2d`.

With one channel there is nothing to multiply as matrices: the time goes into writing the map.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from jaxtyping import Float
from numba import njit, prange
from torch import Tensor

from vision3d.core.stack_memory import floats_on_stack
from vision3d.matching.winograd import empty
from vision3d.sparse.threads import use_torch_threads

PART = 16  # outputs at once, which must be a multiple
_part = floats_on_stack(PART)  # apart from all arrays, so that loops are vectorised


def convolve_grey(
    grey: Float[Tensor, "b h w"], weight: Float[Tensor, "9 d"], bias: Float[Tensor, " d"], slope: float
) -> Float[Tensor, "b i j d"]:
    """Convolution (stride 2, padding 1), bias and leaky ReLU. All contiguous float32 on the CPU, d a multiple of 16."""
    use_torch_threads()
    b, h, w = grey.shape
    out = empty((b, (h + 1) // 2, (w + 1) // 2, len(bias)))
    _convolve(grey.numpy(), weight.numpy(), bias.numpy(), np.float32(slope), out.numpy())
    return out


@njit(cache=True, parallel=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _convolve(grey, weight, bias, slope, out):  # pragma: no cover (compiled)
    items, height = out.shape[:2]
    for line in prange(items * height):
        _line(grey[line // height], line % height, weight, bias, slope, out[line // height, line % height])


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _line(grey, row, weight, bias, slope, out):  # pragma: no cover (compiled)
    h, w = grey.shape
    padded = np.zeros((3, 2 * len(out) + 1), np.float32)
    for i in range(max(0, 1 - 2 * row), min(3, h + 1 - 2 * row)):
        padded[i, 1 : w + 1] = grey[2 * row - 1 + i]
    part = _part()
    for u in range(len(out)):
        a0, a1, a2 = padded[0, 2 * u], padded[0, 2 * u + 1], padded[0, 2 * u + 2]
        b0, b1, b2 = padded[1, 2 * u], padded[1, 2 * u + 1], padded[1, 2 * u + 2]
        c0, c1, c2 = padded[2, 2 * u], padded[2, 2 * u + 1], padded[2, 2 * u + 2]
        for begin in range(0, len(bias), PART):
            for k in range(PART):
                j = np.uint64(begin) + np.uint64(k)
                y = bias[j] + a0 * weight[0, j] + a1 * weight[1, j] + a2 * weight[2, j]
                y += b0 * weight[3, j] + b1 * weight[4, j] + b2 * weight[5, j]
                y += c0 * weight[6, j] + c1 * weight[7, j] + c2 * weight[8, j]
                part[k] = max(y, slope * y)
            for k in range(PART):
                out[u, np.uint64(begin) + np.uint64(k)] = part[k]
