"""Surfels on CUDA through gsplat's `rasterization_2dgs` (version 1.5, Apache-2.0), with the outputs of `Rendering`.

Where it differs from our engines: the intrinsics get no gradient; the depth of a contribution is that of the surfel's
centre, not of the point that the ray meets; a surfel that would leave less than 1e-4 of the light is dropped, not
drawn; surfels are cut at three standard deviations. Colours and their squares are composited together as six channels,
which gives the colour variance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core.surfels import Rendering, Surfels
from vision3d.core.transform import RigidTransform
from vision3d.errors import Vision3DError
from vision3d.recon.splat2d.project import default_near
from vision3d.recon.splat2d.spherical_harmonics import evaluate_sh


def render_gsplat(
    surfels: Surfels,
    cam_from_world: RigidTransform,
    intrinsics: Float[Tensor, " 4"],
    size: tuple[int, int],
    background: Float[Tensor, " 3"] | None,
    near: float | None,
) -> Rendering:
    """As `render_surfels`, for CUDA tensors. Vision3DError without gsplat, or for tensors on another device."""
    try:
        from gsplat import rasterization_2dgs
    except ImportError as error:
        raise Vision3DError(f"gsplat cannot be imported ({error}): pip install 'vision3d[cuda]'") from error
    if surfels.means.device.type != "cuda":
        raise Vision3DError(f"gsplat renders on CUDA, the surfels are on {surfels.means.device}: use engine='numba'")
    width, height = size
    means, scales = surfels.means.float(), surfels.scales.float()
    rotation, translation = cam_from_world.rotation.float(), cam_from_world.translation.float()
    if near is None:
        near = default_near((surfels.means.detach() @ cam_from_world.rotation[2]) + cam_from_world.translation[2])
    colors = evaluate_sh(surfels.sh, surfels.means - cam_from_world.center()).clamp(min=0).float()
    fx, fy, cx, cy = intrinsics.detach().float().unbind()
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    if len(surfels) == 0:  # its kernels need at least one; the sums keep the graph to the (empty) inputs
        layers = means.sum() + torch.zeros(13, height, width, device=means.device)
    else:
        composited, alpha, normal, _, distortion, median, _ = rasterization_2dgs(
            means=means,
            quats=torch.nn.functional.normalize(surfels.quats.float(), dim=-1),
            scales=torch.cat([scales, torch.ones_like(scales[:, :1])], dim=1),  # the third is not used
            opacities=surfels.opacities.float(),
            colors=torch.cat([colors, colors * colors], dim=1),
            viewmats=RigidTransform(rotation, translation).matrix()[None],
            Ks=torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).view(1, 3, 3),
            width=width,
            height=height,
            near_plane=max(near, 1e-8),
            render_mode="RGB+ED",
            distloss=True,
        )
        normal_in_cam = normal.view(height, width, 3) @ rotation.mT  # gsplat turns them into the world
        parts = [composited.view(height, width, 7), alpha.view(height, width, 1), median.view(height, width, 1)]
        parts += [normal_in_cam, distortion.view(height, width, 1)]
        layers = torch.cat(parts, dim=-1).permute(2, 0, 1)
    layers = layers.to(surfels.means.dtype)
    color, squares, depth, alpha, median = layers[:3], layers[3:6], layers[6], layers[7], layers[8]
    normal, distortion = layers[9:12], layers[12]
    variance = squares.sum(0) - (color * color).sum(0)
    if background is not None:
        color = color + (1 - alpha) * background[:, None, None]
    return Rendering(color, alpha, depth, median, normal, distortion, variance)
