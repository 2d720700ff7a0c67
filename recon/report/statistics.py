"""Numbers about a scene for the report: error and observations per photo, track lengths, triangulation angles."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from vision3d.core import Scene

WEAK_POINTS, SURE_POINTS = 30, 150  # observed points under which a pose is unsure, and from which it is sure
WEAK_SHARE = 0.1  # of the median


def photo_statistics(scene: Scene) -> dict[str, tuple[int, float]]:
    """Per registered photo the number of observations and their mean reprojection error in px (NaN if none)."""
    tracks, result = scene.tracks, dict[str, tuple[int, float]]()
    counts = torch.bincount(tracks.image, minlength=len(tracks.images)).tolist()
    by_photo = torch.split(torch.argsort(tracks.image, stable=True), counts)
    for name, rows in zip(tracks.images, by_photo, strict=True):
        if name not in scene.images:
            continue
        points_in_cam = scene.images[name].cam_from_world.apply(scene.points[tracks.point[rows]].double())
        projected, front = scene.camera_of(name).project(points_in_cam)
        errors = (projected - tracks.xy[rows]).norm(dim=1)
        errors = errors[front & errors.isfinite()]
        result[name] = (len(rows), float(errors.mean()) if len(errors) else float("nan"))
    return result


def weakly_tied(scene: Scene) -> dict[str, int]:
    """Registered photos whose pose hangs on few points, with how many they observe: fewer than WEAK_POINTS, or than
    WEAK_SHARE of what photos do in the median (and fewer than SURE_POINTS)."""
    tracks = scene.tracks
    counts = torch.bincount(tracks.image, minlength=len(tracks.images)).tolist()
    seen = dict.fromkeys(scene.images, 0) | dict(zip(tracks.images, counts, strict=True))
    seen = {name: seen[name] for name in scene.images}
    usual = float(np.median(list(seen.values()))) if seen else 0.0
    limit = max(WEAK_POINTS, min(WEAK_SHARE * usual, SURE_POINTS))
    return {name: count for name, count in seen.items() if count < limit}


def track_lengths(scene: Scene) -> Int[np.ndarray, " n"]:
    """Observations of each point, without points that have none."""
    lengths = torch.bincount(scene.tracks.point, minlength=len(scene.points)).numpy()
    return lengths[lengths > 0]


def triangulation_angles_deg(scene: Scene, limit: int = 20_000) -> Float[np.ndarray, " n"]:
    """Largest angle between two rays to a point, in degrees, of an even subset of at most `limit` points."""
    order = torch.argsort(scene.tracks.point, stable=True)
    point, image = scene.tracks.point[order].numpy(), scene.tracks.image[order].numpy()
    centers = np.full((len(scene.tracks.images), 3), np.nan)
    for index, name in enumerate(scene.tracks.images):
        if name in scene.images:
            centers[index] = scene.images[name].cam_from_world.center().double().numpy()
    rays = centers[image] - scene.points.double().numpy()[point]
    with np.errstate(all="ignore"):
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)

    _, starts, lengths = np.unique(point, return_index=True, return_counts=True)
    step = max(1, -(-len(starts) // limit))
    starts, lengths = starts[::step], lengths[::step]
    angles = []
    for length in np.unique(lengths[lengths > 1]):  # points with equally many rays at once
        rows = starts[lengths == length][:, None] + np.arange(length)
        for block in np.array_split(rays[rows], -(-len(rows) * length * length // 2_000_000)):
            cosines = (block @ block.transpose(0, 2, 1)).reshape(len(block), -1).min(axis=1)
            angles.append(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
    found = np.concatenate(angles) if angles else np.zeros(0)
    return found[np.isfinite(found)]
