"""Synthetic surfel scenes: a bumpy, coloured wall of surfels and views rendered of it."""

import math

import torch

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Surfels, Tracks, View
from vision3d.geometry.rotation import rotation_exp
from vision3d.recon.fit_surfels import intrinsics_of
from vision3d.recon.splat2d import render_surfels


def wall(rows: int = 14, columns: int = 18, seed: int = 0) -> Surfels:
    """rows x columns surfels on a bumpy wall 4 in front of the origin, facing it, with random colours."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1.5, 1.5, rows), torch.linspace(-2, 2, columns), indexing="ij")
    z = 4 + 0.2 * torch.sin(2 * x) * torch.cos(2 * y)
    n = rows * columns
    means = torch.stack([x, y, z], dim=-1).reshape(n, 3)
    quats = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand(n, 4).clone()  # half a turn about x: the normal looks at -z
    colors = torch.rand(n, 1, 3, generator=generator)
    return Surfels(means, quats, torch.full((n, 2), 0.12), torch.full((n,), 0.9), (colors - 0.5) / 0.28209479)


def arc_views(surfels: Surfels, count: int = 4, size: tuple[int, int] = (48, 36)) -> list[View]:
    """`count` photos of the surfels from an arc of 20 degrees around (0, 0, 4)."""
    width, height = size
    camera = Camera(width, height, (width * 0.9, width * 0.9), (width / 2, height / 2))
    views = []
    for k in range(count):
        angle = math.radians(20 * (k / max(1, count - 1) - 0.5))
        rotation = rotation_exp(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
        center = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
        pose = RigidTransform(rotation, center - rotation @ center)
        seen = RigidTransform(pose.rotation.float(), pose.translation.float())
        color = render_surfels(surfels, seen, intrinsics_of(camera), size).color
        views.append(View(f"{k}.png", camera, pose, color.clamp(0, 1), torch.ones(height, width, dtype=torch.bool)))
    return views


def scene_of(views: list[View], points: torch.Tensor) -> Scene:
    """A scene in which every view sees all points that project into it, with exact tracks."""
    point, image, xy = [], [], []
    for k, view in enumerate(views):
        pixels, front = view.camera.project(view.cam_from_world.apply(points))
        limit = pixels.new_tensor([view.camera.width, view.camera.height])
        inside = front & ((pixels > 0) & (pixels < limit)).all(dim=1)
        point.append(inside.nonzero()[:, 0])
        image.append(torch.full((int(inside.sum()),), k))
        xy.append(pixels[inside])
    n = len(points)
    return Scene(
        {1: views[0].camera},
        {view.name: PosedImage(1, view.cam_from_world) for view in views},
        points,
        torch.full((n, 3), 128, dtype=torch.uint8),
        torch.zeros(n, dtype=torch.float64),
        Tracks(tuple(v.name for v in views), torch.cat(point), torch.cat(image), torch.cat(xy)),
    )
