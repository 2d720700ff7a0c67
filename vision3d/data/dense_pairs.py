"""Two photos with where every pixel of each lies in the other: what dense and semi-dense matching is trained on.

From depth and pose with the consistency check of MegaDepth's pairs (Sun et al., "LoFTR", CVPR 2021, supplement A), or
from a homography.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core import RigidTransform

OCCLUSION = 0.05  # share by which depths may differ and still be of the same surface


@dataclass(frozen=True, slots=True)
class DensePair:
    """grey: in [0, 1]. to1: px of photo 1 (0.5 is the centre of the first pixel) where each pixel of photo 0 lies, NaN
    where it is not seen there or not known; to0 the other way round. k, cam1_from_cam0 [4 4]: zero without a pose.
    size: height and width px of what is photo, at the top left; the rest is black."""

    grey0: Float[Tensor, "1 h w"]
    grey1: Float[Tensor, "1 i j"]
    to1: Float[Tensor, "h w 2"]
    to0: Float[Tensor, "i j 2"]
    k0: Float[Tensor, "3 3"]
    k1: Float[Tensor, "3 3"]
    cam1_from_cam0: Float[Tensor, "4 4"]
    size0: Int[Tensor, " 2"]
    size1: Int[Tensor, " 2"]


def pixel_centers(height: int, width: int) -> Float[Tensor, "h w 2"]:
    """px (x, y) of the centres of a photo's pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1)


def warp_by_depth(
    depth0: Float[Tensor, "h w"],
    depth1: Float[Tensor, "i j"],
    k0: Float[Tensor, "3 3"],
    k1: Float[Tensor, "3 3"],
    cam1_from_cam0: RigidTransform,
) -> Float[Tensor, "h w 2"]:
    """Where the pixels of photo 0 lie in photo 1, NaN where they are hidden, off the photo or without depth.

    depth: z in metres at pixel centres, 0 or not finite where unknown.
    """
    h, w = depth0.shape
    i, j = depth1.shape
    z0 = depth0.double()
    known = torch.isfinite(z0) & (z0 > 0)
    k0, k1 = k0.double(), k1.double()
    homogeneous = torch.cat([pixel_centers(h, w).double(), torch.ones(h, w, 1, dtype=torch.float64)], dim=-1)
    points = (homogeneous @ torch.linalg.inv(k0).T) * torch.where(known, z0, 1.0)[..., None]
    moved = cam1_from_cam0.apply(points.reshape(-1, 3)).reshape(h, w, 3)
    projected = moved @ k1.T
    z = projected[..., 2]
    front = z > 1e-6
    at = projected[..., :2] / torch.where(front, z, 1.0)[..., None]
    inside = (at[..., 0] >= 0) & (at[..., 0] < j) & (at[..., 1] >= 0) & (at[..., 1] < i)
    good = known & front & inside
    column, row = (torch.where(good[..., None], at, 0.0).floor().long()).unbind(-1)
    there = depth1.double()[row.clamp(0, i - 1), column.clamp(0, j - 1)]
    good &= torch.isfinite(there) & (there > 0) & ((there - z).abs() < OCCLUSION * z)
    return torch.where(good[..., None], at, torch.nan).float()


def warp_by_homography(
    h_1_from_0: Float[Tensor, "3 3"], size0: tuple[int, int], size1: tuple[int, int]
) -> Float[Tensor, "h w 2"]:
    """The same under a homography of px; size: height, width."""
    centers = pixel_centers(*size0).double()
    mapped = torch.cat([centers, torch.ones_like(centers[..., :1])], dim=-1) @ h_1_from_0.double().T
    front = mapped[..., 2] > 1e-9
    at = mapped[..., :2] / torch.where(front, mapped[..., 2], 1.0)[..., None]
    good = front & (at >= 0).all(-1) & (at[..., 0] < size1[1]) & (at[..., 1] < size1[0])
    return torch.where(good[..., None], at, torch.nan).float()


def overlap(to1: Float[Tensor, "h w 2"], to0: Float[Tensor, "i j 2"]) -> float:
    """The lesser of the shares of the pixels that the other photo shows."""
    return min(float(torch.isfinite(t[..., 0]).float().mean()) for t in (to1, to0))
