"""Products of 16-bit integers, summed in 32 bits: on a CPU with AVX2 twice as fast as float32.

Each row of features is counted in a unit of its own, and so is each output's column of weights. No sum can leave 32
bits: it is at most the row's norm times the column's (Cauchy and Schwarz), and units are chosen by norms as well as by
the greatest number, which must not leave 16 bits. Inputs are first multiplied by the norms of their weights, which are
divided by them: so they are rounded by what they contribute, however large they are by themselves (in this, as
SmoothQuant, Xiao et al., ICML 2023). Results are closer to float32 than bfloat16's, for features of 1e-20 to 1e17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from vision3d.sparse.microkernels import ROWS, lanes, magnitudes, set_rows, stored_as, vectors_at_once

MOST = 32760
"""The greatest number of units in a feature, and a little less than 16 bits hold."""
NORM = 2 * MOST
"""The greatest norm, in units, of a row of features; the weights get the rest of 32 bits."""
COLUMNS = 16
"""Outputs that kernels finish at once; a panel holds a multiple."""
_ROWS, _LANES = ROWS, lanes(4)


def short_columns(
    weights: Float[Tensor, "p c d"],
) -> tuple[Float[Tensor, "p c d"], Float[Tensor, " d"], Float[Tensor, " c"]]:
    """The weights as whole numbers of at most 16 bits, what each column was multiplied by (the same for all p), and
    what features are to be multiplied by before they are counted in units (weights were divided by it)."""
    squares = weights.square()
    shares = torch.nan_to_num(squares / squares.sum((0, 1)), 0.0)  # of each output, whatever its size
    factors = shares.sum((0, 2)).sqrt()
    weights = torch.where(factors[:, None] == 0, 0, weights / factors[:, None])
    norm, largest = weights.norm(dim=1).amax(0), weights.abs().amax((0, 1))
    rounding = 0.5 * weights.shape[1] ** 0.5  # at most, of a row's or column's norm
    scale = torch.minimum(((2**31 - 1) / (NORM + 2 * rounding) - 2 * rounding) / norm, MOST / largest)
    scale[norm == 0] = 1
    return (weights * scale).round(), scale, factors


@njit(inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that shape checks have wrapped
def unit_for(most, squares):  # pragma: no cover (compiled)
    """The unit for features with this greatest magnitude and this sum of squares; NaN if one of them is."""
    unit = np.sqrt(squares) / np.float32(NORM)
    if unit < most / np.float32(MOST):
        unit = most / np.float32(MOST)
    return np.float32(1e-30) if unit < np.float32(1e-30) else unit


@njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def count_row(row, factors, counted):  # pragma: no cover (compiled)
    """Counts a row of features, multiplied by factors, in their unit, which is returned."""
    most, squares = magnitudes(row, 0, len(row), factors, 0)
    unit = unit_for(most, squares)
    scale = np.float32(1) / unit
    for k in range(len(row)):
        counted[k] = stored_as(row[k] * factors[k] * scale, counted)
    return unit


def in_panels(weights: Float[Tensor, "p c d"]) -> Float[Tensor, "p n c s"]:
    """Columns, a multiple of COLUMNS, in n panels of s, as many as a kernel's registers take."""
    side = lanes(4) * vectors_at_once(weights.shape[2], 4)
    return weights.reshape(*weights.shape[:2], -1, side).transpose(1, 2)


def in_pairs(panels: Float[Tensor, "p n c s"]) -> Int[Tensor, "p n k s"]:
    """Whole numbers of 16 bits, two of a column after another in each int32. ValueError if c is odd."""
    if panels.shape[2] % 2:
        raise ValueError(f"16-bit products take pairs of inputs, got {panels.shape[2]}")
    p, n, c, s = panels.shape
    return panels.to(torch.int16).reshape(p, n, c // 2, 2, s).transpose(3, 4).contiguous().view(torch.int32)[..., 0]


@dataclass(frozen=True, slots=True)
class ShortMatrix:
    """A matrix [d c] for products with rows of c features; c is even, d a multiple of 16."""

    panels: Int[Tensor, "n k s"]
    """Pairs of weights, s of the outputs side by side."""
    spread: Float[Tensor, " d"]
    """What sums of products are multiplied by, besides their row's unit."""
    factors: Float[Tensor, " c"]
    """What features are multiplied by."""

    @property
    def arrays(self) -> tuple[Any, Any, Any, int]:
        """Flat panels, spread, factors and s, as kernels take them."""
        return self.panels.numpy().reshape(-1), self.spread.numpy(), self.factors.numpy(), self.panels.shape[2]


def short_matrix(weight: Float[Tensor, "d c"]) -> ShortMatrix:
    """Prepares a matrix; done once for a network. ValueError if a side does not fit."""
    if len(weight) % COLUMNS:
        raise ValueError(f"outputs must be a multiple of {COLUMNS}, got {len(weight)}")
    columns, scale, factors = short_columns(weight.detach().double().T[None])
    return ShortMatrix(in_pairs(in_panels(columns))[0].contiguous(), (1 / scale).float(), factors.float())


@njit(inline="always", error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def multiply_short(pairs, matrix, outputs, places, sums):  # pragma: no cover (compiled)
    """Rows of pairs [n c/2] times a matrix; sums: [panel, row and one to spare, s]; places: 0 to n - 1."""
    panels, _, _, side = matrix
    count, depth = pairs.shape
    for panel in range(outputs // side):
        weights_at, at = panel * depth * side, panel * (count + 1) * side
        for t in range(0, count, _ROWS):
            rows = min(_ROWS, count - t)
            set_rows(
                side // _LANES,
                pairs,
                panels,
                weights_at,
                sums,
                at,
                places,
                places,
                t,
                rows,
                0,
                count,
                depth,
                side,
            )


@njit(inline="always", error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def place_in_products(number, rows, row, side):  # pragma: no cover (compiled)
    """Where in sums [panel, row, s] the COLUMNS outputs with this number lie; s is COLUMNS times 1, 2 or 4."""
    shift = np.int64(side > COLUMNS) + np.int64(side > 2 * COLUMNS)
    return ((number >> shift) * rows + row) * side + COLUMNS * (number & ((1 << shift) - 1))
