"""Poses that make patches of the surface look alike in all photos: stereo, then bundle adjustment on pixels.

Photometric bundle adjustment as in J. Engel, V. Koltun and D. Cremers, "Direct Sparse Odometry", 2018, with patches on
the planes of stereo (H. Alismail, B. Browning and S. Lucey, "Photometric Bundle Adjustment for Vision-Based SLAM",
2016). Texture of a kind that has no corners (spots, creases, edges) holds the poses as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int

from vision3d.core import Progress, RigidTransform, Scene, View, silent
from vision3d.data.photos import PhotoInfo
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import angle_between
from vision3d.geometry.similarity import align_poses
from vision3d.io.colmap import reconstruction_from_scene, scene_from_reconstruction
from vision3d.recon.gauge import canonical
from vision3d.recon.outlines import Outlines, normal_equations, scatter_px, tangencies
from vision3d.recon.photometric.compare import RADIUS, compare, with_gradients
from vision3d.recon.photometric.step import Observed, solve_step
from vision3d.recon.refine import RefineConfig, adjust
from vision3d.recon.stereo.consistency import FilterConfig, keep_consistent, projection, smooth_normals
from vision3d.recon.stereo.neighbours import choose_neighbours
from vision3d.recon.stereo.patchmatch import StereoConfig, estimate_planes
from vision3d.recon.views import load_views, shrunk


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignConfig:
    """Settings of align_views.

    size: longer side in px that photos are compared at. rounds: of stereo and alignment at most; settled_deg: a round
    that turns no view by more against the others is the last. levels: sizes as shares of the views', coarse to fine
    (later rounds: the last two); steps: of each level. patches: per view; least_contrast: standard deviation in grey
    levels of a patch; min_ncc: with which a patch counts in another view; facing: least cosine between a patch's
    normal and a ray; occluded: share of the depth by which another view's surface may lie before a patch. turn_deg,
    move_share: how far (standard deviation, share of the depth) a pose moves easily in a step.
    """

    size: int = 512
    rounds: int = 3
    settled_deg: float = 0.1
    neighbours: int = 4
    levels: tuple[float, ...] = (0.25, 0.5, 1.0)
    steps: int = 10
    patches: int = 500
    least_contrast: float = 4.0
    min_ncc: float = 0.6
    facing: float = 0.35
    occluded: float = 0.03
    turn_deg: float = 0.5
    move_share: float = 0.01


@dataclass(frozen=True, slots=True)
class _Patch:
    """Patches of one view: whole pixels, inverse depth at their centres and its relative slope per px, the normals (in
    the camera), at full size."""

    pixels: Int[np.ndarray, "n 2"]
    inverse: Float[np.ndarray, " n"]
    slope: Float[np.ndarray, "n 2"]
    normal: Float[np.ndarray, "n 3"]


def align_views(
    views: Sequence[View],
    scene: Scene,
    config: AlignConfig | None = None,
    progress: Progress = silent,
    outlines: Outlines | None = None,
) -> dict[str, RigidTransform]:
    """cam_from_world by name after alignment; views that show nothing of what others show keep their poses.

    scene: its points say which views belong together and how deep they look. outlines: of an object, which hold the
    poses beside the patches. The frame stays that of the views only about: see known_poses.in_frame_of.
    """
    config = config or AlignConfig()
    for turn in range(config.rounds):
        before = RigidTransform.stack([view.cam_from_world for view in views])
        progress("aligning photos", turn, config.rounds)
        hood = choose_neighbours(views, scene, config.neighbours)
        maps = estimate_planes(views, hood.sources, hood.inverse_depths, hood.unit, StereoConfig(), silent)
        kept = keep_consistent(views, maps, hood.sources, FilterConfig())
        normals = [smooth_normals(m.normal, k.depth) for m, k in zip(maps, kept, strict=True)]
        depths = [k.depth for k in kept]
        patches = [_chosen(v, d, n, config) for v, d, n in zip(views, depths, normals, strict=True)]
        for level in config.levels if turn == 0 else config.levels[-2:]:
            views, patches = _aligned(views, depths, patches, level, config, outlines)
        if _turned_deg(before, RigidTransform.stack([view.cam_from_world for view in views])) < config.settled_deg:
            break
    progress("aligning photos", config.rounds, config.rounds)
    return {view.name: view.cam_from_world for view in views}


def align_scene(
    scene: Scene,
    photos: Sequence[PhotoInfo],
    config: AlignConfig | None = None,
    progress: Progress = silent,
    outlines: Outlines | None = None,
) -> Scene:
    """The scene with aligned poses, its points moved to fit them; intrinsics stay. Masks of photos hide what is black.

    The frame stays that of the scene only about: see known_poses.in_frame_of.
    """
    config = config or AlignConfig()
    poses = align_views(load_views(scene, photos, config.size, progress), scene, config, progress, outlines)
    images = {name: replace(image, cam_from_world=poses[name]) for name, image in scene.images.items()}
    model = reconstruction_from_scene(replace(scene, images=images))
    adjust(model, set(model.cameras), RefineConfig(threads=torch.get_num_threads()), fixed_poses=True)
    return canonical(scene_from_reconstruction(model))


def _turned_deg(before: RigidTransform, after: RigidTransform) -> float:
    """The largest turn of a camera against the others."""
    moved = align_poses(before, after).move_pose(before)
    return float(torch.rad2deg(angle_between(moved.rotation, after.rotation)).max())


def _chosen(
    view: View, depth: Float[np.ndarray, "h w"], normal: Float[np.ndarray, "h w 3"], config: AlignConfig
) -> _Patch:
    """The patches with the strongest gradients, one per cell of a grid, whose whole window is on known surface."""
    grey = _grey(view)
    mean = cv2.boxFilter(grey, -1, (2 * RADIUS + 1,) * 2)
    contrast = np.sqrt((cv2.boxFilter(grey * grey, -1, (2 * RADIUS + 1,) * 2) - mean * mean).clip(0))
    size = np.ones((2 * RADIUS + 1,) * 2, np.uint8)
    known = cv2.erode(((depth > 0) & view.mask.numpy()).astype(np.uint8), size) > 0
    near = cv2.erode(np.where(depth > 0, depth, np.inf).astype(np.float32), size)
    far = cv2.dilate(depth.astype(np.float32), size)
    known &= far / 1.03 < near  # not across an edge of depth
    edge = RADIUS + 1
    inner = np.zeros_like(known)
    inner[edge:-edge, edge:-edge] = True
    score = np.where(known & inner, contrast, 0)
    cell = max(3, int(np.sqrt(max(int(known.sum()), 1) / config.patches)))
    height, width = score.shape
    tall, wide = -(-height // cell), -(-width // cell)
    padded = np.zeros((tall * cell, wide * cell), score.dtype)
    padded[:height, :width] = score
    cells = padded.reshape(tall, cell, wide, cell).transpose(0, 2, 1, 3).reshape(tall * wide, cell * cell)
    best = cells.argmax(axis=1)
    number = np.flatnonzero(cells.max(axis=1) >= config.least_contrast)
    rows = number // wide * cell + best[number] // cell
    columns = number % wide * cell + best[number] % cell
    inverse = 1 / depth[rows, columns].astype(np.float64)
    normals = normal[rows, columns].astype(np.float64)
    focal = np.array(view.camera.focal)
    pixels = np.stack([columns, rows], axis=1)
    rays = _rays(view, pixels + 0.5)
    cosine = (normals * rays).sum(axis=1)
    slope = normals[:, :2] / focal / np.where(np.abs(cosine) > 1e-9, cosine, 1)[:, None]
    facing = -cosine / np.linalg.norm(rays, axis=1) > config.facing
    return _Patch(pixels[facing], inverse[facing], slope[facing], normals[facing])


def _aligned(
    views: Sequence[View],
    depths: Sequence[np.ndarray],
    patches: Sequence[_Patch],
    level: float,
    config: AlignConfig,
    outlines: Outlines | None,
) -> tuple[list[View], list[_Patch]]:
    """Views and patches after the steps at one level."""
    small = [shrunk(view, level) for view in views]
    pictures = [with_gradients(_grey(view)) for view in small]
    pairs = [(i, j) for i in range(len(views)) for j in range(len(views)) if i != j]
    visible = {(i, j): _visible(views[i], views[j], depths[j], patches[i], config) for i, j in pairs}
    starts = np.concatenate([[0], np.cumsum([len(p.inverse) for p in patches])]).astype(np.int64)
    focals = np.array([view.camera.focal for view in small])
    deep = np.array([1 / np.median(p.inverse) if len(p.inverse) else 1.0 for p in patches])
    stiffness = np.empty((len(views), 6))
    stiffness[:, :3] = 1 / (config.move_share * deep[:, None]) ** 2
    stiffness[:, 3:] = 1 / np.radians(config.turn_deg) ** 2
    views, patches = list(views), list(patches)
    for _ in range(config.steps):
        moved = [replace(s, cam_from_world=v.cam_from_world) for s, v in zip(small, views, strict=True)]
        observed = _compared(moved, pictures, visible, patches, starts, level, config)
        known = None if outlines is None else _from_outlines(outlines, views)
        if not len(observed.point) and known is None:
            break
        rotations = np.stack([v.cam_from_world.rotation.double().numpy() for v in views])
        translations = np.stack([v.cam_from_world.translation.double().numpy() for v in views])
        moves, depth_moves = solve_step(
            observed, int(starts[-1]), rotations, translations, focals, stiffness, 1e-3, known
        )
        steps = se3_exp(torch.from_numpy(moves))
        views = [
            replace(view, cam_from_world=RigidTransform(steps.rotation[k], steps.translation[k]) @ view.cam_from_world)
            for k, view in enumerate(views)
        ]
        change = np.exp(depth_moves.clip(-0.1, 0.1))
        patches = [replace(p, inverse=p.inverse * change[starts[k] : starts[k + 1]]) for k, p in enumerate(patches)]
    return views, patches


def _from_outlines(
    outlines: Outlines, views: Sequence[View]
) -> tuple[Float[np.ndarray, "p p"], Float[np.ndarray, " p"]] | None:
    """What outlines say of the steps of all views."""
    number = {view.name: k for k, view in enumerate(views)}
    if any(name not in number for name in outlines.names):
        return None
    found = tangencies(outlines, [views[number[name]].cam_from_world for name in outlines.names])
    if not len(found.off):
        return None
    order = np.array([number[name] for name in outlines.names])
    return normal_equations(replace(found, i=order[found.i], j=order[found.j]), len(views), scatter_px(found))


def _compared(
    views: Sequence[View],
    pictures: Sequence[np.ndarray],
    visible: Mapping[tuple[int, int], Int[np.ndarray, " n"]],
    patches: Sequence[_Patch],
    starts: Int[np.ndarray, " v1"],
    level: float,
    config: AlignConfig,
) -> Observed:
    """All patches in all views that show them at one level. starts: number of the first patch of each view."""
    parts = []
    for (i, j), rows in visible.items():
        patch, (height, width) = patches[i], pictures[i].shape[:2]
        at = (patch.pixels[rows] + 0.5) * level
        pixels = np.floor(at).astype(np.int64)
        inside = (pixels >= RADIUS).all(axis=1) & (pixels < [width - RADIUS, height - RADIUS]).all(axis=1)
        rows, at, pixels = rows[inside], at[inside], pixels[inside]
        slope = patch.slope[rows] / level
        inverse = patch.inverse[rows] * (1 + (slope * (pixels + 0.5 - at)).sum(axis=1))
        planes = np.concatenate([inverse[:, None], patch.inverse[rows, None] * slope], axis=1)
        found = compare(pictures[i], pictures[j], pixels, planes, projection(views[i], views[j]))
        good = (found.ncc >= config.min_ncc) & (inverse > 0)
        places = _rays(views[i], pixels[good] + 0.5) / inverse[good, None]
        same = np.ones(len(places), np.int64)
        parts.append((i * same, j * same, starts[i] + rows[good], places, found.information[good], found.pull[good]))
    return Observed(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _visible(
    view: View, other: View, depth: Float[np.ndarray, "h w"], patch: _Patch, config: AlignConfig
) -> Int[np.ndarray, " n"]:
    """The patches of a view that another one sees: inside it, facing it, not behind its surface (`depth`)."""
    other_from_view = other.cam_from_world @ view.cam_from_world.inverse()
    rotation, translation = other_from_view.rotation.double().numpy(), other_from_view.translation.double().numpy()
    places = _rays(view, patch.pixels + 0.5) / patch.inverse[:, None] @ rotation.T + translation
    z = np.where(places[:, 2] > 0, places[:, 2], 1e-9)
    pixel = np.floor(places[:, :2] / z[:, None] * np.array(other.camera.focal) + np.array(other.camera.center))
    size = np.array([other.camera.width, other.camera.height])
    seen = (places[:, 2] > 0) & (pixel >= 0).all(axis=1) & (pixel < size).all(axis=1)
    columns, rows = np.where(seen[:, None], pixel, 0).astype(np.int64).T
    seen &= other.mask.numpy()[rows, columns]
    surface = depth[rows, columns]
    seen &= (surface <= 0) | (places[:, 2] < (1 + config.occluded) * surface)
    cosine = -(patch.normal @ rotation.T * places).sum(axis=1) / np.linalg.norm(places, axis=1)
    return np.flatnonzero(seen & (cosine > config.facing))


def _rays(view: View, px: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Rays (x, y, 1) in the camera frame."""
    camera = view.camera
    return np.concatenate([(px - camera.center) / np.array(camera.focal), np.ones((len(px), 1))], axis=1)


def _grey(view: View) -> Float[np.ndarray, "h w"]:
    """Brightness from 0 to 255."""
    return np.asarray(view.rgb.mean(dim=0).numpy() * 255, dtype=np.float32)
