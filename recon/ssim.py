"""Structural similarity of two pictures per pixel, with its gradient (Wang et al., "Image quality assessment: from
error visibility to structural similarity", IEEE TIP 2004, sections III-B and III-C).

11x11 Gaussian window of standard deviation 1.5 px, K1 = 0.01, K2 = 0.03, values in [0, 1], variances divided by the
sum of the window and not by n - 1. At the border pictures are mirrored with the edge repeated (c b a | a b c); the
blur is then a symmetric matrix, its own transpose, and the backward pass is three more blurs.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

RADIUS = 5  # px; the smallest picture is 2 * RADIUS + 1 on a side
SIGMA = 1.5  # px
C1, C2 = 0.01**2, 0.03**2
_BAND = 16  # rows that one task computes


def ssim_map(picture: Float[Tensor, "c h w"], photo: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Similarity in [-1, 1] per pixel and channel; differentiable with respect to `picture`.

    Raises:
        ValueError: different shapes, or a side under 11 px.
    """
    return SsimReference(photo).compare(picture)


class SsimReference:
    """A photo that many pictures are compared with: its local means and variances are computed once."""

    def __init__(self, photo: Float[Tensor, "c h w"]) -> None:
        if min(photo.shape[1:]) < 2 * RADIUS + 1:
            raise ValueError(f"SSIM needs pictures of {2 * RADIUS + 1} px or more, got {tuple(photo.shape)}")
        self.photo = photo.detach().contiguous()
        self._mean, self._variance = _mean_and_variance(self.photo)

    def compare(self, picture: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
        """`ssim_map` of a picture with this photo, which counts as constant."""
        if picture.shape != self.photo.shape:
            raise ValueError(f"SSIM needs pictures of one shape, got {tuple(picture.shape)}, {tuple(self.photo.shape)}")
        if picture.device.type != "cpu":
            return ssim_map_slow(picture, self.photo)
        out: Tensor = _Ssim.apply(picture, self.photo, self._mean, self._variance)
        return out


def ssim_map_slow(picture: Float[Tensor, "c h w"], photo: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """`ssim_map` in plain torch, differentiable with respect to both; the tests' twin; runs on CUDA."""
    moments = [picture, photo, picture * picture, photo * photo, picture * photo]
    mean0, mean1, square0, square1, product = _blur(torch.stack(moments))
    variances = square0 - mean0 * mean0 + square1 - mean1 * mean1
    covariance = product - mean0 * mean1
    above = (2 * mean0 * mean1 + C1) * (2 * covariance + C2)
    out: Tensor = above / ((mean0 * mean0 + mean1 * mean1 + C1) * (variances + C2))
    return out


def _window() -> list[float]:
    weights = [math.exp(-0.5 * (x / SIGMA) ** 2) for x in range(-RADIUS, RADIUS + 1)]
    return [weight / sum(weights) for weight in weights]


def _blur(pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    h, w = pictures.shape[-2:]
    window = pictures.new_tensor(_window())
    steps = torch.arange(-RADIUS, h + RADIUS, device=pictures.device)
    rows = torch.where(steps < 0, -1 - steps, torch.where(steps >= h, 2 * h - 1 - steps, steps))
    steps = torch.arange(-RADIUS, w + RADIUS, device=pictures.device)
    columns = torch.where(steps < 0, -1 - steps, torch.where(steps >= w, 2 * w - 1 - steps, steps))
    flat = pictures.reshape(-1, 1, h, w)[:, :, rows][:, :, :, columns]
    flat = torch.nn.functional.conv2d(flat, window.reshape(1, 1, -1, 1))
    return torch.nn.functional.conv2d(flat, window.reshape(1, 1, 1, -1)).reshape(pictures.shape)


def _mean_and_variance(photo: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"]]:
    mean, square = _blur(torch.stack([photo, photo * photo]))
    return mean, square - mean * mean


class _Ssim(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, picture: Tensor, photo: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        a = picture.detach().contiguous()
        out = torch.empty_like(a)
        # Derivatives of the value by the blurred picture, its blurred square and its blurred product with the photo.
        partials = torch.empty(3, *a.shape, dtype=a.dtype) if picture.requires_grad else None
        taps = np.array(_window(), dtype=a.numpy().dtype)
        numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
        if partials is None:
            empty = np.empty((3, 0, 0, 0), a.numpy().dtype)
            _forward(a.numpy(), photo.numpy(), mean.numpy(), variance.numpy(), taps, out.numpy(), empty)
        else:
            _forward(a.numpy(), photo.numpy(), mean.numpy(), variance.numpy(), taps, out.numpy(), partials.numpy())
            ctx.save_for_backward(a, photo, partials)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        a, photo, partials = ctx.saved_tensors
        out = torch.empty_like(a)
        taps = np.array(_window(), dtype=a.numpy().dtype)
        numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
        _backward(a.numpy(), photo.numpy(), partials.numpy(), grad.contiguous().numpy(), taps, out.numpy())
        return out, None, None, None


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _mirrored(i, n):  # pragma: no cover (compiled)
    if i < 0:
        return -1 - i
    return 2 * n - 1 - i if i >= n else i


@numba.njit(cache=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _along_row(row, k, out):  # pragma: no cover (compiled)
    """Blurs a row that has RADIUS spare elements on either side, which it fills by mirroring."""
    w = out.shape[0]
    for x in range(RADIUS):
        row[RADIUS - 1 - x] = row[RADIUS + x]
        row[RADIUS + w + x] = row[RADIUS + w - 1 - x]
    k0, k1, k2, k3, k4, k5 = k[5], k[4], k[3], k[2], k[1], k[0]
    for x in range(w):
        out[x] = (
            k0 * row[x + 5]
            + k1 * (row[x + 4] + row[x + 6])
            + k2 * (row[x + 3] + row[x + 7])
            + k3 * (row[x + 2] + row[x + 8])
            + k4 * (row[x + 1] + row[x + 9])
            + k5 * (row[x] + row[x + 10])
        )


@numba.njit(cache=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _across_rows(p, q, i, k, out_p, out_pp, out_pq):  # pragma: no cover (compiled)
    """Sums of p, p * p and p * q over the 11 rows around row i of two pictures, into rows with spare elements."""
    h, w = p.shape
    for t in range(2 * RADIUS + 1):
        j = _mirrored(i + t - RADIUS, h)
        weight = k[t]
        row_p, row_q = p[j], q[j]
        if t == 0:
            for x in range(w):
                scaled = weight * row_p[x]
                out_p[x + RADIUS] = scaled
                out_pp[x + RADIUS] = scaled * row_p[x]
                out_pq[x + RADIUS] = scaled * row_q[x]
        else:
            for x in range(w):
                scaled = weight * row_p[x]
                out_p[x + RADIUS] += scaled
                out_pp[x + RADIUS] += scaled * row_p[x]
                out_pq[x + RADIUS] += scaled * row_q[x]


@numba.njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _forward(a, b, mean_b, variance_b, taps, out, partials):  # pragma: no cover (compiled)
    channels, h, w = a.shape
    bands = (h + _BAND - 1) // _BAND
    one, two, c1, c2 = a.dtype.type(1), a.dtype.type(2), a.dtype.type(C1), a.dtype.type(C2)
    for task in numba.prange(channels * bands):
        c, first = task // bands, task % bands * _BAND
        sums = np.empty((3, w + 2 * RADIUS), a.dtype)
        blurred = np.empty((3, w), a.dtype)
        for i in range(first, min(first + _BAND, h)):
            _across_rows(a[c], b[c], i, taps, sums[0], sums[1], sums[2])
            for n in range(3):
                _along_row(sums[n], taps, blurred[n])
            mean, square, product = blurred[0], blurred[1], blurred[2]
            other, variance, result = mean_b[c, i], variance_b[c, i], out[c, i]
            if partials.shape[1] == 0:
                for x in range(w):
                    m, o = mean[x], other[x]
                    n1, n2 = two * m * o + c1, two * (product[x] - m * o) + c2
                    d1, d2 = m * m + o * o + c1, square[x] - m * m + variance[x] + c2
                    result[x] = n1 * n2 / (d1 * d2)
            else:
                by_mean, by_square, by_product = partials[0, c, i], partials[1, c, i], partials[2, c, i]
                for x in range(w):
                    m, o = mean[x], other[x]
                    n1, n2 = two * m * o + c1, two * (product[x] - m * o) + c2
                    d1, d2 = m * m + o * o + c1, square[x] - m * m + variance[x] + c2
                    r = one / (d1 * d2)
                    s = n1 * n2 * r
                    result[x] = s
                    by_mean[x] = two * (o * (n2 - n1) + m * s * (d1 - d2)) * r
                    by_square[x] = -s * d1 * r
                    by_product[x] = two * n1 * r


@numba.njit(cache=True, parallel=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _backward(a, b, partials, grad, taps, out):  # pragma: no cover (compiled)
    channels, h, w = a.shape
    bands = (h + _BAND - 1) // _BAND
    two = a.dtype.type(2)
    for task in numba.prange(channels * bands):
        c, first = task // bands, task % bands * _BAND
        sums = np.empty((3, w + 2 * RADIUS), a.dtype)
        blurred = np.empty((3, w), a.dtype)
        for i in range(first, min(first + _BAND, h)):
            sums[:] = 0
            by_mean, by_square, by_product = sums[0], sums[1], sums[2]
            for t in range(2 * RADIUS + 1):
                j = _mirrored(i + t - RADIUS, h)
                weight = taps[t]
                row, p0, p1, p2 = grad[c, j], partials[0, c, j], partials[1, c, j], partials[2, c, j]
                for x in range(w):
                    scaled = weight * row[x]
                    by_mean[x + RADIUS] += scaled * p0[x]
                    by_square[x + RADIUS] += scaled * p1[x]
                    by_product[x + RADIUS] += scaled * p2[x]
            for n in range(3):
                _along_row(sums[n], taps, blurred[n])
            first_term, square, product = blurred[0], blurred[1], blurred[2]
            row_a, row_b, result = a[c, i], b[c, i], out[c, i]
            for x in range(w):
                result[x] = first_term[x] + two * row_a[x] * square[x] + row_b[x] * product[x]
