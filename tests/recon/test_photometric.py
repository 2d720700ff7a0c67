"""Poses aligned on pixels: the comparison against its twin, the step in closed form, and disturbed cameras around a
rendered shape that come back."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from vision3d.core import PosedImage, RigidTransform, Scene, Tracks, View
from vision3d.data.mesh_dataset import orbit
from vision3d.data.mesh_views import TexturedMesh, render_mesh
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import angle_between
from vision3d.geometry.similarity import align_poses
from vision3d.recon.photometric.align import AlignConfig, align_views
from vision3d.recon.photometric.compare import RADIUS, compare, compare_slowly, with_gradients
from vision3d.recon.photometric.step import Observed, solve_step


def _texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return ((blurred - blurred.mean()) * 4 + 128).clip(0, 255)


def test_compare_agrees_with_its_twin_and_with_the_shift() -> None:
    picture = _texture(80, 90)
    shift = np.array([0.6, -0.35])
    moved = cv2.warpAffine(picture, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (90, 80), flags=cv2.INTER_CUBIC)
    reference, other = with_gradients(picture), with_gradients(0.8 * moved + 10)
    rng = np.random.default_rng(1)
    pixels = rng.integers(RADIUS, [90 - RADIUS, 80 - RADIUS], (200, 2))
    planes = np.concatenate([rng.uniform(0.9, 1.1, (200, 1)), rng.normal(0, 1e-3, (200, 2))], axis=1)
    warp = np.array([[1, 0, 0, 0.05], [0, 1, 0, -0.04], [0, 0, 1, 0.0]])
    fast, slow = (f(reference, other, pixels, planes, warp) for f in (compare, compare_slowly))
    assert (fast.ncc < 0).any() and (fast.ncc > 0.9).sum() > 100  # some windows leave the picture
    np.testing.assert_allclose(fast.ncc, slow.ncc, atol=2e-3)
    np.testing.assert_allclose(fast.information, slow.information, rtol=0.03, atol=0.5)
    good = fast.ncc > 0.9
    full = fast.information[good][:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    wanted = np.linalg.solve(full, fast.pull[good][..., None])[..., 0]
    # `warp` puts a patch at 0.05, -0.04 times its inverse depth: the rest of the shift is asked for.
    np.testing.assert_allclose(np.median(wanted, axis=0), shift - [0.05, -0.04], atol=0.06)


def test_steps_take_poses_to_where_the_shifts_vanish() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform([-1, -1, 3], [1, 1, 5], (60, 3))
    truth = [
        se3_exp(torch.from_numpy(np.concatenate([rng.normal(0, 0.4, 3), rng.normal(0, 0.1, 3)]))) for _ in range(4)
    ]
    start = [se3_exp(torch.from_numpy(rng.normal(0, 0.01, 6))) @ pose for pose in truth]
    focals = np.full((4, 2), 500.0)
    reference = np.arange(60) % 4
    own = np.stack(
        [truth[r].apply(torch.from_numpy(p[None]))[0].numpy() for r, p in zip(reference, places, strict=True)]
    )
    rays, inverse = own / own[:, 2:], 1.02 / own[:, 2]

    def seen(poses: list[RigidTransform], i: int, j: int, place: np.ndarray) -> np.ndarray:
        moved = (poses[j] @ poses[i].inverse()).apply(torch.from_numpy(place[None]))[0].numpy()
        return moved[:2] / moved[2] * 500

    poses = start
    for _ in range(8):
        rows = [(int(reference[k]), j, k) for k in range(60) for j in range(4) if j != reference[k]]
        now = rays / inverse[:, None]
        error = np.array([seen(truth, i, j, own[k]) - seen(poses, i, j, now[k]) for i, j, k in rows])
        i, j, k = np.array(rows).T
        information = np.tile([100.0, 0.0, 100.0], (len(rows), 1))
        observed = Observed(i, j, k, now[k], information, 100.0 * error)
        rotations = np.stack([p.rotation.numpy() for p in poses])
        translations = np.stack([p.translation.numpy() for p in poses])
        moves, depths = solve_step(observed, 60, rotations, translations, focals, np.full((4, 6), 1e-3), 1e-6)
        poses = [se3_exp(torch.from_numpy(m)) @ p for m, p in zip(moves, poses, strict=True)]
        inverse = inverse * np.exp(depths)
    assert np.abs(error).max() < 1e-3
    assert _worst_turn(poses, truth) < 1e-4 < 0.1 < _worst_turn(start, truth)


def _worst_turn(found: list[RigidTransform], truth: list[RigidTransform]) -> float:
    """Largest rotation error in degrees, once both are in one frame."""
    a, b = RigidTransform.stack(found), RigidTransform.stack(truth)
    moved = align_poses(a, b).move_pose(a)
    return math.degrees(float(angle_between(moved.rotation, b.rotation).max()))


def _bumpy_ball() -> TexturedMesh:
    theta, phi = np.meshgrid(np.linspace(0.01, math.pi - 0.01, 60), np.linspace(0, 2 * math.pi, 120), indexing="ij")
    radius = 1 + 0.12 * np.sin(3 * phi) * np.sin(2 * theta)
    points = radius[..., None] * np.stack([np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)], -1)
    index = np.arange(theta.size).reshape(theta.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    uv = np.stack([phi / (2 * math.pi), theta / math.pi], axis=-1).reshape(-1, 2)[faces]
    texture = torch.from_numpy(_texture(128, 256, 3) / 255).expand(3, -1, -1).float().contiguous()
    return TexturedMesh(torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(faces), torch.from_numpy(uv), texture)


@pytest.fixture(scope="module")
def ball() -> list[View]:
    """A third of a ring of cameras around a bumpy ball with blurred noise on it."""
    mesh = _bumpy_ball()
    cameras = orbit(mesh.vertices, 15, size=200, elevations_deg=(0.0, 15.0))[:5]
    views = [render_mesh(mesh, camera, pose, supersampling=3, sky=(0.2, 1.0, 0.1)) for camera, pose in cameras]
    return [View(f"{k}.png", v.camera, v.cam_from_world, v.rgb, v.mask) for k, v in enumerate(views)]


def test_disturbed_cameras_come_back(ball: list[View]) -> None:
    truth = [view.cam_from_world for view in ball]
    generator = torch.Generator().manual_seed(2)
    moves = torch.randn(len(ball), 6, generator=generator, dtype=torch.float64)
    moves = moves / moves.norm(dim=1, keepdim=True) * math.radians(0.5)
    start = [se3_exp(m) @ pose for m, pose in zip(moves, truth, strict=True)]
    views = [replace(view, cam_from_world=pose) for view, pose in zip(ball, start, strict=True)]
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    images = {view.name: PosedImage(0, view.cam_from_world) for view in views}
    scene = Scene({0: ball[0].camera}, images, nothing, nothing.to(torch.uint8), nothing[:, 0], Tracks.empty())
    found = align_views(views, scene, AlignConfig(patches=200, rounds=2, neighbours=3))
    before, after = _worst_turn(start, truth), _worst_turn([found[view.name] for view in views], truth)
    assert after < 0.12 < 0.3 < before


def test_what_shows_nothing_in_common_stays() -> None:
    camera = orbit(torch.eye(3), 2, size=64)[0][0]
    grey = torch.full((3, 64, 64), 0.5)
    poses = [pose for _, pose in orbit(torch.eye(3), 2, size=64)]
    views = [View(f"{k}", camera, pose, grey, torch.ones(64, 64, dtype=torch.bool)) for k, pose in enumerate(poses)]
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    images = {view.name: PosedImage(0, view.cam_from_world) for view in views}
    scene = Scene({0: camera}, images, nothing, nothing.to(torch.uint8), nothing[:, 0], Tracks.empty())
    found = align_views(views, scene)
    for view in views:
        torch.testing.assert_close(found[view.name].matrix(), view.cam_from_world.matrix())
