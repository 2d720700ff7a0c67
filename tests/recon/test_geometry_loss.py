"""The fused losses equal their twins in plain torch, values and gradients."""

import pytest
import torch

from vision3d.core import Rendering
from vision3d.recon import fit_losses
from vision3d.recon.depth_normals import rays
from vision3d.recon.geometry_loss import geometry_losses


def _rendering(h: int, w: int, dtype: torch.dtype) -> tuple[Rendering, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x = torch.linspace(0, 1, w, dtype=dtype)
    depth = 2 + x + 0.1 * noise(h, w)
    depth[2, 3] = 0
    alpha = 0.3 + 0.7 * noise(h, w)
    rendering = Rendering(
        noise(3, h, w), alpha, depth, depth, noise(3, h, w) - 0.5, 0.1 * noise(h, w), 1.3 * noise(h, w)
    )
    mask = noise(h, w) > 0.2
    return rendering, rays(torch.tensor([20.0, 22.0, w / 2, h / 2], dtype=dtype), w, h), mask


def _leaves(rendering: Rendering) -> list[torch.Tensor]:
    names = ("alpha", "depth", "normal", "distortion", "color_variance")
    return [getattr(rendering, name).requires_grad_(True) for name in names]


def _with(leaves: list[torch.Tensor], rendering: Rendering) -> Rendering:
    alpha, depth, normal, distortion, variance = leaves
    return Rendering(rendering.color, alpha, depth, rendering.median_depth, normal, distortion, variance)


@pytest.mark.parametrize("shape", [(17, 23), (9, 9), (4, 40)])
def test_equals_twin(shape):
    found, expected = [], []
    for dtype, out in ((torch.float32, found), (torch.float64, expected)):  # float64 takes the twin
        rendering, ray, mask = _rendering(*shape, dtype)
        leaves = _leaves(rendering)
        losses = geometry_losses(_with(leaves, rendering), ray, mask)
        gradients = torch.autograd.grad((losses * losses.new_tensor([1.0, 2.0, 3.0])).sum(), leaves, allow_unused=True)
        out += [losses.detach(), *gradients]
    for a, b in zip(found, expected, strict=True):
        b = torch.zeros_like(a, dtype=torch.float64) if b is None else b
        torch.testing.assert_close(a.double(), b, rtol=2e-4, atol=2e-6)


def test_a_plane_is_consistent():
    rendering, ray, mask = _rendering(12, 12, torch.float64)
    normal = torch.tensor([0.2, -0.1, -1.0], dtype=torch.float64)
    normal = normal / normal.norm()
    depth = -1 / (ray * normal[:, None, None]).sum(0)
    flat = Rendering(
        rendering.color,
        torch.ones_like(depth),
        depth,
        depth,
        normal[:, None, None] * torch.ones_like(ray),
        depth,
        depth,
    )
    assert abs(float(fit_losses.normal_consistency(flat, ray, mask))) < 1e-12
    turned = Rendering(flat.color, flat.alpha, depth, depth, -flat.normal, depth, depth)
    assert float(fit_losses.normal_consistency(turned, ray, mask)) == pytest.approx(2)
