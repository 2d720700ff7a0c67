"""Poses disturbed by a degree and a hundredth of the distance come back, with look-alikes among the pairs too."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic_matches import PointScene, ring, worst_errors

from vision3d.core import Correspondences, RigidTransform
from vision3d.errors import Vision3DError
from vision3d.geometry.rotation import rotation_angle, rotation_exp
from vision3d.recon.known_poses import refine_known_poses
from vision3d.recon.sfm import SfmResult
from vision3d.recon.view_graph import VerifiedPair


def _disturbed(scene: PointScene) -> dict[str, RigidTransform]:
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, pose in scene.poses.items():
        turn, shift = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        rotation = rotation_exp(turn / turn.norm() * math.radians(1)) @ pose.rotation
        center = pose.center() + 0.01 * pose.center().norm() * shift / shift.norm()
        found[name] = RigidTransform(rotation, -(rotation @ center))
    return found


def _worst_turn(result: SfmResult, scene: PointScene) -> float:
    assert result.scene is not None
    found = {name: image.cam_from_world for name, image in result.scene.images.items()}
    assert sorted(found) == scene.names
    turns = [
        rotation_angle(
            (found[b] @ found[a].inverse()).rotation @ (scene.poses[b] @ scene.poses[a].inverse()).rotation.T
        )
        for a in scene.names
        for b in scene.names
    ]
    return math.degrees(float(torch.stack(turns).max()))


def test_disturbed_poses_come_back() -> None:
    scene = ring(6)
    start = _disturbed(scene)
    assert worst_errors(start, scene.poses)[0] > 0.9
    result = refine_known_poses(scene.priors(), start, scene.verified(calibrated=True))
    assert _worst_turn(result, scene) < 0.1


def test_pairs_of_look_alikes_do_not_count() -> None:
    scene = ring(6)
    pairs = scene.verified(calibrated=True)
    turned = RigidTransform(
        rotation_exp(torch.tensor([math.radians(60), 0.0, 0.0], dtype=torch.float64)), torch.ones(3)
    )
    ends = (scene.names[0], scene.names[-1])
    wrong = pairs[ends]
    rng = np.random.default_rng(0)
    shifted = torch.from_numpy(rng.normal(scale=8.0, size=wrong.matches.points1.shape)) + 15.0
    matches = Correspondences(wrong.matches.points0, wrong.matches.points1 + shifted, wrong.matches.scores)
    geometry = replace(wrong.geometry, kind="calibrated", cam1_from_cam0=turned)
    clean = refine_known_poses(scene.priors(), _disturbed(scene), {k: p for k, p in pairs.items() if k != ends})
    mixed = refine_known_poses(
        scene.priors(), _disturbed(scene), pairs | {ends: VerifiedPair(matches, geometry, len(matches))}
    )
    assert clean.scene is not None and mixed.scene is not None
    assert _worst_turn(mixed, scene) < 0.1
    for name, image in clean.scene.images.items():
        torch.testing.assert_close(image.cam_from_world.rotation, mixed.scene.images[name].cam_from_world.rotation)


def test_photos_that_end_far_from_their_poses_are_refused() -> None:
    scene = ring(6)
    start = _disturbed(scene)
    name = scene.names[2]
    turn = rotation_exp(torch.tensor([0.0, 0.0, math.radians(15)], dtype=torch.float64))
    start[name] = RigidTransform(turn @ start[name].rotation, turn @ start[name].translation)
    with pytest.raises(Vision3DError, match=rf"1 of 6 photos by more than 10 degrees .*{name} by 1[0-9]\)"):
        refine_known_poses(scene.priors(), start, scene.verified(calibrated=True))


def test_photos_without_matches_cannot_refine_poses() -> None:
    scene = ring(6)
    with pytest.raises(Vision3DError, match="no two photos with poses have verified matches"):
        refine_known_poses(scene.priors(), _disturbed(scene), {})
