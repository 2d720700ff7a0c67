"""How a patch of surface seen in one photo lies in another: the shift that the pixels ask for, and how surely.

The plane of a patch carries its window from the reference into the other photo (the homography of a plane); what is
left is a shift of a pixel or so, found as by B. Lucas and T. Kanade, 1981, with a gain and an offset of brightness.
Edges say something of the shift across them only: the 2 x 2 information matrix keeps that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import cv2
import numba
import numpy as np
from jaxtyping import Float, Int

RADIUS = 4  # px of the window to each side
NOISE = 2.0  # grey levels, of 255: standard deviation of a pixel beside what the residuals show
_OFFSETS = np.arange(-RADIUS, RADIUS + 1)
OFFSET_X, OFFSET_Y = (axis.ravel().astype(np.float64) for axis in np.meshgrid(_OFFSETS, _OFFSETS))
WEIGHT: Float[np.ndarray, " 81"] = np.exp(-(OFFSET_X**2 + OFFSET_Y**2) / (2 * (RADIUS / 1.5) ** 2))


@dataclass(frozen=True, slots=True)
class Shifts:
    """Per observation: the information matrix (xx, xy, yy; 1 / px^2) of the shift, its product with the shift wanted
    (1 / px), and the normalised cross-correlation, -1 where the window leaves the photo."""

    information: Float[np.ndarray, "n 3"]
    pull: Float[np.ndarray, "n 2"]
    ncc: Float[np.ndarray, " n"]


def with_gradients(grey: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Grey levels and their derivatives along x and y per px."""
    smooth = np.ascontiguousarray(grey, dtype=np.float32)
    x = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    y = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(np.stack([smooth, x, y], axis=-1))


def compare(
    reference: Float[np.ndarray, "h w 3"],
    other: Float[np.ndarray, "h1 w1 3"],
    pixels: Int[np.ndarray, "n 2"],
    planes: Float[np.ndarray, "n 3"],
    warp: Float[np.ndarray, "3 4"],
) -> Shifts:
    """Compares windows around whole pixels of the reference with another photo.

    Args:
        reference, other: see with_gradients.
        pixels: column and row; the window must lie inside the reference.
        planes: inverse depth at the pixel's centre and its derivatives along x and y.
        warp: takes (x, y, 1, inverse depth) in px of the reference to homogeneous px of the other photo.
    """
    n = len(pixels)
    found = Shifts(np.zeros((n, 3)), np.zeros((n, 2)), np.full(n, -1.0))
    if n:
        arrays = (reference, other, pixels.astype(np.int64), planes.astype(np.float64), warp.astype(np.float64))
        _compare(*(np.ascontiguousarray(a) for a in arrays), found.information, found.pull, found.ncc)
    return found


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _compare(reference, other, pixels, planes, warp, information, pull, ncc):  # pragma: no cover (compiled)
    height, width = other.shape[0], other.shape[1]
    count = OFFSET_X.shape[0]
    for row in numba.prange(pixels.shape[0]):
        k = np.int64(row)
        values = np.empty((count, 4))
        total = mean0 = mean1 = mean_x = mean_y = 0.0
        inside = True
        for s in range(count):
            dx, dy = OFFSET_X[s], OFFSET_Y[s]
            x, y = pixels[k, 0] + 0.5 + dx, pixels[k, 1] + 0.5 + dy
            w = planes[k, 0] + planes[k, 1] * dx + planes[k, 2] * dy
            z = warp[2, 0] * x + warp[2, 1] * y + warp[2, 2] + warp[2, 3] * w
            if not (z > 1e-9 and w > 0):
                inside = False
                break
            u = (warp[0, 0] * x + warp[0, 1] * y + warp[0, 2] + warp[0, 3] * w) / z - 0.5
            v = (warp[1, 0] * x + warp[1, 1] * y + warp[1, 2] + warp[1, 3] * w) / z - 0.5
            if not (0 <= u < width - 1 and 0 <= v < height - 1):
                inside = False
                break
            c, r = np.int64(u), np.int64(v)
            fu, fv = u - c, v - r
            values[s, 0] = reference[np.int64(pixels[k, 1] + dy), np.int64(pixels[k, 0] + dx), 0]
            for channel in range(3):
                top = other[r, c, channel] * (1 - fu) + other[r, c + 1, channel] * fu
                bottom = other[r + 1, c, channel] * (1 - fu) + other[r + 1, c + 1, channel] * fu
                values[s, 1 + channel] = top * (1 - fv) + bottom * fv
            q = WEIGHT[s]
            total += q
            mean0 += q * values[s, 0]
            mean1 += q * values[s, 1]
            mean_x += q * values[s, 2]
            mean_y += q * values[s, 3]
        if not inside:
            continue
        mean0, mean1, mean_x, mean_y = mean0 / total, mean1 / total, mean_x / total, mean_y / total
        s00 = s01 = s11 = 0.0
        for s in range(count):
            a, b, q = values[s, 0] - mean0, values[s, 1] - mean1, WEIGHT[s]
            s00 += q * a * a
            s01 += q * a * b
            s11 += q * b * b
        if s00 < 1e-6 or s11 < 1e-6:
            ncc[k] = 0.0
            continue
        ncc[k] = s01 / np.sqrt(s00 * s11)
        gain = min(max(s01 / s00, 0.5), 2.0)
        squared = xx = xy = yy = bx = by = 0.0
        for s in range(count):
            q = WEIGHT[s]
            residual = values[s, 1] - mean1 - gain * (values[s, 0] - mean0)
            gx, gy = values[s, 2] - mean_x, values[s, 3] - mean_y
            squared += q * residual * residual
            xx += q * gx * gx
            xy += q * gx * gy
            yy += q * gy * gy
            bx -= q * gx * residual
            by -= q * gy * residual
        share = 1 / (squared / total + NOISE * NOISE)
        information[k, 0], information[k, 1], information[k, 2] = share * xx, share * xy, share * yy
        pull[k, 0], pull[k, 1] = share * bx, share * by


def compare_slowly(
    reference: Float[np.ndarray, "h w 3"],
    other: Float[np.ndarray, "h1 w1 3"],
    pixels: Int[np.ndarray, "n 2"],
    planes: Float[np.ndarray, "n 3"],
    warp: Float[np.ndarray, "3 4"],
) -> Shifts:
    """The same with whole arrays: the readable twin of `compare`."""
    offsets = np.stack([OFFSET_X, OFFSET_Y], axis=1)
    at = pixels[:, None] + offsets  # n s 2, whole
    w = planes[:, :1] + planes[:, 1:] @ offsets.T
    homogeneous = np.concatenate([at + 0.5, np.ones_like(w)[..., None], w[..., None]], axis=2) @ warp.T
    z = homogeneous[..., 2]
    uv = homogeneous[..., :2] / np.where(z > 1e-9, z, 1)[..., None] - 0.5
    limit = np.array([other.shape[1] - 1, other.shape[0] - 1])
    inside = ((uv >= 0) & (uv < limit)).all(axis=(1, 2)) & ((z > 1e-9) & (w > 0)).all(axis=1)
    values = cv2.remap(other, np.where(inside[:, None, None], uv, 0).astype(np.float32), None, cv2.INTER_LINEAR)
    values = values.astype(np.float64)
    rows, columns = (np.clip(at[..., k].astype(int), 0, reference.shape[1 - k] - 1) for k in (1, 0))
    before = reference[rows, columns, 0].astype(np.float64)
    q = WEIGHT / WEIGHT.sum()
    a = before - (before @ q)[:, None]
    values = values - np.einsum("nsc,s->nc", values, q)[:, None]
    b, gradient = values[..., 0], values[..., 1:]
    s00, s01, s11 = (a * a) @ q, (a * b) @ q, (b * b) @ q
    good = inside & (s00 * WEIGHT.sum() >= 1e-6) & (s11 * WEIGHT.sum() >= 1e-6)
    ncc = np.where(good, s01 / np.sqrt(np.where(good, s00 * s11, 1)), np.where(inside, 0.0, -1.0))
    residual = b - np.clip(s01 / np.where(good, s00, 1), 0.5, 2.0)[:, None] * a
    share = np.where(good, 1 / ((residual**2) @ q + NOISE**2), 0)
    outer = np.einsum("nsi,nsj,s->nij", gradient, gradient, WEIGHT) * share[:, None, None]
    pull = -np.einsum("nsi,ns,s->ni", gradient, residual, WEIGHT) * share[:, None]
    return Shifts(np.stack([outer[:, 0, 0], outer[:, 0, 1], outer[:, 1, 1]], axis=1), pull, ncc)
