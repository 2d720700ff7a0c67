"""The matching cost of ncc.py, slowly and in float64: one window, one source, every step written out."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8

from vision3d.recon.stereo.ncc import NOISE, SIGMA_GREY, SIGMA_SPACE, WINDOW_X, WINDOW_Y, WORST


def plane_cost_twin(
    grey: UInt8[np.ndarray, "h w"],
    source: UInt8[np.ndarray, "h2 w2"],
    warp: Float[np.ndarray, " 12"],
    x: int,
    y: int,
    plane: tuple[float, float, float],
) -> float:
    """1 - NCC between the window at (x, y) of the reference and what the plane (w, a, b) maps it to in the source."""
    a_matrix, t = warp[:9].reshape(3, 3).astype(np.float64), warp[9:].astype(np.float64)
    w, a, b = plane
    height, width = source.shape
    middle = a_matrix @ (x, y, 1) + w * t
    if middle[2] <= 1e-6 or not (0 <= middle[0] / middle[2] <= width - 1 and 0 <= middle[1] / middle[2] <= height - 1):
        return WORST
    reference, warped, weight = [], [], []
    for dx, dy in zip(WINDOW_X.tolist(), WINDOW_Y.tolist(), strict=True):
        row, column = (min(max(int(v), 0), size - 1) for v, size in zip((y + dy, x + dx), grey.shape, strict=True))
        value = float(grey[row, column])
        difference = value - float(grey[y, x])
        weight.append(
            math.exp(-(dx * dx + dy * dy) / (2 * SIGMA_SPACE**2)) * math.exp(-((difference / SIGMA_GREY) ** 2) / 2)
        )
        u, v, z = a_matrix @ (x + dx, y + dy, 1) + (w + a * dx + b * dy) * t
        z = max(z, 0.2 * middle[2])
        reference.append(value)
        warped.append(_bilinear(source, min(max(u / z, 0), width - 1), min(max(v / z, 0), height - 1)))
    q = np.array(weight) / sum(weight)
    r, s = np.array(reference), np.array(warped)
    r -= (q * r).sum()
    s -= (q * s).sum()
    correlation = (q * r * s).sum() / math.sqrt(((q * r * r).sum() + NOISE) * ((q * s * s).sum() + NOISE))
    return float(min(max(1 - correlation, 0.0), WORST))


def _bilinear(picture: UInt8[np.ndarray, "h w"], u: float, v: float) -> float:
    column, row = int(u), int(v)
    right, below = min(column + 1, picture.shape[1] - 1), min(row + 1, picture.shape[0] - 1)
    fu, fv = u - column, v - row
    top = float(picture[row, column]) * (1 - fu) + float(picture[row, right]) * fu
    low = float(picture[below, column]) * (1 - fu) + float(picture[below, right]) * fu
    return top * (1 - fv) + low * fv
