"""Samples depth maps on a pixel grid into oriented patches, each piece of surface once (EDGS' one-off triangulation).

Kotovenko et al., "EDGS: Eliminating Densification for Efficient Convergence of 3DGS", 2025, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from vision3d.core import View
from vision3d.recon.stereo.cover import before_surface, compare_colors, mark_covered

SAME_SURFACE = 0.02  # relative difference of depths under which patches of two views are one surface
FREE_SPACE = 0.02  # relative distance before another view's surface at which a measured patch is an obstacle
GUESS_FREE_SPACE = 0.005  # and a guessed one, tried over its whole disk
OTHER_COLOR = 0.2  # difference in a channel at which another view shows something else
PUSHED_BACK = (1.0, 1.4, 2.0, 3.0, 4.5, 7.0, 12.0, 20.0)  # depths tried for it, as multiples
PUSHED_IN_HULL = (1.0, 1.01, 1.02, 1.04, 1.08, 1.16)  # where masks bound the object


@dataclass(frozen=True, slots=True)
class Layer:
    """What is sampled of one view: depth (0: nothing), normals in the camera frame facing it, confidence."""

    depth: Float[np.ndarray, "h w"]
    normal: Float[np.ndarray, "h w 3"]
    confidence: Float[np.ndarray, "h w"]


@dataclass(frozen=True, slots=True)
class Patches:
    """n samples: position and unit normal in the world, spacing to the next sample (scene unit, on a plane that faces
    the camera), RGB in [0, 1], confidence, view index. Normals face their view."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]
    spacings: Float[np.ndarray, " n"]
    colors: Float[np.ndarray, "n 3"]
    confidence: Float[np.ndarray, " n"]
    view: Int[np.ndarray, " n"]

    @classmethod
    def empty(cls) -> Patches:
        """No samples."""
        none = np.zeros((0, 3))
        return cls(none, none, np.zeros(0), none, np.zeros(0), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.points)

    def select(self, keep: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> Patches:
        """Those at a mask or at indices."""
        return Patches(*(getattr(self, name)[keep] for name in _FIELDS))

    @classmethod
    def join(cls, parts: Sequence[Patches]) -> Patches:
        """All of them, in order."""
        if not parts:
            return cls.empty()
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))


_FIELDS = tuple(field.name for field in fields(Patches))


def sample_to_count(views: Sequence[View], layers: Sequence[Layer], target: int) -> tuple[Patches, float]:
    """About `target` patches (fewer where that needs more than one per pixel), and the grid's spacing in px."""
    total = sum(int((layer.depth > 0).sum()) for layer in layers)
    if total == 0:
        return Patches.empty(), 1.0
    step = max(1.0, np.sqrt(total / target))
    patches = Patches.empty()
    for _ in range(3):
        patches = sample(views, layers, step)
        wanted = max(1.0, step * np.sqrt(max(len(patches), 1) / target))
        if abs(wanted / step - 1) < 0.03:
            break
        step = wanted
    return patches, step


def sample(
    views: Sequence[View],
    layers: Sequence[Layer],
    step: float,
    accepted: Patches | None = None,
) -> Patches:
    """One patch per `step` px of every view where no patch of another view (or of `accepted`) covers the surface.

    Views with the finest resolution go first.
    """
    parts: list[Patches] = []
    for i in _finest_first(views, layers):
        layer = layers[i]
        others = Patches.join([p for p in (accepted, *parts) if p is not None])
        covered = np.zeros(layer.depth.shape, np.bool_)
        if len(others):
            matrix, focal = world_projection(views[i]), _focal(views[i])
            mark_covered(others.points, others.spacings, matrix, focal, layer.depth, SAME_SURFACE, covered)
        parts.append(_grid(views[i], layer, i, step, covered))
    return Patches.join(parts)


def without_obstacles(patches: Patches, views: Sequence[View], surfaces: Sequence[Float[np.ndarray, "h w"]]) -> Patches:
    """Drops patches that stand before the surface (depth map) of other views.

    A sure patch may be contradicted by two views (confidence from 2/3), one of middling confidence by one.
    """
    count = np.zeros(len(patches), np.int64)
    for view, surface in zip(views, surfaces, strict=True):
        middle = np.zeros(len(patches))
        before_surface(patches.points, middle, world_projection(view), _focal(view), surface, FREE_SPACE, count)
    return patches.select(count <= np.floor(3 * patches.confidence).clip(0, 2))


def world_projection(view: View) -> Float[np.ndarray, "3 4"]:
    """K [R | t]: world to homogeneous px."""
    return np.ascontiguousarray((view.camera.matrix() @ view.cam_from_world.matrix()[:3].double()).numpy())


def _finest_first(views: Sequence[View], layers: Sequence[Layer]) -> list[int]:
    footprint = []
    for i, layer in enumerate(layers):
        shown = layer.depth[layer.depth > 0]
        if shown.size:
            footprint.append((float(np.median(shown)) / float(np.mean(views[i].camera.focal)), i))
    return [i for _, i in sorted(footprint)]


def _grid(view: View, layer: Layer, index: int, step: float, covered: Bool[np.ndarray, "h w"]) -> Patches:
    """In every cell of the grid its middle pixel or, where that has nothing, one of four around it."""
    height, width = layer.depth.shape
    free = (layer.depth > 0) & ~covered
    y, x = np.meshgrid(
        (np.arange(max(1, int(height / step))) + 0.5) * step,
        (np.arange(max(1, int(width / step))) + 0.5) * step,
        indexing="ij",
    )
    row, column = y.ravel().clip(0, height - 1).astype(np.int64), x.ravel().clip(0, width - 1).astype(np.int64)
    found = free[row, column]
    shift = int(step / 4)
    if shift:
        for dy, dx in ((-shift, -shift), (-shift, shift), (shift, -shift), (shift, shift)):
            other_row, other_column = (row + dy).clip(0, height - 1), (column + dx).clip(0, width - 1)
            take = ~found & free[other_row, other_column]
            row, column = np.where(take, other_row, row), np.where(take, other_column, column)
            found |= take
    row, column = row[found], column[found]
    z = layer.depth[row, column].astype(np.float64)
    (fx, fy), (cx, cy) = view.camera.focal, view.camera.center
    in_cam = np.stack([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z], axis=1)
    rotation = view.cam_from_world.rotation.double().numpy()
    translation = view.cam_from_world.translation.double().numpy()
    return Patches(
        (in_cam - translation) @ rotation,
        layer.normal[row, column].astype(np.float64) @ rotation,
        step * z / ((fx + fy) / 2),
        view.rgb[:, row, column].T.double().numpy(),
        layer.confidence[row, column].astype(np.float64),
        np.full(len(row), index, np.int64),
    )


def behind_surfaces(
    patches: Patches,
    views: Sequence[View],
    surfaces: Sequence[Float[np.ndarray, "h w"]],
    factors: Sequence[float] = PUSHED_BACK,
) -> Patches:
    """Moves guessed patches back along their rays until they stand before no view's surface and most views that see
    them there show their color; those that never do go. A guess continues a near surface, and what it guesses at is
    often far behind it."""
    if not len(patches):
        return patches
    center = np.stack([view.cam_from_world.center().double().numpy() for view in views])[patches.view]
    points, spacings = patches.points.copy(), patches.spacings.copy()
    placed = np.zeros(len(patches), np.bool_)
    for factor in factors:
        tried = center + (patches.points - center) * factor
        before, seen, strange = (np.zeros(len(patches), np.int64) for _ in range(3))
        for index, (view, surface) in enumerate(zip(views, surfaces, strict=True)):
            matrix, focal = world_projection(view), _focal(view)
            before_surface(tried, 0.5 * factor * patches.spacings, matrix, focal, surface, GUESS_FREE_SPACE, before)
            rgb = view.rgb.numpy()
            compare_colors(tried, patches.colors, patches.view, index, matrix, rgb, surface, OTHER_COLOR, seen, strange)
        take = ~placed & (before == 0) & (2 * strange <= seen)
        points[take], spacings[take] = tried[take], patches.spacings[take] * factor
        placed |= take
    moved = Patches(points, patches.normals, spacings, patches.colors, patches.confidence, patches.view)
    return moved.select(placed)


def _focal(view: View) -> float:
    return float(np.mean(view.camera.focal))
