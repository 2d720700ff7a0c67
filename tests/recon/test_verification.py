"""Two-view verification on exact scenes: mask, pose and the name of each kind of pair."""

import numpy as np
import pytest
import torch
from synthetic_matches import ring, worst_errors

from vision3d.core import Camera, Correspondences, RigidTransform
from vision3d.geometry.false_alarms import epipolar_chance, log10_nfa
from vision3d.recon.verification import VerificationConfig, fundamental_from_pose, verify_pair

CAMERA = Camera(640, 480, (700.0, 700.0), (320.0, 240.0))


def _correspondences(x0: np.ndarray, x1: np.ndarray) -> Correspondences:
    return Correspondences(torch.from_numpy(x0), torch.from_numpy(x1), torch.ones(len(x0)))


def _noisy(x: np.ndarray) -> np.ndarray:
    return x + np.random.default_rng(3).normal(scale=0.3, size=x.shape)


@pytest.mark.parametrize("calibrated", [True, False])
def test_inliers_and_pose_of_a_general_scene(calibrated: bool) -> None:
    scene = ring(2)
    a, b = scene.names
    matches = scene.matches((a, b), np.random.default_rng(0), share=0.5, outliers=100)
    geometry = verify_pair(matches, CAMERA, CAMERA, calibrated=calibrated)
    assert geometry.kind == ("calibrated" if calibrated else "uncalibrated")
    right = len(matches) - 100
    assert geometry.inliers[:right].double().mean() > 0.97
    assert geometry.inliers[right:].double().mean() < 0.1
    assert geometry.log10_nfa < -50
    if calibrated:
        assert geometry.cam1_from_cam0 is not None
        poses = {a: RigidTransform.identity(), b: geometry.cam1_from_cam0}
        assert max(worst_errors(poses, scene.poses)) < 1.0
    assert geometry.fundamental is not None
    ones = torch.ones(right, 1, dtype=torch.float64)
    x0 = torch.cat([torch.from_numpy(scene.pixels[a])[:right], ones], 1)
    x1 = torch.cat([torch.from_numpy(scene.pixels[b])[:right], ones], 1)
    line = x0 @ geometry.fundamental.mT
    distance = (line * x1).sum(1).abs() / line[:, :2].norm(dim=1)
    assert distance.median() < 1.0


def test_fundamental_matrix_of_a_pose_has_the_points_on_their_lines() -> None:
    scene = ring(2)
    a, b = (scene.poses[n] for n in scene.names)
    fundamental = fundamental_from_pose(b @ a.inverse(), CAMERA, CAMERA)
    ones = torch.ones(len(scene.points), 1, dtype=torch.float64)
    x0, x1 = (torch.cat([torch.from_numpy(scene.pixels[n]), ones], 1) for n in scene.names)
    assert ((x0 @ fundamental.mT) * x1).sum(1).abs().max() < 1e-6


def test_a_plane_is_named() -> None:
    scene = ring(2, step_deg=30, planar=True)
    x0, x1 = (_noisy(scene.pixels[n]) for n in scene.names)
    assert verify_pair(_correspondences(x0, x1), CAMERA, CAMERA, calibrated=True).kind == "planar"


def test_a_camera_that_only_turns_is_named() -> None:
    scene = ring(1)
    pose = scene.poses[scene.names[0]]
    angle = 0.15
    turn = torch.tensor(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]], dtype=torch.float64
    )
    turned = RigidTransform(turn @ pose.rotation, turn @ pose.translation)
    x0 = _noisy(scene.pixels[scene.names[0]])
    x1 = CAMERA.project(turned.apply(torch.from_numpy(scene.points)))[0].numpy()
    assert verify_pair(_correspondences(x0, x1), CAMERA, CAMERA, calibrated=True).kind == "panoramic"


def test_the_same_photo_twice_is_named() -> None:
    x = ring(1).pixels["photo 00.jpg"]
    assert verify_pair(_correspondences(x, x.copy()), CAMERA, CAMERA, calibrated=False).kind == "identical"


@pytest.mark.parametrize("calibrated", [True, False])
def test_random_matches_are_rejected(calibrated: bool) -> None:
    rng = np.random.default_rng(1)
    for n in (20, 60, 300):
        x0, x1 = rng.random((2, n, 2)) * np.array([640, 480])
        geometry = verify_pair(_correspondences(x0, x1), CAMERA, CAMERA, calibrated=calibrated)
        assert geometry.kind == "rejected"
        assert geometry.num_inliers == 0
        assert geometry.reason


def test_few_matches_are_rejected_with_their_number() -> None:
    for n in (0, 3, 14):
        geometry = verify_pair(_correspondences(np.zeros((n, 2)), np.zeros((n, 2))), CAMERA, CAMERA, calibrated=True)
        assert geometry.kind == "rejected"
        assert geometry.reason == f"only {n} matches"
        assert geometry.inliers.shape == (n,)


def test_thresholds_follow_the_size_of_the_photos() -> None:
    scene = ring(2)
    matches = scene.matches((scene.names[0], scene.names[1]), np.random.default_rng(0))
    large = Correspondences(matches.points0 * 8, matches.points1 * 8, matches.scores)
    camera = CAMERA.resized(640 * 8, 480 * 8)
    small = verify_pair(matches, CAMERA, CAMERA, calibrated=True)
    big = verify_pair(large, camera, camera, calibrated=True)
    assert abs(small.num_inliers - big.num_inliers) < 0.15 * small.num_inliers


def test_the_same_seed_gives_the_same_result() -> None:
    scene = ring(2)
    matches = scene.matches((scene.names[0], scene.names[1]), np.random.default_rng(0))
    first, second = (verify_pair(matches, CAMERA, CAMERA, VerificationConfig(seed=5), calibrated=True) for _ in "ab")
    assert torch.equal(first.inliers, second.inliers)
    assert first.fundamental is not None and second.fundamental is not None
    assert torch.equal(first.fundamental, second.fundamental)


def test_false_alarms_fall_with_agreement() -> None:
    values = [log10_nfa(100, k, 7, epipolar_chance(2.0, 640, 480)) for k in (7, 10, 20, 50, 100)]
    assert values[0] == float("inf")
    assert values[1:] == sorted(values[1:], reverse=True)
    # 40 random matches give about 12 inliers of the best of many fundamental matrices: that must count as chance.
    assert log10_nfa(40, 12, 7, epipolar_chance(2.0, 640, 480)) > 0
