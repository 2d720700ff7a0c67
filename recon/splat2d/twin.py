"""Compositing of projected surfels in dense torch: every pixel with every surfel (2DGS, section 4.2 and 4.3).

Slow and plain; any dtype and device. The Numba kernels are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vision3d.recon.splat2d.project import (
    LOW_PASS,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_DENOMINATOR,
    MIN_TRANSMITTANCE,
    Projection,
)

PAIRS = 1 << 22  # pixel-surfel pairs held at a time


@dataclass(frozen=True, slots=True)
class Composite:
    """Per pixel, without the background: see `vision3d.core.surfels.Rendering`."""

    color: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]
    median_depth: Float[Tensor, "h w"]
    normal: Float[Tensor, "3 h w"]
    distortion: Float[Tensor, "h w"]
    color_variance: Float[Tensor, "h w"]

    @classmethod
    def from_channels(cls, channels: Float[Tensor, "11 h w"]) -> Composite:
        """Splits colour 0-2, alpha, depth, median depth, normal 6-8, distortion, variance."""
        c = channels
        return cls(c[0:3], c[3], c[4], c[5], c[6:9], c[9], c[10])


def composite(projection: Projection, size: tuple[int, int]) -> Composite:
    """Front to back over all surfels that can be seen, for width x height pixels."""
    width, height = size
    bounds = projection.bounds[projection.order]
    on_screen = (bounds[:, 1] > 0) & (bounds[:, 0] < width) & (bounds[:, 3] > 0) & (bounds[:, 2] < height)
    table = projection.coefficients[projection.order[on_screen]]
    if not len(table):
        return Composite.from_channels(table.new_zeros(11, height, width))
    pixels = torch.arange(width * height, device=table.device)
    parts = []
    for some in torch.split(pixels, max(1, PAIRS // len(table))):
        x, y = (some % width).to(table.dtype) + 0.5, (some // width).to(table.dtype) + 0.5
        # Recomputed in the backward pass, so that memory stays bounded.
        parts.append(checkpoint(_composite_pixels, table, x, y, projection.near, use_reentrant=False))
    return Composite.from_channels(torch.cat(parts).T.reshape(11, height, width))


def _composite_pixels(
    table: Float[Tensor, "n 16"], x: Float[Tensor, " p"], y: Float[Tensor, " p"], near: float
) -> Float[Tensor, "p 11"]:
    x0, y0, a1, a2, b1, b2, w1, w2, z0, opacity = table[:, :10].unbind(-1)
    color, normal = table[:, 10:13], table[:, 13:16]
    dx, dy = x[:, None] - x0, y[:, None] - y0
    q = 1 + w1 * dx + w2 * dy
    meets = q > MIN_DENOMINATOR
    q = torch.where(meets, q, 1.0)
    u, v = (a1 * dx + a2 * dy) / q, (b1 * dx + b2 * dy) / q
    on_plane, on_screen = u * u + v * v, LOW_PASS * (dx * dx + dy * dy)
    inside = meets & (z0 / q > near) & (on_plane <= on_screen)
    gauss = torch.exp(-0.5 * torch.where(inside, on_plane, on_screen))
    z = torch.where(inside, z0 / q, z0)
    strength = opacity * gauss
    alpha = torch.where(strength >= MIN_ALPHA, strength.clamp(max=MAX_ALPHA), 0.0)
    left = torch.cumprod(1 - alpha, dim=1)
    left = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)  # light that reaches a surfel
    hit = (alpha > 0) & (left >= MIN_TRANSMITTANCE)
    weight = torch.where(hit, alpha * left, 0.0)

    # Depths relative to the first hit: the distortion does not change, and loses no digits.
    reference = z.gather(1, hit.to(torch.uint8).argmax(dim=1, keepdim=True)).detach()
    relative = z - reference
    total = weight.sum(1)
    moment = (weight * relative).sum(1)
    before = weight.cumsum(1) - weight
    moment_before = (weight * relative).cumsum(1) - weight * relative
    distortion = 2 * (weight * (relative * before - moment_before)).sum(1)
    depth = torch.where(total > 0, reference[:, 0] + moment / torch.where(total > 0, total, 1.0), 0.0)

    middle = hit & (left > 0.5)
    last = middle.shape[1] - 1 - middle.flip(1).to(torch.uint8).argmax(dim=1, keepdim=True)
    median = torch.where(middle.any(1), z.gather(1, last)[:, 0], 0.0)
    shade = weight @ color
    variance = weight @ (color * color).sum(1) - (shade * shade).sum(1)
    columns = [shade, total[:, None], depth[:, None], median[:, None], weight @ normal]
    return torch.cat([*columns, distortion[:, None], variance[:, None]], dim=1)
