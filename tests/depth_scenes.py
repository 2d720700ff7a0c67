"""Depth maps in closed form: spheres and planes seen by pinhole cameras."""

from collections.abc import Callable, Sequence

import torch

from vision3d.core import Camera, DepthView, RigidTransform
from vision3d.data.mesh_dataset import look_at

Tensor = torch.Tensor
# Along the axes and the diagonals: every point of a sphere is seen at less than 60 degrees.
AROUND = [
    *(
        (s * 3.0 * a, s * 3.0 * b, s * 3.0 * c)
        for a, b, c in ((1, 0, 0.01), (0, 1, 0.01), (0.01, 0, 1))
        for s in (1, -1)
    ),
    *((1.8 * a, 1.7 * b, 1.75 * c) for a in (1, -1) for b in (1, -1) for c in (1, -1)),
]


def view_of(depth_along: Callable[[Tensor, Tensor], Tensor], center: Sequence[float], size: int = 120) -> DepthView:
    """A view from `center` to the origin. depth_along(origin, directions) is the depth of rays, 0 where they miss."""
    camera = Camera(size, size, (1.2 * size, 1.25 * size), (0.5 * size + 0.3, 0.5 * size - 0.7))
    at = torch.tensor(center, dtype=torch.float64)
    up = torch.tensor([0.05, 0.02, 1.0] if abs(center[2]) < 0.9 * float(at.norm()) else [1.0, 0.02, 0.05])
    pose = look_at(at, torch.zeros(3, dtype=torch.float64), up)
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) + 0.5] * 2, indexing="ij")
    rays = torch.cat([camera.unproject(torch.stack([x, y], dim=-1)), torch.ones_like(x)[..., None]], dim=-1)
    directions = rays @ pose.rotation  # of depth 1 in the camera
    depth = depth_along(at, directions)
    points = at + directions * depth[..., None]
    color = (0.5 + 0.25 * points).permute(2, 0, 1)  # tells where a point is
    return DepthView(
        f"{center}", camera, pose, depth.float(), color.float().clamp(0, 1), torch.ones(size, size, dtype=torch.float32)
    )


def sphere(radius: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Around the origin."""

    def depth(origin: Tensor, directions: Tensor) -> Tensor:
        a, b = (directions * directions).sum(-1), directions @ origin
        root = b * b - a * (origin @ origin - radius**2)
        return torch.where(root > 0, (-b - root.clamp(min=0).sqrt()) / a, 0.0)

    return depth


def plane(normal: Sequence[float], offset: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Where normal . x = offset, in front of the camera."""
    n = torch.tensor(normal, dtype=torch.float64)

    def depth(origin: Tensor, directions: Tensor) -> Tensor:
        return ((offset - n @ origin) / (directions @ n)).clamp(min=0)

    return depth


def scaled(view: DepthView, factor: float) -> DepthView:
    """The same scene in another unit."""
    pose = RigidTransform(view.cam_from_world.rotation, view.cam_from_world.translation * factor)
    return DepthView(view.name, view.camera, pose, view.depth * factor, view.color, view.weight)
