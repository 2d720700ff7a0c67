"""How alike a rendering and a photo are: PSNR and SSIM, over the pixels of a mask."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.recon.ssim import RADIUS, ssim_map

MAX_PSNR = 100.0  # dB, for equal pictures: 8-bit ones that differ in one value of a megapixel reach 113


def psnr(
    picture: Float[Tensor, "3 h w"], photo: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"] | None = None
) -> float | None:
    """Peak signal-to-noise ratio in dB for values in [0, 1] over the masked pixels, at most 100; None without any."""
    error = (picture.double() - photo.double()).square()
    counted = error if mask is None else error[:, mask]
    if not counted.numel():
        return None
    return min(MAX_PSNR, -10 * math.log10(max(float(counted.mean()), 1e-20)))


def ssim(
    picture: Float[Tensor, "3 h w"], photo: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"] | None = None
) -> float | None:
    """Mean structural similarity of the masked pixels; outside the mask the picture counts as equal to the photo.

    None where no pixel counts, or a side is under 11 px.
    """
    if min(photo.shape[1:]) < 2 * RADIUS + 1 or (mask is not None and not bool(mask.any())):
        return None
    shown = picture if mask is None else torch.where(mask, picture, photo)
    values = ssim_map(shown, photo)
    return float((values if mask is None else values[:, mask]).mean())
