"""One world frame out of the many that fit equally well: photos alone fix neither place, nor direction, nor scale.

Bundle adjustment leaves the frame wherever rounding pushed it, so that the same run gives other numbers on another
machine. Here the world has the axes of the first registered photo (in order of names), the origin is its centre, and
the largest distance between two camera centres is 1. Points come in the order in which the photos first observe them,
not in the order in which threads happened to make them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vision3d.core import PosedImage, RigidTransform, Scene


def canonical(scene: Scene) -> Scene:
    """The scene in that frame and order. With all cameras in one place the scale stays as it is."""
    if not scene.images:
        return scene
    scene = _ordered(scene)
    first_from_world = scene.images[min(scene.images)].cam_from_world
    centers = torch.stack([image.cam_from_world.center() for image in scene.images.values()])
    size = float(torch.cdist(centers, centers).max())
    unit = size if size > 0 else 1.0
    world_from_first = first_from_world.inverse()

    def moved(image: PosedImage) -> PosedImage:
        cam_from_first = image.cam_from_world @ world_from_first
        return replace(image, cam_from_world=RigidTransform(cam_from_first.rotation, cam_from_first.translation / unit))

    points = first_from_world.apply(scene.points) / unit
    return replace(scene, images={name: moved(image) for name, image in scene.images.items()}, points=points)


def _ordered(scene: Scene) -> Scene:
    """Points by their first observation; those without one come last."""
    tracks = scene.tracks
    first = torch.full((len(scene.points),), len(tracks.point))
    first.scatter_reduce_(0, tracks.point, torch.arange(len(tracks.point)), "amin")
    order = torch.argsort(first, stable=True)
    return replace(
        scene,
        points=scene.points[order],
        colors=scene.colors[order],
        errors=scene.errors[order],
        tracks=replace(tracks, point=torch.argsort(order)[tracks.point]),
    )
