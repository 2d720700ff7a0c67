"""Points without normals to oriented patches: the plane through each point's nearest neighbours.

Hoppe et al., "Surface Reconstruction from Unorganized Points", SIGGRAPH 1992, section 3.1 (tangent planes).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from vision3d.core import Scene, View
from vision3d.recon.stereo.sampling import Patches, world_projection

NEAREST = 12
LONE = 4.0  # a point this many times further from its neighbours than is usual is an outlier
SPARSE_CONFIDENCE = 0.15


def oriented_patches(
    points: Float[np.ndarray, "n 3"],
    owners: Int[np.ndarray, " n"],
    confidence: Float[np.ndarray, " n"],
    views: Sequence[View],
) -> Patches:
    """Patches at world points seen in the views `owners`; of points that nearly coincide the surest is kept.

    Lone points are dropped, and so are all where there are fewer than 4: they have no surface.
    """
    if len(points) < 4:
        return Patches.empty()
    typical = float(np.median(cKDTree(points).query(points, k=2)[0][:, 1]))
    keep = _thinned(points, confidence, 0.5 * typical)
    points, owners, confidence = points[keep], owners[keep], confidence[keep]
    if len(points) < 4:
        return Patches.empty()
    distance, near = cKDTree(points).query(points, k=min(NEAREST, len(points)))
    spacing = distance[:, 1:4].mean(axis=1)
    sound = (spacing < LONE * np.median(spacing)) & (spacing > 0)
    local = points[near] - points[near].mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(
        np.einsum("nki,nkj->nij", local, local) / np.maximum(spacing, 1e-300)[:, None, None] ** 2
    )
    normal = vectors[:, :, 0]
    centers = np.stack([view.cam_from_world.center().double().numpy() for view in views])
    towards = centers[owners] - points
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    facing = (normal * towards).sum(axis=1)
    normal = normal * np.where(facing < 0, -1, 1)[:, None]
    normal = np.where(np.abs(facing)[:, None] < 0.17, towards, normal)  # seen edge-on: a bad fit, not a surface
    colors = _colors(points, owners, views)
    return Patches(points, normal, spacing, colors, confidence, owners.astype(np.int64)).select(sound)


def sparse_patches(scene: Scene, views: Sequence[View], accepted: Patches) -> Patches:
    """Patches at the scene's points that no accepted patch is near, with low confidence."""
    names = {view.name: k for k, view in enumerate(views)}
    index = np.array([names.get(name, -1) for name in scene.tracks.images], np.int64)
    point = scene.tracks.point.numpy()
    if not len(point):
        return Patches.empty()
    image = index[scene.tracks.image.numpy()]
    point, image = point[image >= 0], image[image >= 0]
    owner = np.full(len(scene.points), -1, np.int64)
    owner[point[::-1]] = image[::-1]  # the first view that saw it
    used = np.flatnonzero(owner >= 0)
    patches = oriented_patches(
        scene.points.double().numpy()[used], owner[used], np.full(len(used), SPARSE_CONFIDENCE), views
    )
    if not len(patches) or not len(accepted):
        return patches
    distance, nearest = cKDTree(accepted.points).query(patches.points)
    return patches.select(distance > 2 * np.maximum(accepted.spacings[nearest], 0.5 * patches.spacings))


def _thinned(points: Float[np.ndarray, "n 3"], confidence: Float[np.ndarray, " n"], size: float) -> np.ndarray:
    """Indices of the surest point of every cube of side `size`."""
    if not size > 0:
        return np.unique(points, axis=0, return_index=True)[1]
    cell = np.floor((points - points.min(axis=0)) / size)
    order = np.lexsort((np.arange(len(points)), -confidence))
    _, first = np.unique(cell[order], axis=0, return_index=True)
    return np.sort(order[first])


def _colors(
    points: Float[np.ndarray, "n 3"], owners: Int[np.ndarray, " n"], views: Sequence[View]
) -> Float[np.ndarray, "n 3"]:
    colors = np.zeros((len(points), 3))
    for i, view in enumerate(views):
        mine = np.flatnonzero(owners == i)
        if len(mine):
            x, y, z = world_projection(view) @ np.concatenate([points[mine], np.ones((len(mine), 1))], axis=1).T
            height, width = view.mask.shape
            column = np.floor(x / np.where(z > 0, z, 1)).clip(0, width - 1).astype(np.int64)
            row = np.floor(y / np.where(z > 0, z, 1)).clip(0, height - 1).astype(np.int64)
            colors[mine] = view.rgb[:, row, column].T.double().numpy()
    return colors
