"""3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3) (Lavin and Gray, CVPR 2016) on a CPU, on all tiles or some.

A quarter of the multiplications of the direct way. Channels come last, float32 only; the readable twin is
`torch.nn.functional.conv2d`. Tiles of 4 x 4 px that nobody asks for are not computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numba import njit, prange
from torch import Tensor

TILE = 4
POINTS = 36  # 6 x 6 values that a tile's input becomes
BLOCK = 64  # tiles at once, at least: what lies between the transforms should stay in the cache

_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


@dataclass(frozen=True, slots=True)
class WinogradKernel:
    """A 3x3 kernel in Winograd's domain, with its bias; slope: of the leaky ReLU that follows (0 ReLU, 1 none)."""

    points: Float[Tensor, "36 c d"]
    bias: Float[Tensor, " d"]
    slope: float


def winograd_kernel(weight: Float[Tensor, "d c 3 3"], bias: Tensor | None, slope: float) -> WinogradKernel:
    """Prepares a kernel; done once for a network."""
    transform = torch.from_numpy(_KERNEL)
    points = torch.einsum("ik,dckl,jl->ijcd", transform, weight.detach().double(), transform)
    bias = torch.zeros(len(weight)) if bias is None else bias.detach().float()
    return WinogradKernel(points.reshape(POINTS, weight.shape[1], -1).float().contiguous(), bias.contiguous(), slope)


def all_tiles(batch: int, height: int, width: int) -> Int[Tensor, "n 3"]:
    """Every tile (item, row, column) of maps of this size, which must be a multiple of 4 px."""
    return torch.ones(batch, height // TILE, width // TILE, dtype=torch.bool).nonzero()


def convolve_tiles(
    x: Float[Tensor, "b h w c"], kernel: WinogradKernel, tiles: Int[Tensor, "n 3"]
) -> Float[Tensor, "b h w d"]:
    """Convolution (padding 1), bias and leaky ReLU on the tiles (item, row, column); zero elsewhere.

    x: contiguous float32 on the CPU; h and w multiples of 4. ValueError for anything else.
    """
    b, h, w, c = x.shape
    if h % TILE or w % TILE or x.dtype != torch.float32 or x.device.type != "cpu" or c != kernel.points.shape[1]:
        raise ValueError(f"float32 maps with sides in multiples of 4 and {kernel.points.shape[1]} channels are needed, "
                         f"got {list(x.shape)} {x.dtype} on {x.device}")  # fmt: skip
    d = kernel.points.shape[2]
    everything = len(tiles) == b * (h // TILE) * (w // TILE)
    out = x.new_empty(b, h, w, d) if everything else zeros((b, h, w, d))
    source, target = x.contiguous().numpy(), out.numpy()
    block = max(BLOCK, c // 2)  # wide kernels are long themselves and are read once per block
    for part in torch.split(tiles, block):
        values, products = x.new_empty(POINTS, len(part), c), x.new_empty(POINTS, len(part), d)
        _to_points(source, part.numpy(), values.numpy())
        torch.bmm(values, kernel.points, out=products)
        _from_points(products.numpy(), part.numpy(), kernel.bias.numpy(), np.float32(kernel.slope), target)
    return out


def tiles_of(mask: Bool[Tensor, "b h w"]) -> Int[Tensor, "n 3"]:
    """The tiles in which some pixel is wanted."""
    b, h, w = mask.shape
    return mask.reshape(b, h // TILE, TILE, w // TILE, TILE).any(4).any(2).nonzero()


def zeros(shape: tuple[int, ...]) -> Tensor:
    """float32 zeros on the CPU, from the system, which makes no page that nobody touches."""
    return torch.from_numpy(np.zeros(shape, np.float32))


def with_neighbours(tiles: Int[Tensor, "n 3"], grid: tuple[int, int, int]) -> Int[Tensor, "k 3"]:
    """The tiles and the eight around each. grid: items, rows, columns of tiles."""
    given = torch.zeros(grid)
    given[tuple(tiles.T)] = 1
    return (F.max_pool2d(given[:, None], 3, 1, 1)[:, 0] > 0).nonzero()


@njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _to_points(x, tiles, values):
    """Each tile's 6 x 6 px of input, zero off the map, to 36 values: B^T d B of the paper."""
    h, w, c = x.shape[1], x.shape[2], x.shape[3]
    for t in prange(len(tiles)):
        item, top, left = tiles[t, 0], tiles[t, 1] * 4 - 1, tiles[t, 2] * 4 - 1
        rows = np.empty((6, 6, c), np.float32)  # transformed along the rows of the tile, px along its columns
        line = np.zeros((6, c), np.float32)
        for j in range(6):
            v = left + j
            for i in range(6):
                u = top + i
                if 0 <= u < h and 0 <= v < w:
                    for k in range(c):
                        line[i, k] = x[item, u, v, k]
                else:
                    for k in range(c):
                        line[i, k] = 0
            for k in range(c):
                d0, d1, d2, d3, d4, d5 = line[0, k], line[1, k], line[2, k], line[3, k], line[4, k], line[5, k]
                even, odd = d4 - np.float32(4) * d2, d3 - np.float32(4) * d1
                far, near = d4 - d2, np.float32(2) * (d3 - d1)
                rows[0, j, k] = np.float32(4) * d0 - np.float32(5) * d2 + d4
                rows[1, j, k] = even + odd
                rows[2, j, k] = even - odd
                rows[3, j, k] = far + near
                rows[4, j, k] = far - near
                rows[5, j, k] = np.float32(4) * d1 - np.float32(5) * d3 + d5
        for i in range(6):
            for k in range(c):
                d0, d1, d2 = rows[i, 0, k], rows[i, 1, k], rows[i, 2, k]
                d3, d4, d5 = rows[i, 3, k], rows[i, 4, k], rows[i, 5, k]
                even, odd = d4 - np.float32(4) * d2, d3 - np.float32(4) * d1
                far, near = d4 - d2, np.float32(2) * (d3 - d1)
                values[6 * i, t, k] = np.float32(4) * d0 - np.float32(5) * d2 + d4
                values[6 * i + 1, t, k] = even + odd
                values[6 * i + 2, t, k] = even - odd
                values[6 * i + 3, t, k] = far + near
                values[6 * i + 4, t, k] = far - near
                values[6 * i + 5, t, k] = np.float32(4) * d1 - np.float32(5) * d3 + d5


@njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _from_points(products, tiles, bias, slope, out):
    """36 products to the tile's 4 x 4 px: A^T m A of the paper, bias, leaky ReLU."""
    d = out.shape[3]
    for t in prange(len(tiles)):
        item, top, left = tiles[t, 0], tiles[t, 1] * 4, tiles[t, 2] * 4
        rows = np.empty((4, 6, d), np.float32)
        for j in range(6):
            for k in range(d):
                m0, m1, m2 = products[j, t, k], products[6 + j, t, k], products[12 + j, t, k]
                m3, m4, m5 = products[18 + j, t, k], products[24 + j, t, k], products[30 + j, t, k]
                one, two = m1 + m2, m3 + m4
                alone, double = m1 - m2, m3 - m4
                rows[0, j, k] = m0 + one + two
                rows[1, j, k] = alone + np.float32(2) * double
                rows[2, j, k] = one + np.float32(4) * two
                rows[3, j, k] = alone + np.float32(8) * double + m5
        for i in range(4):
            for k in range(d):
                m0, m1, m2 = rows[i, 0, k], rows[i, 1, k], rows[i, 2, k]
                m3, m4, m5 = rows[i, 3, k], rows[i, 4, k], rows[i, 5, k]
                one, two = m1 + m2, m3 + m4
                alone, double = m1 - m2, m3 - m4
                y0 = m0 + one + two + bias[k]
                y1 = alone + np.float32(2) * double + bias[k]
                y2 = one + np.float32(4) * two + bias[k]
                y3 = alone + np.float32(8) * double + m5 + bias[k]
                out[item, top + i, left, k] = max(y0, slope * y0)
                out[item, top + i, left + 1, k] = max(y1, slope * y1)
                out[item, top + i, left + 2, k] = max(y2, slope * y2)
                out[item, top + i, left + 3, k] = max(y3, slope * y3)
