"""3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3) (Lavin and Gray, CVPR 2016) on a CPU, on all tiles or some.

A quarter of the multiplications of the direct way. Channels come last, maps are float32; the readable twin is
`torch.nn.functional.conv2d`. Tiles of 4 x 4 px that nobody asks for are not computed. Both transforms and the products
of a block of tiles stay in one core's cache. The polynomials are evaluated at 0, +-0.625, +-1.5 and infinity: rounding
errors are less than half of those at the usual 0, +-1, +-2 (after Barabasz et al., ACM TOMS 2020).

Products are of float32 or, twice as fast, of 16-bit integers (`short_products.py`): each point of a tile has a unit.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from vision3d.core.stack_memory import floats_on_stack
from vision3d.matching.short_products import COLUMNS, count_row, in_pairs, in_panels, short_columns
from vision3d.sparse.microkernels import ROWS, lanes, set_rows, take_ticket
from vision3d.sparse.threads import use_torch_threads

TILE = 4
POINTS = 36  # 6 x 6 values that a tile's input becomes
BLOCK = 12  # tiles that a thread takes at once, at most; a multiple of ROWS
PART = 32  # channels that go in at once
NEAR, FAR = 0.625, 1.5  # where polynomials are evaluated, with either sign, besides 0 and infinity

_ROWS = ROWS
_A, _B = np.float32(NEAR), np.float32(FAR)
_A2, _B2 = np.float32(NEAR**2), np.float32(FAR**2)
_A3, _B3 = np.float32(NEAR**3), np.float32(FAR**3)
_SUM, _PRODUCT = np.float32(NEAR**2 + FAR**2), np.float32(NEAR**2 * FAR**2)
# Distances of the rows and columns of a tile in the working memory.
_I1, _I2, _I3, _I4, _I5 = (np.uint64(6 * PART * i) for i in range(1, 6))
_J1, _J2, _J3, _J4, _J5 = (np.uint64(PART * j) for j in range(1, 6))
_OUT_I1, _OUT_I2, _OUT_I3 = (np.uint64(6 * COLUMNS * i) for i in range(1, 4))
_OUT_J1, _OUT_J2, _OUT_J3, _OUT_J4, _OUT_J5 = (np.uint64(COLUMNS * j) for j in range(1, 6))
_2, _3, _4, _5 = (np.uint64(i) for i in range(2, 6))
_input_part = floats_on_stack(POINTS * PART)
_output_part = floats_on_stack(TILE * 6 * COLUMNS)


@dataclass(frozen=True, slots=True)
class WinogradKernel:
    """A 3x3 kernel in Winograd's domain, with its bias; slope: of the leaky ReLU that follows (0 ReLU, 1 none)."""

    panels: Float[Tensor, "36 p c s"] | Int[Tensor, "36 p k s"]
    """Weights, s of the outputs side by side. int32: pairs of 16-bit integers."""
    bias: Float[Tensor, " d"]
    slope: float
    factors: Float[Tensor, " c"]
    """What values are multiplied by before they are counted in units,"""
    norms: Float[Tensor, " 36"]
    """products of a point,"""
    spread: Float[Tensor, " d"]
    """and of an output: ones for float32."""

    @property
    def short(self) -> bool:
        """Whether products are of 16-bit integers."""
        return self.panels.dtype == torch.int32


def winograd_kernel(
    weight: Float[Tensor, "d c 3 3"], bias: Tensor | None, slope: float, *, short: bool = False
) -> WinogradKernel:
    """Prepares a kernel; done once for a network. short: for products of 16-bit integers.

    ValueError unless `fits` says that it can be.
    """
    if not fits(weight):
        raise ValueError(f"kernels of {PART} or more inputs and of outputs in multiples of {COLUMNS} are needed, "
                         f"got {list(weight.shape)}")  # fmt: skip
    at = [0.0, NEAR, -NEAR, FAR, -FAR]
    rows = [[q**k / np.prod([q - other for other in at if other != q]) for k in range(3)] for q in at]
    transform = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    norms = transform.norm(dim=1) if short else torch.ones(6, dtype=torch.float64)
    transform = transform / norms[:, None]
    points = torch.einsum("ik,dckl,jl->ijcd", transform, weight.detach().double(), transform).flatten(0, 1)
    outputs = len(weight)
    if short:
        points, scale, factors = short_columns(points)
        panels = in_pairs(in_panels(points))
    else:
        scale, factors = torch.ones(outputs), torch.ones(weight.shape[1])
        panels = in_panels(points).float().contiguous()
    bias = torch.zeros(outputs) if bias is None else bias.detach().float()
    gains = (factors.float(), torch.outer(norms, norms).flatten().float(), (1 / scale).float())
    return WinogradKernel(panels, bias.contiguous(), slope, *gains)


def fits(weight: Float[Tensor, "d c 3 3"]) -> bool:
    """Whether the channels are such that weights can be a kernel here."""
    outputs, inputs = weight.shape[:2]
    return inputs >= PART and inputs % 16 == 0 and outputs % COLUMNS == 0


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
    _, panels, depth, side = kernel.panels.shape
    short = kernel.short
    inputs = 2 * depth if short else depth
    if h % TILE or w % TILE or x.dtype != torch.float32 or x.device.type != "cpu" or c != inputs:
        raise ValueError(f"float32 maps with sides in multiples of 4 and {inputs} channels are needed, "
                         f"got {list(x.shape)} {x.dtype} on {x.device}")  # fmt: skip
    d = len(kernel.bias)
    everything = len(tiles) == b * (h // TILE) * (w // TILE)
    out = (empty if everything else zeros)((b, h, w, d))
    if len(tiles) == 0:
        return out
    threads = use_torch_threads()
    blocks = threads * -(-len(tiles) // (BLOCK * threads))  # as many for each thread, and full ones
    block = ROWS * -(-len(tiles) // (blocks * ROWS))
    values = np.empty((threads, POINTS * block, c), np.int16 if short else np.float32)
    _convolve(
        x.contiguous().numpy(),
        tiles.numpy(),
        kernel.panels.numpy().reshape(-1),
        kernel.bias.numpy(),
        np.float32(kernel.slope),
        (kernel.factors.numpy(), kernel.norms.numpy(), kernel.spread.numpy()),
        short,
        side // lanes(4),
        side,
        np.arange(POINTS * block),
        values,
        values.view(np.int32) if short else values,
        np.empty((threads, POINTS * panels * (block + 1) * side), np.int32 if short else np.float32),
        np.zeros(1, np.int64),
        out.numpy(),
    )
    return out


def empty(shape: tuple[int, ...]) -> Tensor:
    """float32 on the CPU that holds anything. NumPy asks the system for huge pages, which takes a third of the time."""
    return torch.from_numpy(np.empty(shape, np.float32))


def zeros(shape: tuple[int, ...]) -> Tensor:
    """float32 zeros on the CPU, from the system, which makes no page that nobody touches: small pages, not NumPy's."""
    count = math.prod(shape)
    memory = mmap.mmap(-1, max(4 * count, 1))
    return torch.frombuffer(memory, dtype=torch.float32, count=count).view(shape) if count else torch.zeros(shape)


def with_neighbours(tiles: Int[Tensor, "n 3"], grid: tuple[int, int, int]) -> Int[Tensor, "k 3"]:
    """The tiles and the eight around each. grid: items, rows, columns of tiles."""
    given = torch.zeros(grid)
    given[tuple(tiles.T)] = 1
    return (F.max_pool2d(given[:, None], 3, 1, 1)[:, 0] > 0).nonzero()


@njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def _line_to_points(d0, d1, d2, d3, d4, d5):
    """B^T d of the paper, for a column or a row of a tile's input."""
    even, odd = d4 - _B2 * d2, _A * (d3 - _B2 * d1)
    far, near = d4 - _A2 * d2, _B * (d3 - _A2 * d1)
    first, last = _PRODUCT * d0 - _SUM * d2 + d4, _PRODUCT * d1 - _SUM * d3 + d5
    return first, even + odd, even - odd, far + near, far - near, last


@njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _line_from_points(m0, m1, m2, m3, m4, m5):
    """A^T m of the paper, for a column or a row of products."""
    one, two, alone, double = m1 + m2, m3 + m4, m1 - m2, m3 - m4
    return m0 + one + two, _A * alone + _B * double, _A2 * one + _B2 * two, _A3 * alone + _B3 * double + m5


@njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _bent(y, slope):
    """Leaky ReLU."""
    return max(y, slope * y)


@njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _convolve(
    x, tiles, weights, bias, slope, gains, short, vectors, side, places, values, factors, products, tickets, out
):
    """Blocks of tiles, each by one thread, in its own `values` [36 tiles, c] and `products` [36, panel, tile, side].

    factors: the values, or pairs of them where they are 16-bit integers.
    """
    block, depth = values.shape[1] // 36, factors.shape[2]
    panels = products.shape[1] // (36 * (block + 1) * side)
    for worker in prange(values.shape[0]):
        mine, left_factors, sums = values[worker], factors[worker], products[worker]
        units, exact = np.ones((block, 36), np.float32), np.empty((36, x.shape[3]), np.float32)
        while True:
            first = take_ticket(tickets) * block
            if first >= len(tiles):
                break
            count = min(block, len(tiles) - first)
            for t in range(count):
                item, top, left = tiles[first + t, 0], tiles[first + t, 1] * 4, tiles[first + t, 2] * 4
                if short:
                    _to_points(x, item, top - 1, left - 1, exact, 0, 1)
                    _count_in_units(exact, gains[0], gains[1], mine, t, block, units[t])
                else:
                    _to_points(x, item, top - 1, left - 1, mine, t, block)
            for p in range(36):
                for panel in range(panels):
                    number = p * panels + panel
                    w_at, to = number * depth * side, number * (block + 1) * side
                    for t in range(0, count, _ROWS):
                        rows, at, base = min(_ROWS, count - t), p * block + t, p * block
                        set_rows(
                            vectors,
                            left_factors,
                            weights,
                            w_at,
                            sums,
                            to,
                            places,
                            places,
                            at,
                            rows,
                            base,
                            block,
                            depth,
                            side,
                        )
            for t in range(count):
                item, top, left = tiles[first + t, 0], tiles[first + t, 1] * 4, tiles[first + t, 2] * 4
                _from_points(sums, t, block, side, units[t], gains[2], bias, slope, out, item, top, left)


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _count_in_units(exact, factors, norms, values, t, block, units):
    """A tile's 36 rows of values as 16-bit integers; units: what the points' products are to be multiplied by."""
    for p in range(36):
        units[p] = count_row(exact[p], factors, values[p * block + t]) * norms[p]


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _to_points(x, item, top, left, values, t, block):
    """A tile's 6 x 6 px of input, zero off the map, to 36 rows of values: B^T d B of the paper."""
    h, w, c = x.shape[1], x.shape[2], x.shape[3]
    part = _input_part()
    for begin in range(0, c, PART):
        first = min(begin, c - PART)  # the last part may overlap with the one before it
        for j in range(6):
            v = left + j
            for i in range(6):
                at = np.uint64((6 * i + j) * PART)
                u = top + i
                if 0 <= u < h and 0 <= v < w:
                    for k in range(PART):
                        part[at + np.uint64(k)] = x[item, u, v, np.uint64(first) + np.uint64(k)]
                else:
                    for k in range(PART):
                        part[at + np.uint64(k)] = np.float32(0)
            for k in range(PART):
                at = np.uint64(j * PART) + np.uint64(k)
                d0, d1, d2 = part[at], part[at + _I1], part[at + _I2]
                d3, d4, d5 = (
                    part[at + _I3],
                    part[at + _I4],
                    part[at + _I5],
                )
                v0, v1, v2, v3, v4, v5 = _line_to_points(d0, d1, d2, d3, d4, d5)
                part[at], part[at + _I1], part[at + _I2] = v0, v1, v2
                part[at + _I3], part[at + _I4], part[at + _I5] = v3, v4, v5
        for i in range(6):
            for k in range(PART):
                at = np.uint64(6 * i * PART) + np.uint64(k)
                d0, d1, d2 = part[at], part[at + _J1], part[at + _J2]
                d3, d4, d5 = (
                    part[at + _J3],
                    part[at + _J4],
                    part[at + _J5],
                )
                v0, v1, v2, v3, v4, v5 = _line_to_points(d0, d1, d2, d3, d4, d5)
                row, channel = 6 * i * block + t, np.uint64(first) + np.uint64(k)
                values[row, channel] = v0
                values[row + block, channel] = v1
                values[row + 2 * block, channel] = v2
                values[row + 3 * block, channel] = v3
                values[row + 4 * block, channel] = v4
                values[row + 5 * block, channel] = v5


@njit(cache=True, fastmath={"contract", "nsz"}, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _from_points(sums, t, block, side, units, spread, bias, slope, out, item, top, left):
    """36 rows of products to the tile's 4 x 4 px: A^T m A of the paper, bias, leaky ReLU."""
    d = out.shape[3]
    part = _output_part()
    panels = d // side
    step = np.uint64(panels * (block + 1) * side)  # from point to point
    row = np.uint64(6) * step
    for first in range(0, d, COLUMNS):
        at0 = np.uint64((first // side * (block + 1) + t) * side + first % side)
        for j in range(6):
            g0, g1, g2 = units[j], units[6 + j], units[12 + j]
            g3, g4, g5 = units[18 + j], units[24 + j], units[30 + j]
            for k in range(COLUMNS):
                at = at0 + np.uint64(j) * step + np.uint64(k)
                m0, m1 = g0 * np.float32(sums[at]), g1 * np.float32(sums[at + row])
                m2, m3 = g2 * np.float32(sums[at + _2 * row]), g3 * np.float32(sums[at + _3 * row])
                m4, m5 = g4 * np.float32(sums[at + _4 * row]), g5 * np.float32(sums[at + _5 * row])
                to = np.uint64(j * COLUMNS) + np.uint64(k)
                y0, y1, y2, y3 = _line_from_points(m0, m1, m2, m3, m4, m5)
                part[to], part[to + _OUT_I1], part[to + _OUT_I2], part[to + _OUT_I3] = y0, y1, y2, y3
        for i in range(4):
            for k in range(COLUMNS):
                at, channel = np.uint64(6 * i * COLUMNS) + np.uint64(k), np.uint64(first) + np.uint64(k)
                m0, m1, m2 = part[at], part[at + _OUT_J1], part[at + _OUT_J2]
                m3, m4, m5 = (
                    part[at + _OUT_J3],
                    part[at + _OUT_J4],
                    part[at + _OUT_J5],
                )
                y0, y1, y2, y3 = _line_from_points(m0, m1, m2, m3, m4, m5)
                times, shift = spread[channel], bias[channel]
                out[item, top + i, left, channel] = _bent(times * y0 + shift, slope)
                out[item, top + i, left + 1, channel] = _bent(times * y1 + shift, slope)
                out[item, top + i, left + 2, channel] = _bent(times * y2 + shift, slope)
                out[item, top + i, left + 3, channel] = _bent(times * y3 + shift, slope)
