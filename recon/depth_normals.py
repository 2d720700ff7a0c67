"""Normals of a depth map, by finite differences of its points (Huang et al., "2D Gaussian Splatting", equation 16)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rays(intrinsics: Float[Tensor, " 4"], width: int, height: int) -> Float[Tensor, "3 h w"]:
    """Directions (x/z, y/z, 1) of all pixel centres; intrinsics are fx, fy, cx, cy in px."""
    fx, fy, cx, cy = intrinsics.unbind()
    x = (torch.arange(width, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5 - cx) / fx
    y = (torch.arange(height, dtype=intrinsics.dtype, device=intrinsics.device) + 0.5 - cy) / fy
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x + y[:, None])])


def normals_from_depth(depth: Float[Tensor, "h w"], ray: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Unit normals in the camera frame that face the camera; zero on the border and beside unknown depth (0)."""
    points = ray * depth
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = torch.linalg.cross(down, across, dim=0)
    length = normal.norm(dim=0)
    known = (depth > 0).detach()
    whole = known[1:-1, 2:] & known[1:-1, :-2] & known[2:, 1:-1] & known[:-2, 1:-1] & (length > 0)
    safe = torch.where(whole, length, torch.ones_like(length))
    normal = torch.where(whole, normal / safe, torch.zeros_like(normal))
    return torch.nn.functional.pad(normal, (1, 1, 1, 1))
