"""Gaussian process regression of the other photo's embedded coordinates (DKM, section 3.2), posterior mean only."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

ROWS = 1024  # of the cross kernel at once


def pixel_grid(height: int, width: int, like: Tensor) -> Float[Tensor, "h w 2"]:
    """(x, y) of pixel centres in coordinates where the photo spans [-1, 1]."""
    y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=like.device, dtype=like.dtype)
    x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=like.device, dtype=like.dtype)
    return torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], dim=-1)


class GaussianProcess(nn.Module):
    """Which embedded coordinate of photo 1 each cell of photo 0 is expected to show, from their features' cosine."""

    def __init__(self, channels: int, temperature: float, noise: float) -> None:
        super().__init__()
        self.pos_conv = nn.Conv2d(2, channels, 1)
        self.temperature, self.noise = temperature, noise

    def forward(self, x0: Float[Tensor, "b c h w"], x1: Float[Tensor, "b c i j"]) -> Float[Tensor, "b d h w"]:
        """Posterior mean at every cell of x0; memory is bounded by the kernel of x1's cells with themselves."""
        grid = pixel_grid(x1.shape[2], x1.shape[3], x1).permute(2, 0, 1)[None]
        basis = torch.cos(8 * math.pi * self.pos_conv(grid))[0].flatten(1).T
        rows0, rows1 = x0.flatten(2).transpose(1, 2), x1.flatten(2).transpose(1, 2)
        means = []
        for cells0, cells1 in zip(rows0, rows1, strict=True):
            matrix = self._kernel(cells1, cells1)
            matrix = matrix + self.noise * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
            weights = torch.cholesky_solve(basis, torch.linalg.cholesky(matrix))
            means.append(torch.cat([self._kernel(part, cells1) @ weights for part in torch.split(cells0, ROWS)]))
        out: Tensor = torch.stack(means).transpose(1, 2).reshape(len(x0), -1, *x0.shape[2:])
        return out

    def _kernel(self, a: Float[Tensor, "n c"], b: Float[Tensor, "m c"]) -> Float[Tensor, "n m"]:
        cosine = (a @ b.T) / (a.norm(dim=1)[:, None] * b.norm(dim=1) + 1e-6)
        out: Tensor = ((cosine - 1) / self.temperature).exp()
        return out
