"""Followed corners make poses sharper: the Motorcycle pair, whose depth and cameras are known."""

import math
from pathlib import Path

import pytest
import torch

from vision3d.core import PosedImage, RigidTransform, Scene, Tracks
from vision3d.data.photos import scan_folder
from vision3d.eval.motorcycle import BASELINE_M, DOFFS, FOCAL, LEFT, RIGHT, disparity, write_motorcycle
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import rotation_angle
from vision3d.io.known_cameras import read_known_cameras
from vision3d.recon.polish import PolishConfig, polish_poses


def _scene(folder: Path, points: int, noise_px: float) -> Scene:
    """The pair with noisy matches at random pixels, and the right photo turned by 0.2 degrees."""
    cameras = read_known_cameras(write_motorcycle(folder / "photos"))
    truth = torch.from_numpy(disparity())
    generator = torch.Generator().manual_seed(0)
    row, column = (truth.isfinite() & (truth > 0)).nonzero().unbind(1)
    chosen = torch.randperm(len(row), generator=generator)[:points]
    xy = torch.stack([column[chosen], row[chosen]], dim=1).double() + 0.5
    d = truth[row[chosen], column[chosen]]
    depth = BASELINE_M * FOCAL / (d + DOFFS)
    left, right = cameras[LEFT].camera, cameras[RIGHT].camera
    assert left is not None and right is not None
    rays = left.unproject(xy)
    world = torch.cat([rays, torch.ones(points, 1, dtype=torch.float64)], dim=1) * depth[:, None]
    eye = torch.eye(3, dtype=torch.float64)
    true_right = RigidTransform(eye, torch.tensor([-BASELINE_M, 0.0, 0.0], dtype=torch.float64))
    turned = se3_exp(torch.tensor([0, 0, 0, 0, math.radians(0.2), 0], dtype=torch.float64)) @ true_right
    seen = torch.stack([xy[:, 0] - d, xy[:, 1]], dim=1)
    noise = noise_px * torch.randn(2, points, 2, generator=generator, dtype=torch.float64)
    index = torch.arange(points)
    tracks = Tracks(
        (LEFT, RIGHT),
        torch.cat([index, index]),
        torch.cat([torch.zeros_like(index), torch.ones_like(index)]),
        torch.cat([xy + noise[0], seen + noise[1]]),
    )
    images = {LEFT: PosedImage(1, RigidTransform.identity()), RIGHT: PosedImage(2, turned)}
    grey = torch.full((points, 3), 128, dtype=torch.uint8)
    return Scene({1: left, 2: right}, images, world, grey, torch.zeros(points, dtype=torch.float64), tracks)


def _error_deg(scene: Scene) -> float:
    relative = scene.images[RIGHT].cam_from_world @ scene.images[LEFT].cam_from_world.inverse()
    return math.degrees(float(rotation_angle(relative.rotation)))


def test_rotation_gets_exact(tmp_path):
    scene = _scene(tmp_path, 300, noise_px=0.7)
    photos, _ = scan_folder(tmp_path / "photos")
    assert _error_deg(scene) == pytest.approx(0.2, abs=1e-6)
    polished = polish_poses(scene, photos, 1024, frozenset({1, 2}))
    assert _error_deg(polished) < 0.03
    assert len(polished.points) > 3 * len(scene.points)
    assert polished.cameras[1] == scene.cameras[1]


def test_enough_points_or_nothing_in_common_change_nothing(tmp_path):
    scene = _scene(tmp_path, 40, noise_px=0.0)
    photos, _ = scan_folder(tmp_path / "photos")
    assert polish_poses(scene, photos, 1024, config=PolishConfig(enough=40)) is scene
    assert polish_poses(scene, photos, 1024, config=PolishConfig(shared=41)) is scene
