"""Patches from the correspondences of any matcher between neighbouring views, triangulated pair by pair.

Kotovenko et al., "EDGS", 2025, section 3.2: linear triangulation, reprojection error as the test of a match.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from vision3d.core import Correspondences, Image, Progress, RigidTransform, View, silent
from vision3d.geometry.triangulation import reprojection_errors, triangulate_dlt, triangulation_angle
from vision3d.matching.base import Matcher
from vision3d.recon.stereo.point_patches import oriented_patches
from vision3d.recon.stereo.sampling import Patches

MAX_ERROR_PX = 2.0
MIN_ANGLE_DEG = 1.0


def match_views(
    views: Sequence[View], sources: Sequence[Sequence[int]], matcher: Matcher, target: int, progress: Progress = silent
) -> tuple[Patches, list[Float[np.ndarray, "h w"]]]:
    """Patches of all matched pairs, at most about `target`, and per view the depth at its matched pixels (0 elsewhere).

    A point counts if it lies in front of both cameras, reprojects within 2 px and has its rays 1 degree apart.
    """
    images = [Image(view.rgb, view.name, (view.camera.width, view.camera.height)) for view in views]
    pairs = sorted({(min(i, j), max(i, j)) for i, theirs in enumerate(sources) for j in theirs})
    points, owners, scores = [], [], []
    progress("matching views", 0, len(pairs))
    for done, (i, j) in enumerate(pairs):
        found, world = _triangulated(views[i], views[j], matcher.match(images[i], images[j]))
        points.append(world)
        owners.append(np.full(len(world), i))
        scores.append(found.scores.double().numpy())
        progress("matching views", done + 1, len(pairs))
    if not points:
        return Patches.empty(), [np.zeros(view.mask.shape, np.float32) for view in views]
    patches = oriented_patches(
        np.concatenate(points), np.concatenate(owners), 0.25 + 0.75 * np.concatenate(scores).clip(0, 1), views
    )
    if len(patches) > target:  # the surest, of equally sure ones the first
        patches = patches.select(np.sort(np.argsort(-patches.confidence, kind="stable")[:target]))
    return patches, [_depth_at(view, patches.points[patches.view == i]) for i, view in enumerate(views)]


def _triangulated(view0: View, view1: View, found: Correspondences) -> tuple[Correspondences, Float[np.ndarray, "n 3"]]:
    """The matches that make a sound point, and these points in the world."""
    pixels = torch.stack([found.points0, found.points1], dim=1).double()
    keep = _shown(view0, pixels[:, 0]) & _shown(view1, pixels[:, 1])
    found, pixels = found.select(keep), pixels[keep]
    if not len(found):
        return found, np.zeros((0, 3))
    rays = torch.stack([view0.camera.unproject(pixels[:, 0]), view1.camera.unproject(pixels[:, 1])], dim=1)
    poses = [view0.cam_from_world, view1.cam_from_world]
    both = RigidTransform.stack(poses)
    world = triangulate_dlt(both, rays)
    angle = triangulation_angle(world, poses[0].center(), poses[1].center())
    sound = torch.isfinite(world).all(dim=1) & (angle > np.radians(MIN_ANGLE_DEG))
    for k, view in enumerate((view0, view1)):
        sound &= reprojection_errors(world, view.camera, view.cam_from_world, pixels[:, k]) < MAX_ERROR_PX
    return found.select(sound), world[sound].numpy()


def _shown(view: View, pixels: torch.Tensor) -> torch.Tensor:
    height, width = view.mask.shape
    column, row = pixels.floor().long().unbind(dim=1)
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    return inside & view.mask[row.clamp(0, height - 1), column.clamp(0, width - 1)]


def _depth_at(view: View, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "h w"]:
    depth = np.zeros(view.mask.shape, np.float32)
    in_cam = view.cam_from_world.apply(torch.from_numpy(points))
    pixels, front = view.camera.project(in_cam)
    keep = front & _shown(view, pixels)
    column, row = pixels[keep].floor().long().T.numpy()
    depth[row, column] = in_cam[keep, 2].numpy()
    return depth
