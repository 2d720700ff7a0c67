"""Cameras around four balls without any texture: their outlines alone bring disturbed poses back."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vision3d.core import Camera, CameraPrior, Correspondences, RigidTransform
from vision3d.data.mesh_dataset import look_at
from vision3d.data.photos import PhotoInfo, scan_folder
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import angle_between
from vision3d.geometry.similarity import align_poses
from vision3d.recon.known_poses import refine_by_outlines
from vision3d.recon.outlines import (
    Outlines,
    align_outlines,
    find_outlines,
    normal_equations,
    spread_px,
    tangencies,
)
from vision3d.recon.photometric.step import Observed, solve_step
from vision3d.recon.verification import TwoViewGeometry
from vision3d.recon.view_graph import VerifiedPair

SIZE, FOCAL, DISTANCE = 512, 450.0, 3.0
CAMERA = Camera(SIZE, SIZE, (FOCAL, FOCAL), (SIZE / 2, SIZE / 2))
BALLS = ((0.0, 0.0, 0.0, 0.4), (0.9, 0.3, 0.1, 0.25), (-0.3, 0.9, 0.4, 0.25), (0.1, -0.6, -0.8, 0.25))  # centre, radius


def _mask(pose: RigidTransform) -> np.ndarray:
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    ray = torch.stack([(x - SIZE / 2) / FOCAL, (y - SIZE / 2) / FOCAL, torch.ones_like(x)], dim=-1).double()
    ray = ray / ray.norm(dim=-1, keepdim=True)
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for *center, radius in BALLS:
        place = pose.apply(torch.tensor([center], dtype=torch.float64))[0]
        mask |= place @ place - (ray @ place) ** 2 < radius**2
    return mask.numpy()


def _truth(count: int = 12) -> dict[str, RigidTransform]:
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    poses = {}
    for k in range(count):
        azimuth, elevation = 2 * math.pi * k / count, math.radians((-20, 10, 40)[k % 3])
        side = math.cos(elevation)
        center = [side * math.cos(azimuth), math.sin(elevation), side * math.sin(azimuth)]
        poses[f"{k:02d}.png"] = look_at(DISTANCE * torch.tensor(center, dtype=torch.float64), 0 * up, up)
    return poses


def _photos(folder: Path, poses: dict[str, RigidTransform]) -> list[PhotoInfo]:
    for kind in ("photos", "masks"):
        (folder / kind).mkdir()
    for name, pose in poses.items():
        mask = _mask(pose)
        Image.fromarray(np.where(mask[..., None], 200, 30).astype(np.uint8).repeat(3, axis=2)).save(
            folder / "photos" / name
        )
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
    return scan_folder(folder / "photos", folder / "masks")[0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[PhotoInfo]:
    return _photos(tmp_path_factory.mktemp("balls"), _truth())


@pytest.fixture(scope="module")
def outlines(photos: list[PhotoInfo]) -> Outlines:
    return find_outlines(photos, dict.fromkeys(_truth(), CAMERA))


def _disturbed(seed: int) -> dict[str, RigidTransform]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, pose in _truth().items():
        move = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        move = move / move.norm(dim=1, keepdim=True) * torch.tensor([[0.01 * DISTANCE], [math.radians(1)]])
        found[name] = se3_exp(move.reshape(6)) @ pose
    return found


def _turns_deg(found: dict[str, RigidTransform]) -> Tensor:
    truth = _truth()
    a, b = (RigidTransform.stack([poses[name] for name in truth]) for poses in (found, truth))
    return torch.rad2deg(angle_between(align_poses(a, b).move_pose(a).rotation, b.rotation))


def test_true_poses_agree_with_outlines(outlines: Outlines) -> None:
    found = tangencies(outlines, list(_truth().values()))
    assert len(found.off) > 1.5 * 6 * 12
    assert np.abs(found.off).max() < 1.0 and np.median(np.abs(found.off)) < 0.2


def test_slopes_are_derivatives(outlines: Outlines) -> None:
    poses = list(_disturbed(3).values())
    found = tangencies(outlines, poses)
    moves = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 6)) * 1e-6)
    steps = se3_exp(moves)
    after = tangencies(
        outlines, [RigidTransform(steps.rotation[k], steps.translation[k]) @ poses[k] for k in range(12)]
    )
    both = np.concatenate([moves.numpy()[found.i], moves.numpy()[found.j]], axis=1)
    np.testing.assert_allclose(after.off - found.off, (found.slope * both).sum(axis=1), rtol=0.05, atol=2e-5)
    matrix, right = normal_equations(found, 12, 1.0)
    weight = 1 / (1 + (found.off / 3) ** 2)
    assert moves.numpy().ravel() @ right == pytest.approx(
        -(weight * found.off * (found.slope * both).sum(axis=1)).sum()
    )
    assert np.linalg.eigvalsh(matrix).min() > -1e-6 * np.trace(matrix)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_disturbed_poses_come_back(outlines: Outlines, seed: int) -> None:
    start = _disturbed(seed)
    found, spread = align_outlines(outlines, start)
    assert spread < 0.2
    before, after = _turns_deg(start), _turns_deg(found)
    assert after.median() < 0.3 < 0.7 < before.median()
    assert after.max() < 0.8 < 1.0 < before.max()


def test_masks_of_no_rigid_thing_are_not_believed(outlines: Outlines) -> None:
    rng = np.random.default_rng(0)
    rays = []
    for ray in outlines.rays:
        moved = ray / ray[:, 2:] + np.array([*rng.normal(0, 0.08, 2), 0])
        moved[:, :2] *= rng.uniform(0.7, 1.3)
        rays.append(moved / np.linalg.norm(moved, axis=1, keepdims=True))
    other = Outlines(outlines.names, tuple(rays), outlines.focals, outlines.pixel)
    start = _disturbed(0)
    found, spread = align_outlines(other, start)
    assert spread == float("inf") and found == start


def test_few_outlines_do_not_show_whether_they_fit(outlines: Outlines) -> None:
    few = Outlines(outlines.names[:5], outlines.rays[:5], outlines.focals[:5], outlines.pixel)
    assert spread_px(tangencies(few, list(_truth().values())[:5])) == float("inf")


def test_masks_at_the_border_and_photos_without_one_have_no_outline(tmp_path: Path) -> None:
    poses = dict(list(_truth().items())[:3])
    photos = _photos(tmp_path, poses)
    mask = np.array(Image.open(tmp_path / "masks" / "01.png"))
    mask[200:, :] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "01.png")
    (tmp_path / "masks" / "02.png").unlink()
    photos = scan_folder(tmp_path / "photos", tmp_path / "masks")[0]
    assert find_outlines(photos, dict.fromkeys(poses, CAMERA)).names == ("00.png",)


def _pair(a: str, b: str, shift: float) -> VerifiedPair:
    """Matches of points on the first ball, those in the second photo moved up; verified with a wrong rotation."""
    truth = _truth()
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 3)) * 0.3)
    ends = [CAMERA.project(truth[name].apply(points))[0] for name in (a, b)]
    matches = Correspondences(ends[0], ends[1] + torch.tensor([0.0, shift]), torch.ones(30))
    wrong = se3_exp(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.5, 0.0], dtype=torch.float64))
    return VerifiedPair(
        matches, TwoViewGeometry("calibrated", torch.ones(30, dtype=torch.bool), wrong, None, -9.0, None), 30
    )


def test_outlines_hold_photos_and_judge_matches(outlines: Outlines) -> None:
    priors = {name: CameraPrior(CAMERA, "given", 0) for name in _truth()}
    start = _disturbed(1)
    right, wrong = ("00.png", "01.png"), ("04.png", "05.png")
    pairs = {right: _pair(*right, 0.0), wrong: _pair(*wrong, 60.0)}
    result = refine_by_outlines(priors, start, pairs, outlines)
    assert result is not None and result.scene is not None and not result.left_out
    assert sorted(result.scene.images) == sorted(start)
    assert _turns_deg({n: image.cam_from_world for n, image in result.scene.images.items()}).median() < 0.3
    seen = {result.scene.tracks.images[k] for k in result.scene.tracks.image.tolist()}
    assert seen == set(right)


def test_without_all_outlines_matches_have_to_do(outlines: Outlines) -> None:
    priors = {name: CameraPrior(CAMERA, "given", 0) for name in _truth()}
    some = Outlines(outlines.names[1:], outlines.rays[1:], outlines.focals[1:], outlines.pixel)
    assert refine_by_outlines(priors, _disturbed(1), {}, some) is None


def test_steps_of_the_alignment_follow_outlines_where_nothing_has_texture(outlines: Outlines) -> None:
    poses = list(_disturbed(1).values())
    nothing = np.zeros(0, np.int64)
    observed = Observed(nothing, nothing, nothing, np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2)))
    before = spread_px(tangencies(outlines, poses))
    for _ in range(5):
        known = normal_equations(tangencies(outlines, poses), 12, 0.2)
        rotations = np.stack([pose.rotation.numpy() for pose in poses])
        translations = np.stack([pose.translation.numpy() for pose in poses])
        moves, _ = solve_step(observed, 0, rotations, translations, np.full((12, 2), FOCAL), np.ones((12, 6)), 0, known)
        steps = se3_exp(torch.from_numpy(moves))
        poses = [RigidTransform(steps.rotation[k], steps.translation[k]) @ pose for k, pose in enumerate(poses)]
    assert spread_px(tangencies(outlines, poses)) < 0.3 < 3 < before
