"""Views of textured planes in closed form: true depth and normal of every pixel are known."""

from collections.abc import Sequence

import numpy as np
import torch

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks, View
from vision3d.geometry.rotation import rotation_exp

Plane = tuple[np.ndarray, float]
"""Unit normal n and d of the plane n . x = d in the world."""


def ring_poses(count: int, baseline: float = 0.25, distance: float = 2.0) -> list[RigidTransform]:
    """Cameras side by side along x that all look at (0, 0, distance)."""
    poses = []
    for k in range(count):
        x = baseline * (k - (count - 1) / 2)
        rotation = rotation_exp(torch.tensor([0.0, np.arctan2(x, distance), 0.0], dtype=torch.float64))
        poses.append(RigidTransform(rotation, -rotation @ torch.tensor([x, 0.02 * k, 0.0], dtype=torch.float64)))
    return poses


def render(
    planes: Sequence[Plane], poses: Sequence[RigidTransform], size: tuple[int, int] = (128, 96), scale: float = 1.0
) -> tuple[list[View], list[np.ndarray], list[np.ndarray]]:
    """Views, depths [h, w] and normals in the camera frame [h, w, 3]; a plane ends where (x > 0.1) for all but the last
    (so that the first stand in front on the left). scale: factor on the unit of the scene."""
    width, height = size
    camera = Camera(width, height, (width * 1.1, width * 1.1), (width / 2 + 0.3, height / 2 - 0.2))
    views, depths, normals = [], [], []
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(x - camera.center[0]) / camera.focal[0], (y - camera.center[1]) / camera.focal[1], x * 0 + 1], -1)
    for k, pose in enumerate(poses):
        rotation = pose.rotation.numpy()
        center = pose.center().numpy()
        direction = rays @ rotation
        depth = np.full((height, width), np.inf)
        shade = np.zeros((height, width))
        normal = np.zeros((height, width, 3))
        for number, (n, d) in enumerate(planes):
            z = (d - center @ n) / (direction @ n)
            hit = center + direction * z[..., None]
            take = (z > 0) & (z < depth) & ((hit[..., 0] < 0.1) | (number == len(planes) - 1))
            depth = np.where(take, z, depth)
            shade = np.where(take, _texture(hit, n, number, width), shade)
            facing = rotation @ n
            normal[take] = facing * -np.sign(rays[take] @ facing)[:, None]
        rgb = torch.from_numpy(np.repeat(shade[None], 3, axis=0)).float()
        scaled = RigidTransform(pose.rotation, pose.translation * scale)
        views.append(View(f"{k}.png", camera, scaled, rgb, torch.ones(height, width, dtype=torch.bool)))
        depths.append(depth * scale)
        normals.append(normal)
    return views, depths, normals


def scene_of(views: Sequence[View]) -> Scene:
    """The cameras without any points."""
    return Scene(
        {1: views[0].camera},
        {view.name: PosedImage(1, view.cam_from_world) for view in views},
        torch.zeros(0, 3, dtype=torch.float64),
        torch.zeros(0, 3, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.float64),
        Tracks.empty(),
    )


def _texture(hit: np.ndarray, n: np.ndarray, seed: int, width: int) -> np.ndarray:
    """Waves of many directions on the plane, none shorter than about 4 px at distance 2."""
    rng = np.random.default_rng(seed)
    along = np.cross(n, [0.0, 1.0, 0.0])
    along /= np.linalg.norm(along)
    u, v = hit @ along, hit @ np.cross(n, along)
    highest = 2 * np.pi * 1.1 * width / 2 / 4
    total = np.zeros(u.shape)
    for _ in range(24):
        angle, frequency, phase = rng.uniform(0, np.pi), highest * rng.uniform(0.1, 1), rng.uniform(0, 2 * np.pi)
        total += np.sin(frequency * (np.cos(angle) * u + np.sin(angle) * v) + phase)
    return np.clip(0.5 + total * 0.07, 0, 1)
