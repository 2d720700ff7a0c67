"""The visual hull of a sphere, whose silhouettes are known in closed form, and the loss that pulls opacity to masks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vision3d.core import Camera, RigidTransform, View
from vision3d.data.mesh_dataset import look_at
from vision3d.recon.fit_losses import silhouette
from vision3d.recon.stereo.hull import Masks, hull_depth, inside, inside_map

DISTANCE, SIZE = 4.0, 160
CAMERA = Camera(SIZE, SIZE, (200.0, 200.0), (SIZE / 2, SIZE / 2))


def _sphere_view(name: str, pose: RigidTransform) -> View:
    """A photo whose mask shows the unit sphere at the origin."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    ray = torch.stack([(x - SIZE / 2) / 200, (y - SIZE / 2) / 200, torch.ones_like(x)], dim=-1).double()
    ray = ray / ray.norm(dim=-1, keepdim=True)
    along = ray @ pose.translation
    mask = (pose.translation @ pose.translation) - along**2 < 1
    return View(name, CAMERA, pose, torch.full((3, SIZE, SIZE), 0.5), mask)


@pytest.fixture(scope="module")
def ring() -> list[View]:
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    views = []
    for k in range(12):
        angle = 2 * math.pi * k / 12
        center = DISTANCE * torch.tensor([math.cos(angle), 0.0, math.sin(angle)], dtype=torch.float64)
        views.append(_sphere_view(f"{k}.png", look_at(center, 0 * center, up)))
    return views


def test_points_of_the_object_are_inside_and_all_others_outside(ring: list[View]) -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(2000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    masks = Masks.of(ring)
    assert inside(0.99 * direction, masks).all()
    level = direction[np.abs(direction[:, 1]) < 0.3] * [1, 0, 1]
    level /= np.linalg.norm(level, axis=1, keepdims=True)
    assert not inside(1.08 * level, masks).any()  # 12 tangents leave corners of 1 / cos 15 degrees = 1.035
    assert not inside(30 * level, masks).any()  # before a few cameras' masks, and behind the others


def test_hull_depth_is_that_of_the_first_surface(ring: list[View]) -> None:
    found = hull_depth(ring[0], Masks.of(ring, grow_px=0), np.array([1 / 40, 1 / 0.5]))
    assert (found[~ring[0].mask.numpy()] == 0).all()
    assert found[SIZE // 2, SIZE // 2] == pytest.approx(DISTANCE - 1, abs=0.05)
    assert (found[ring[0].mask.numpy()] > DISTANCE - 1.1).all()


def test_depth_outside_another_views_mask_goes(ring: list[View]) -> None:
    depth = np.zeros((SIZE, SIZE), np.float32)
    depth[80, 80], depth[80, 82] = 3.1, 1.5
    kept = inside_map(ring[0], depth, Masks.of(ring))
    assert kept[80, 80] == np.float32(3.1) and kept[80, 82] == 0


def test_views_without_any_object_say_nothing(ring: list[View]) -> None:
    empty = replace(ring[0], mask=torch.zeros(SIZE, SIZE, dtype=torch.bool))
    points = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    assert inside(points, Masks.of([empty])).all()
    assert inside(points, Masks.of([empty, *ring])).tolist() == [True, False]


def test_silhouette_loss_pulls_opacity_to_the_mask(ring: list[View]) -> None:
    mask = ring[0].mask
    alpha = torch.full((SIZE, SIZE), 0.5, requires_grad=True)
    assert float(silhouette(mask.float(), mask)) == 0
    loss = silhouette(alpha, mask)
    assert float(loss.detach()) == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(loss, alpha)
    assert bool((gradient[mask] < 0).all()) and bool((gradient[~mask] > 0).all())
