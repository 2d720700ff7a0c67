"""Poses from verified pairs of exact scenes."""

import numpy as np
import pytest
import torch
from synthetic_matches import PointScene, ring, worst_errors

from vision3d.core import Camera, CameraPrior, Correspondences, RigidTransform
from vision3d.recon.known_poses import triangulate_known_poses
from vision3d.recon.sfm import SfmConfig, SfmResult, estimate_poses
from vision3d.recon.verification import verify_pair
from vision3d.recon.view_graph import VerifiedPair


def _errors(result: SfmResult, scene: PointScene) -> tuple[float, float]:
    assert result.scene is not None
    return worst_errors({n: p.cam_from_world for n, p in result.scene.images.items()}, scene.poses)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_known_intrinsics_stay_and_poses_are_right(count: int) -> None:
    scene = ring(count)
    result = estimate_poses(scene.priors(), scene.verified(calibrated=True))
    assert result.left_out == {}
    assert result.scene is not None
    assert set(result.scene.cameras.values()) == {scene.camera}
    assert max(_errors(result, scene)) < (1.0 if count == 2 else 0.5)
    assert len(result.scene.points) > 50
    assert result.scene.errors.mean() < 0.6
    assert result.intrinsics == "given intrinsics"


def test_three_photos_far_apart() -> None:
    scene = ring(3, step_deg=40)
    result = estimate_poses(scene.priors(), scene.verified(calibrated=True, share=0.25))
    assert result.left_out == {}
    assert max(_errors(result, scene)) < 1.0


@pytest.mark.parametrize(("count", "focal"), [(3, 700.0), (8, 700.0), (8, 1500.0)])
def test_unknown_focal_length_is_found(count: int, focal: float) -> None:
    scene = ring(count, focal=focal)
    result = estimate_poses(scene.priors("guess"), scene.verified(calibrated=False))
    assert result.left_out == {}
    assert result.scene is not None
    found = next(iter(result.scene.cameras.values())).focal[0]
    assert abs(found / focal - 1) < (0.1 if count == 3 else 0.05)
    assert max(_errors(result, scene)) < (4.0 if count == 3 else 2.0)


def test_large_photos_come_back_in_their_own_pixels() -> None:
    scene = ring(5)
    pairs = {}
    camera = scene.camera.resized(6400, 4800)
    for pair, p in scene.verified(calibrated=True).items():
        large = Correspondences(p.matches.points0 * 10, p.matches.points1 * 10, p.matches.scores)
        pairs[pair] = VerifiedPair.of(large, verify_pair(large, camera, camera, calibrated=True))
    priors = {name: CameraPrior(camera, "given", 0) for name in scene.names}
    result = estimate_poses(priors, pairs)
    assert result.scene is not None
    assert next(iter(result.scene.cameras.values())) == camera
    assert max(_errors(result, scene)) < 0.5
    name = result.scene.tracks.images[0]
    seen = result.scene.tracks.image == 0
    pose = result.scene.images[name].cam_from_world
    projected, _ = camera.project(pose.apply(result.scene.points[result.scene.tracks.point[seen]]))
    assert (projected - result.scene.tracks.xy[seen]).norm(dim=1).median() < 10


def test_two_cameras_and_one_given() -> None:
    scene = ring(6)
    priors = scene.priors("guess", focal=900.0)
    for name in scene.names[:3]:
        priors[name] = CameraPrior(scene.camera, "given", 5)
    result = estimate_poses(priors, scene.verified(calibrated=False))
    assert result.scene is not None and result.left_out == {}
    assert result.scene.camera_of(scene.names[0]) == scene.camera
    assert abs(result.scene.camera_of(scene.names[5]).focal[0] / 700 - 1) < 0.05
    assert max(_errors(result, scene)) < 1.5


def test_photos_left_out_have_reasons() -> None:
    scene = ring(6)
    names = scene.names
    pairs = scene.verified(calibrated=True)
    alone, pair = names[0], set(names[1:3])
    empty = Correspondences.empty()
    for key in pairs:
        if alone in key or len(pair & set(key)) == 1:
            pairs[key] = VerifiedPair.of(empty, verify_pair(empty, scene.camera, scene.camera, calibrated=True))
    result = estimate_poses(scene.priors(), pairs)
    assert result.scene is not None
    assert set(result.scene.images) == set(names[3:])
    assert "no other photo shows the same thing" in result.left_out[alone]
    assert "only 0 matches" in result.left_out[alone]
    for name in pair:
        assert "only linked to" in result.left_out[name]


def test_nothing_in_common_is_said() -> None:
    scene = ring(3)
    result = estimate_poses(scene.priors(), {})
    assert result.scene is None
    assert result.left_out == dict.fromkeys(scene.names, "it was matched with no other photo")


def test_a_camera_that_did_not_move_is_said() -> None:
    scene = ring(1)
    x = torch.from_numpy(scene.pixels[scene.names[0]])
    same = Correspondences(x, x.clone(), torch.ones(len(x)))
    verified = VerifiedPair.of(same, verify_pair(same, scene.camera, scene.camera, calibrated=True))
    priors = {n: CameraPrior(scene.camera, "given", 0) for n in "ab"}
    result = estimate_poses(priors, {("a", "b"): verified})
    assert result.scene is None
    assert all("take photos from different places" in reason for reason in result.left_out.values())


def test_look_alike_pairs_do_not_fold_the_model() -> None:
    """Opposite photos of an object with two equal sides agree on a wrong motion among many outliers."""
    scene = ring(7, step_deg=20)
    pairs = scene.verified(calibrated=True)
    rng = np.random.default_rng(5)
    for shift, (a, b) in ((3, (0, 6)), (-2, (1, 6)), (4, (0, 5))):
        wrong = scene.pixels[scene.names[a]], scene.pixels[scene.names[min(max(b - shift, 0), 6)]]
        chosen = rng.choice(len(scene.points), 60, replace=False)
        noise = rng.random((90, 2)) * np.array([640, 480])
        ends = [
            torch.from_numpy(np.concatenate([w[chosen], noise if k else rng.permutation(noise)]))
            for k, w in enumerate(wrong)
        ]
        matches = Correspondences(ends[0], ends[1], torch.ones(150))
        key = (scene.names[a], scene.names[b])
        pairs[key] = VerifiedPair.of(matches, verify_pair(matches, scene.camera, scene.camera, calibrated=True))
        assert pairs[key].accepted
    result = estimate_poses(scene.priors(), pairs)
    assert result.left_out == {}
    assert max(_errors(result, scene)) < 1.0


def test_the_same_seed_gives_the_same_model() -> None:
    scene = ring(5)
    first, second = (
        estimate_poses(scene.priors("guess"), scene.verified(calibrated=False), SfmConfig(seed=3)) for _ in "ab"
    )
    assert first.scene is not None and second.scene is not None
    assert torch.equal(first.scene.points, second.scene.points)
    assert first.scene.cameras == second.scene.cameras
    for name in scene.names:
        assert torch.equal(
            first.scene.images[name].cam_from_world.translation, second.scene.images[name].cam_from_world.translation
        )


def test_known_poses_are_kept_to_the_bit() -> None:
    scene = ring(5)
    poses: dict[str, RigidTransform] = {name: scene.poses[name] for name in scene.names[:4]}
    result = triangulate_known_poses(scene.priors(), poses, scene.verified(calibrated=True))
    assert result.scene is not None
    assert set(result.left_out) == {scene.names[4]}
    for name, pose in poses.items():
        assert torch.allclose(result.scene.images[name].cam_from_world.matrix(), pose.matrix(), atol=1e-9)
    near = torch.cdist(result.scene.points, torch.from_numpy(scene.points)).min(dim=1).values
    assert near.median() < 0.01
    assert set(result.scene.cameras.values()) == {scene.camera}


def test_known_poses_without_any_match_still_give_cameras() -> None:
    scene = ring(2)
    result = triangulate_known_poses(scene.priors(), scene.poses, {})
    assert result.scene is not None
    assert set(result.scene.images) == set(scene.names)
    assert len(result.scene.points) == 0


def test_progress_ends_at_its_total() -> None:
    calls: list[tuple[str, int, int]] = []
    scene = ring(3)
    estimate_poses(scene.priors(), scene.verified(calibrated=True), progress=lambda *c: calls.append(c))
    assert calls[0][1] == 0
    assert calls[-1][1] == calls[-1][2]


def test_camera_with_unequal_focal_lengths_survives() -> None:
    scene = ring(4)
    camera = Camera(640, 480, (700.0, 700.4), (321.0, 239.0))
    priors = {name: CameraPrior(camera, "given", 0) for name in scene.names}
    result = estimate_poses(priors, scene.verified(calibrated=True))
    assert result.scene is not None
    assert set(result.scene.cameras.values()) == {camera}


def test_semi_dense_matches_link_three_photos() -> None:
    """Points found up to 2 px elsewhere for every partner: nothing is seen in three photos until they are merged."""
    scene = ring(3, step_deg=25, points=250)
    rng = np.random.default_rng(2)
    pairs = {}
    for pair, found in scene.verified(calibrated=True, share=0.9).items():
        # Both ends move along the surface: the match stays right, its place changes.
        shift = torch.from_numpy(rng.uniform(-1.2, 1.2, size=(len(found.matches), 2)))
        moved = Correspondences(found.matches.points0 + shift, found.matches.points1 + shift, found.matches.scores)
        pairs[pair] = VerifiedPair.of(moved, verify_pair(moved, scene.camera, scene.camera, calibrated=True))
    result = estimate_poses(scene.priors(), pairs)
    assert result.scene is not None and result.left_out == {}
    assert max(_errors(result, scene)) < 2.0
