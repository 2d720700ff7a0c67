"""The canonical frame: the same for every similar copy of a scene, and nothing else changes."""

from dataclasses import replace

import torch
from scipy.spatial.transform import Rotation

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks
from vision3d.recon.gauge import canonical


def _scene(seed: int) -> Scene:
    dice = torch.Generator().manual_seed(seed)
    images = {
        name: PosedImage(
            1,
            RigidTransform(
                torch.from_numpy(Rotation.random(random_state=i).as_matrix()),
                torch.randn(3, generator=dice, dtype=torch.float64),
            ),
        )
        for i, name in enumerate(("b", "a", "c"))
    }
    points = torch.randn(20, 3, generator=dice, dtype=torch.float64)
    camera = Camera(640, 480, (500.0, 500.0), (320.0, 240.0))
    return Scene({1: camera}, images, points, torch.zeros(20, 3, dtype=torch.uint8), torch.zeros(20), Tracks.empty())


def test_similar_scenes_become_equal() -> None:
    scene = _scene(0)
    turn = torch.from_numpy(Rotation.random(random_state=9).as_matrix())
    shift, scale = torch.tensor([3.0, -1, 2], dtype=torch.float64), 4.2
    images = {}
    for name, image in scene.images.items():
        old = image.cam_from_world
        # x_new = scale * turn @ x_old + shift
        rotation = old.rotation @ turn.T
        images[name] = PosedImage(1, RigidTransform(rotation, scale * old.translation - rotation @ shift))
    points = scale * scene.points @ turn.T + shift
    other = Scene(scene.cameras, images, points, scene.colors, scene.errors, scene.tracks)
    first, second = canonical(scene), canonical(other)
    torch.testing.assert_close(first.points, second.points)
    for name in images:
        torch.testing.assert_close(
            first.images[name].cam_from_world.matrix(), second.images[name].cam_from_world.matrix()
        )
    torch.testing.assert_close(first.images["a"].cam_from_world.matrix(), torch.eye(4, dtype=torch.float64))
    centers = torch.stack([image.cam_from_world.center() for image in first.images.values()])
    assert abs(float(torch.cdist(centers, centers).max()) - 1) < 1e-12


def test_projections_stay() -> None:
    scene = _scene(1)
    moved = canonical(scene)
    for name in scene.images:
        before, front = scene.camera_of(name).project(scene.images[name].cam_from_world.apply(scene.points))
        after, _ = scene.camera_of(name).project(moved.images[name].cam_from_world.apply(moved.points))
        torch.testing.assert_close(before[front], after[front])


def test_the_order_of_the_points_is_that_of_their_observations() -> None:
    dice = torch.Generator().manual_seed(5)
    scene = _scene(2)
    point, image = torch.randint(0, 18, (60,), generator=dice), torch.arange(60) // 20  # two points nobody sees
    tracks = Tracks(("b", "a", "c"), point, image, torch.rand(60, 2, generator=dice, dtype=torch.float64))
    errors, colors = torch.arange(20.0), torch.arange(60, dtype=torch.uint8).reshape(20, 3)
    scene = replace(scene, tracks=tracks, errors=errors, colors=colors)
    seen, away = len(point.unique()), torch.randperm(20, generator=dice)
    shuffled = replace(
        scene,
        points=scene.points[away],
        errors=errors[away],
        colors=colors[away],
        tracks=replace(tracks, point=torch.argsort(away)[point]),
    )
    first, second = canonical(scene), canonical(shuffled)
    assert torch.equal(first.points[:seen], second.points[:seen]) and torch.equal(
        first.errors[:seen], second.errors[:seen]
    )
    assert torch.equal(first.tracks.point, second.tracks.point) and torch.equal(
        first.colors[:seen], second.colors[:seen]
    )
    assert torch.equal(first.errors[first.tracks.point], errors[point])  # observations kept their points
    assert first.tracks.point[0] == 0
