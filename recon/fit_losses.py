"""Losses of fitting surfels to photos (Sparfels, ICCV 2025, section 3; 2D Gaussian Splatting, section 5)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import Camera, Rendering, RigidTransform
from vision3d.recon.depth_normals import normals_from_depth
from vision3d.recon.ssim import SsimReference
from vision3d.recon.view_matches import ViewMatches

SOLID = 0.5  # a pixel has a surface where alpha is beyond


def photometric(
    rendered: Float[Tensor, "3 h w"],
    photo: Float[Tensor, "3 h w"],
    mask: Bool[Tensor, "h w"],
    ssim: float,
    reference: SsimReference | None,
) -> Float[Tensor, ""]:
    """(1 - ssim) * L1 + ssim * (1 - SSIM), the mean over the mask's pixels.

    reference: made of `photo`; None where it is too small for SSIM's window, then only L1 counts.
    """
    shown = torch.where(mask, rendered, photo)
    count = 3 * mask.sum().clamp(min=1)
    absolute = (shown - photo).abs().sum() / count
    if ssim == 0 or reference is None:
        return absolute
    unlike = (1 - reference.compare(shown)) * mask
    return (1 - ssim) * absolute + ssim * unlike.sum() / count


def normal_consistency(
    rendering: Rendering, ray: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"]
) -> Float[Tensor, ""]:
    """Mean of alpha - n_rendered . n_depth, n_depth from the expected depth (2DGS, equation 15)."""
    from_depth = normals_from_depth(rendering.depth, ray)
    agreement = rendering.alpha - (rendering.normal * from_depth).sum(dim=0)
    whole = mask & (rendering.alpha > SOLID) & (from_depth != 0).any(dim=0)
    return (agreement * whole).sum() / whole.sum().clamp(min=1)


def distortion(rendering: Rendering, mask: Bool[Tensor, "h w"]) -> Float[Tensor, ""]:
    """Mean spread of the weights along the ray as a share of the depth (2DGS, equation 13, the linear form)."""
    depth = rendering.depth.detach()
    whole = mask & (depth > 0)
    share = rendering.distortion / torch.where(whole, depth, torch.ones_like(depth))
    return (share * whole).sum() / whole.sum().clamp(min=1)


def color_variance(rendering: Rendering, mask: Bool[Tensor, "h w"]) -> Float[Tensor, ""]:
    """Mean variance of colour along the ray, cut at 1 (Sparfels, section 3.3)."""
    return (rendering.color_variance.clamp(max=1) * mask).sum() / mask.sum().clamp(min=1)


def silhouette(alpha: Float[Tensor, "h w"], mask: Bool[Tensor, "h w"]) -> Float[Tensor, ""]:
    """Mean distance between what covers a pixel and whether it shows the object that the mask cuts out."""
    return (alpha - mask.to(alpha.dtype)).abs().mean()


def correspondence(
    rendering: Rendering,
    pose0: RigidTransform,
    poses1: RigidTransform,
    camera0: Camera,
    intrinsics1: Float[Tensor, "n 4"],
    matches: ViewMatches,
    delta_px: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean Huber distance in px between a match and where the rendered depth puts it (Sparfels, section 3.3).

    The pixel of view 0 is lifted with the rendered expected depth and projected into view 1: the gradient moves
    surfels and both cameras. Matches are in px of `camera0` (the rendering may be smaller) and of `intrinsics1`
    (fx, fy, cx, cy per match, as poses1). Where nothing was rendered, or behind the other camera, a match counts as 0.
    """
    size = matches.xy0.new_tensor([camera0.width, camera0.height])
    grid = (matches.xy0 / size * 2 - 1)[None, None]
    stacked = torch.stack([rendering.depth, rendering.alpha])[None]
    depth, alpha = torch.nn.functional.grid_sample(stacked, grid, align_corners=False, padding_mode="border")[0, :, 0]
    flat = (matches.xy0 - matches.xy0.new_tensor(camera0.center)) / matches.xy0.new_tensor(camera0.focal)
    points = torch.cat([flat, torch.ones_like(flat[:, :1])], dim=1) * depth[:, None]
    in1 = (poses1 @ pose0.inverse()).apply(points[:, None])[:, 0]
    usable = (alpha > SOLID) & (depth > 0) & (in1[:, 2] > 1e-6 * depth.detach())
    z = torch.where(usable, in1[:, 2], torch.ones_like(in1[:, 2]))
    pixels = in1[:, :2] / z[:, None] * intrinsics1[:, :2] + intrinsics1[:, 2:]
    distance = ((pixels - matches.xy1) ** 2).sum(dim=1).clamp(min=1e-12).sqrt()
    huber = torch.where(distance < delta_px, 0.5 * distance**2 / delta_px, distance - 0.5 * delta_px)
    return torch.where(usable, huber, torch.zeros_like(huber)).sum() / max(1, len(matches))
