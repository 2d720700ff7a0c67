"""A random scene of surfels for speed: two layers seen from the front, sizes that close the gaps between neighbours."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core.surfels import Surfels
from vision3d.core.transform import RigidTransform


def random_surfels(count: int, size: tuple[int, int], seed: int = 0) -> Surfels:
    """`count` surfels in the frame of the camera of `intrinsics(size)`, three quarters of them in the nearer layer.

    They lie at random pixels with a tilt of up to about 60 degrees; standard deviations are log-normal around 1.3 times
    the distance between neighbours of a layer, opacities around 0.7, colours of degree 3.
    """
    draw = torch.Generator().manual_seed(seed)
    width, height = size
    focal, centre = intrinsics(size)[:2], intrinsics(size)[2:]
    pixels = torch.rand(count, 2, generator=draw) * torch.tensor([float(width), float(height)])
    near = torch.rand(count, generator=draw) < 0.75
    share = torch.where(near, 0.75, 0.25)
    x, y = (pixels / torch.tensor([float(width), float(height)]) * 2 * math.pi).unbind(-1)
    depths = torch.where(near, 4.0, 6.0) + 0.4 * torch.sin(x) * torch.cos(y)
    depths = depths + 0.02 * torch.randn(count, generator=draw)
    means = torch.cat([(pixels - centre) / focal * depths[:, None], depths[:, None]], dim=1)
    spacing = (width * height / (count * share)).sqrt() * depths / focal[0]
    scales = 1.3 * spacing[:, None] * torch.exp(0.4 * torch.randn(count, 2, generator=draw))
    quats = torch.cat([torch.ones(count, 1), 0.35 * torch.randn(count, 3, generator=draw)], dim=1)
    opacities = torch.sigmoid(0.85 + 1.2 * torch.randn(count, generator=draw))
    sh = 0.15 * torch.randn(count, 16, 3, generator=draw)
    return Surfels(means, quats, scales, opacities, sh)


def intrinsics(size: tuple[int, int]) -> Float[Tensor, " 4"]:
    """fx, fy, cx, cy in px of a camera with a horizontal field of view of about 53 degrees."""
    width, height = size
    return torch.tensor([float(width), float(width), width / 2, height / 2])


def pose() -> RigidTransform:
    """The camera at the origin."""
    return RigidTransform.identity(torch.float32)
