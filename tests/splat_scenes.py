"""Small scenes of surfels for the tests of the rasterizer."""

from __future__ import annotations

import torch
from torch import Tensor

from vision3d.core.surfels import Rendering, Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d import Engine, render_surfels

FIELDS = ("means", "quats", "scales", "opacities", "sh")
OUTPUTS = ("color", "alpha", "depth", "median_depth", "normal", "distortion", "color_variance")


def random_surfels(
    n: int, dtype: torch.dtype = torch.float32, seed: int = 0, k: int = 16, size: float = 0.3
) -> Surfels:
    """In front of a camera at the origin, between depths 4 and 7."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    depth = 4 + 3 * uniform(n, 1)
    means = torch.cat([(uniform(n, 2) * 1.2 - 0.6) * depth, depth], dim=1)
    quats = torch.cat([torch.ones(n, 1, dtype=torch.float64), 0.5 * normal(n, 3)], dim=1)
    fields = (means, quats, size * (0.4 + uniform(n, 2)), 0.1 + 0.8 * uniform(n), 0.15 * normal(n, k, 3))
    return Surfels(*(f.to(dtype) for f in fields))


def camera(dtype: torch.dtype = torch.float32, size: tuple[int, int] = (40, 35)) -> tuple[RigidTransform, Tensor]:
    """A pose near the identity, and intrinsics."""
    turn = torch.tensor([[0, -0.1, 0.05], [0.1, 0, 0.02], [-0.05, -0.02, 0]], dtype=torch.float64)
    translation = torch.tensor([0.1, -0.1, 0.2], dtype=torch.float64)
    pose = RigidTransform(torch.linalg.matrix_exp(turn).to(dtype), translation.to(dtype))
    return pose, torch.tensor([0.8 * size[0], 0.82 * size[0], size[0] / 2 + 0.7, size[1] / 2 - 0.4], dtype=dtype)


def flat(
    mean: tuple[float, float, float],
    scale: float | tuple[float, float] = 1.0,
    opacity: float = 0.5,
    color: tuple[float, float, float] = (1.0, 0.5, 0.25),
    quat: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
) -> Surfels:
    """One surfel, facing the camera unless turned, of one colour."""
    scales = (scale, scale) if isinstance(scale, float) else scale
    sh = (torch.tensor([[color]], dtype=torch.float64) - 0.5) / 0.28209479177387814
    rows = (torch.tensor([row], dtype=torch.float64) for row in (mean, quat, scales))
    return Surfels(*rows, torch.tensor([opacity], dtype=torch.float64), sh)


def join(*parts: Surfels) -> Surfels:
    return Surfels(*(torch.cat([getattr(p, name) for p in parts]) for name in FIELDS))


def to(surfels: Surfels, dtype: torch.dtype) -> Surfels:
    return Surfels(*(getattr(surfels, name).to(dtype) for name in FIELDS))


def still(dtype: torch.dtype = torch.float64) -> RigidTransform:
    return RigidTransform.identity(dtype)


def gradients(
    surfels: Surfels,
    pose: RigidTransform,
    k: Tensor,
    size: tuple[int, int],
    engine: Engine,
    output: str,
    near: float | None = None,
) -> tuple[Rendering, dict[str, Tensor]]:
    """A picture, and gradients of a fixed random weighting of one output with respect to everything."""
    leaves = {name: getattr(surfels, name).detach().clone().requires_grad_() for name in FIELDS}
    leaves |= {"rotation": pose.rotation.detach().clone(), "translation": pose.translation.detach().clone()}
    leaves |= {"intrinsics": k.detach().clone(), "background": torch.tensor([0.2, 0.5, 0.3], dtype=k.dtype)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    picture = render_surfels(
        Surfels(*(leaves[name] for name in FIELDS)),
        RigidTransform(leaves["rotation"], leaves["translation"]),
        leaves["intrinsics"],
        size,
        background=leaves["background"],
        near=near,
        engine=engine,
    )
    values: Tensor = getattr(picture, output)
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    total = (values * weights.to(values.dtype)).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    zeros = (torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves.values(), strict=True))
    return picture, dict(zip(leaves, zeros, strict=True))
