"""PatchMatch stereo over all views, coarse to fine: a plane per pixel from photometric, then geometric agreement.

Bleyer, Rhemann, Rother, "PatchMatch Stereo", BMVC 2011 (planes); Galliani et al., ICCV 2015 (red-black order);
Xu and Tao, "Multi-Scale Geometric Consistency Guided Multi-View Stereo", CVPR 2019 (levels, geometric rounds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8, UInt32

from vision3d.core import Camera, Progress, View, silent
from vision3d.recon.stereo.ncc import pack_quads
from vision3d.recon.stereo.sweep import MAX_SOURCES, start, sweep


@dataclass(frozen=True, kw_only=True)
class StereoConfig:
    """Settings of `estimate_planes`."""

    coarsest: int = 200
    """levels are halved until the longer side is at most 1.5 times this many px"""
    reach: int = 11
    """px up to which planes spread in one sweep"""
    geometric: float = 0.12
    """cost per px of forward-backward reprojection error, once neighbours have depth maps"""
    seed: int = 0
    """seed of the random planes"""


@dataclass(frozen=True, slots=True)
class PlaneMap:
    """Result of one view: depth (z in the camera, scene's unit), unit normals facing the camera, cost 0..1.2 of each
    pixel (1 - NCC, averaged over sources, with the geometric term). Depth is 0 and cost the worst where mask is not."""

    depth: Float[np.ndarray, "h w"]
    normal: Float[np.ndarray, "h w 3"]
    cost: Float[np.ndarray, "h w"]


@dataclass(slots=True)
class _Level:
    """One view at one level. planes: inverse depth (1 / unit) and its derivatives per px of this level."""

    grey: UInt8[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    camera: Float[np.ndarray, " 4"]
    quads: UInt32[np.ndarray, " hw"]
    planes: Float[np.ndarray, "3 h w"]
    cost: Float[np.ndarray, "h w"]


# Per level, from the coarsest: sweeps, and how many of the last are geometric. The finest level only polishes.
_SWEEPS = {"first": (7, 2), "middle": (3, 2), "last": (2, 1)}


def estimate_planes(
    views: Sequence[View],
    sources: Sequence[Sequence[int]],
    inverse_depths: Float[np.ndarray, "n 2"],
    unit: float,
    config: StereoConfig,
    progress: Progress = silent,
) -> list[PlaneMap]:
    """A plane per pixel of every view from its source views (indices; a view without sources stays unknown).

    inverse_depths: lowest and highest per view, 1 / scene unit. unit: a typical length of the scene (a baseline),
    so that results do not depend on the scene's unit.
    """
    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    longest = max(max(view.camera.width, view.camera.height) for view in views)
    depth_of_pyramid = 1
    while longest / 2**depth_of_pyramid >= config.coarsest * 0.75:
        depth_of_pyramid += 1
    greys = [_grey(view) for view in views]
    steps = sum(_sweeps(level, depth_of_pyramid)[0] for level in range(depth_of_pyramid)) * len(views)
    done, last = 0, depth_of_pyramid - 1
    progress("stereo", 0, steps)
    levels: list[_Level] = []
    for number in range(depth_of_pyramid):
        factor = 0.5 ** (depth_of_pyramid - 1 - number)
        finer = [_level(view, grey, factor) for view, grey in zip(views, greys, strict=True)]
        for old, new in zip(levels, finer, strict=False):
            _upsample(old, new)
        levels = finer
        count, geometric = _sweeps(number, depth_of_pyramid)
        for iteration in range(count):
            is_geometric = iteration >= count - geometric
            snapshot = [np.ascontiguousarray(level.planes[0]).ravel() for level in levels] if is_geometric else None
            for index in range(len(views)):
                if sources[index]:
                    around = _Around.of(views, levels, index, list(sources[index])[:MAX_SOURCES], snapshot, unit)
                    low, high = (inverse_depths[index] * unit).astype(np.float32)
                    turn = _Turn(index, number, number == last, iteration, count, is_geometric)
                    _improve(levels[index], around, low, high, turn, config)
                done += 1
                progress("stereo", done, steps)
    return [_result(level, bool(sources[i]), unit) for i, level in enumerate(levels)]


def _sweeps(number: int, levels: int) -> tuple[int, int]:
    if number == 0:
        return _SWEEPS["first"]
    return _SWEEPS["last"] if number == levels - 1 else _SWEEPS["middle"]


@dataclass(frozen=True, slots=True)
class _Turn:
    """Which sweep it is: of which view, level (0: coarsest), iteration of how many, with geometric costs or not."""

    view: int
    level: int
    is_finest: bool
    iteration: int
    count: int
    is_geometric: bool


def _improve(
    level: _Level, around: _Around, low: np.float32, high: np.float32, turn: _Turn, config: StereoConfig
) -> None:
    """One sweep over both colors; costs are computed anew where what they measure has changed."""
    geometric = np.float32(config.geometric if turn.is_geometric else 0.0)
    salt = (((config.seed * 31 + turn.view) * 8 + turn.level) * 16 + turn.iteration) & 0xFFFF
    common = (level.grey, level.mask, around.quads, around.sizes, around.warps, around.backs, around.other, geometric)
    if turn.iteration == 0 or turn.is_geometric:
        fresh = turn.level == 0 and turn.iteration == 0
        start(*common, level.camera, low, high, salt, level.planes, level.cost, fresh)
    # A quarter of the range at the very start, a quarter of a pixel of disparity at the end of every level.
    pixel = np.float32(1 / max(around.pixels_per_inverse_depth, 1e-12))
    widest = (high - low) / 4 if turn.level == 0 else 2 * pixel
    share = turn.iteration / max(turn.count - 1, 1)
    depth_step = np.float32(min(widest ** (1 - share) * (pixel / 4) ** share, (high - low) / 2))
    normal_step = np.float32(0.5 * (0.2 if turn.level else 1.0) ** (1 - share) * 0.08**share)
    restarts = 1 if turn.level == 0 and turn.iteration < turn.count - 2 else 0
    directions = 4 if turn.is_finest else 8
    for color in (0, 1):
        sweep(
            *common, level.camera, low, high, color, directions, config.reach, depth_step, normal_step, restarts, salt,
            level.planes, level.cost,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Around:
    """The sources of one view, packed for the kernels (see ncc.plane_cost); other: their inverse depths, 0 unknown."""

    quads: UInt32[np.ndarray, " p"]
    sizes: Int[np.ndarray, "s 3"]
    warps: Float[np.ndarray, "s 12"]
    backs: Float[np.ndarray, "s 12"]
    other: Float[np.ndarray, " q"]
    pixels_per_inverse_depth: float

    @classmethod
    def of(
        cls,
        views: Sequence[View],
        levels: Sequence[_Level],
        index: int,
        sources: Sequence[int],
        snapshot: Sequence[np.ndarray] | None,
        unit: float,
    ) -> _Around:
        reference = levels[index]
        sizes, warps, backs, first = [], [], [], 0
        moved = 0.0
        for s in sources:
            height, width = levels[s].grey.shape
            sizes.append((width, height, first))
            first += width * height
            source_from_reference = views[s].cam_from_world @ views[index].cam_from_world.inverse()
            rotation = source_from_reference.rotation.double().numpy()
            translation = source_from_reference.translation.double().numpy() / unit
            k_reference, k_source = _matrix(reference.camera), _matrix(levels[s].camera)
            warps.append(_warp(k_source, k_reference, rotation, translation))
            backs.append(_warp(k_reference, k_source, rotation.T, -rotation.T @ translation))
            moved = max(moved, float(np.linalg.norm(translation)) * float(levels[s].camera[:2].mean()))
        quads = np.concatenate([levels[s].quads for s in sources])
        other = np.zeros(1, np.float32) if snapshot is None else np.concatenate([snapshot[s] for s in sources])
        return cls(
            quads, np.array(sizes, np.int32), np.array(warps, np.float32), np.array(backs, np.float32), other, moved
        )


def _matrix(camera: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "3 3"]:
    fx, fy, cx, cy = (float(v) for v in camera)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _warp(k_to: np.ndarray, k_from: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    return np.concatenate([(k_to @ rotation @ np.linalg.inv(k_from)).ravel(), k_to @ translation])


def pixel_camera(camera: Camera) -> Float[np.ndarray, " 4"]:
    """fx, fy, cx, cy of a camera for px whose centres are whole numbers, as the kernels count them."""
    return np.array([*camera.focal, camera.center[0] - 0.5, camera.center[1] - 0.5], np.float32)


def _grey(view: View) -> Float[np.ndarray, "h w"]:
    """Luma, stretched so that the photo fills 0..255 (NCC does not mind, 8 bits then hold more)."""
    red, green, blue = view.rgb.float().numpy()
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    shown = grey[view.mask.numpy()]
    low, high = np.percentile(shown, (0.2, 99.8)) if shown.size else (0.0, 1.0)
    return np.asarray(((grey - low) * (255 / max(high - low, 0.05))).clip(0, 255), np.float32)


def _level(view: View, grey: Float[np.ndarray, "h w"], factor: float) -> _Level:
    """Mask: coarse pixels with any share of it, so that every pixel of the next level has one above it."""
    width, height = max(1, round(view.camera.width * factor)), max(1, round(view.camera.height * factor))
    small, mask = grey, view.mask.numpy()
    if factor < 1:
        small = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0
        mask = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    grey8 = np.ascontiguousarray((small + 0.5).clip(0, 255).astype(np.uint8))
    return _Level(
        grey8,
        np.ascontiguousarray(mask),
        pixel_camera(view.camera.resized(width, height)),
        pack_quads(grey8),
        np.zeros((3, height, width), np.float32),
        np.zeros((height, width), np.float32),
    )


def _upsample(old: _Level, new: _Level) -> None:
    """Every pixel takes the plane of the coarse pixel that it lies in."""
    (h0, w0), (h1, w1) = old.grey.shape, new.grey.shape
    x = (np.arange(w1) + 0.5) * (w0 / w1) - 0.5
    y = (np.arange(h1) + 0.5) * (h0 / h1) - 0.5
    column = np.clip(np.rint(x), 0, w0 - 1).astype(np.int64)
    row = np.clip(np.rint(y), 0, h0 - 1).astype(np.int64)
    w, a, b = (plane[row[:, None], column[None, :]] for plane in old.planes)
    new.planes[0] = w + a * (x - column).astype(np.float32) + b * (y - row).astype(np.float32)[:, None]
    new.planes[1] = a * np.float32(w0 / w1)
    new.planes[2] = b * np.float32(h0 / h1)
    np.maximum(new.planes[0], np.float32(1e-12), out=new.planes[0])


def _result(level: _Level, known: bool, unit: float) -> PlaneMap:
    w, a, b = level.planes
    height, width = w.shape
    fx, fy, cx, cy = level.camera
    valid = level.mask & (w > 0) & known
    ray_x = (np.arange(width, dtype=np.float32) - cx) / fx
    ray_y = ((np.arange(height, dtype=np.float32) - cy) / fy)[:, None]
    normal = np.stack([a * fx, b * fy, w - a * fx * ray_x - b * fy * ray_y], axis=-1)
    normal /= -np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-20)
    normal[~valid] = (0, 0, -1)
    depth = np.where(valid, np.float32(unit) / np.where(valid, w, 1), 0).astype(np.float32)
    return PlaneMap(depth, normal.astype(np.float32), np.where(valid, level.cost, np.float32(1.2)))
