"""Posed photos to surfels, triangulated once: stereo depth (or matches) -> oriented patches -> surfels.

Kotovenko et al., "EDGS: Eliminating Densification for Efficient Convergence of 3DGS", 2025; see stereo/ for the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core import DepthView, Progress, Scene, Surfels, UsageError, View, Vision3DError, silent
from vision3d.geometry.rotation import quaternion_from_matrix
from vision3d.matching.base import DenseMatcher, Matcher
from vision3d.matching.catalogue import make_matcher, weights_options
from vision3d.recon.stereo.completion import complete
from vision3d.recon.stereo.consistency import FilterConfig, keep_consistent, smooth_normals
from vision3d.recon.stereo.hull import Masks, hull_depth, inside, inside_map
from vision3d.recon.stereo.matched import match_views
from vision3d.recon.stereo.neighbours import choose_neighbours
from vision3d.recon.stereo.patchmatch import PlaneMap, StereoConfig, estimate_planes
from vision3d.recon.stereo.point_patches import sparse_patches
from vision3d.recon.stereo.sampling import (
    PUSHED_BACK,
    PUSHED_IN_HULL,
    Layer,
    Patches,
    behind_surfaces,
    sample,
    sample_to_count,
    without_obstacles,
)
from vision3d.recon.stereo.sweep import MAX_SOURCES
from vision3d.recon.stereo.warped import warped_planes

SH_CONSTANT = 0.28209479177387814  # of degree 0: color = 0.5 + SH_CONSTANT * sh
OVERLAP = 0.6  # standard deviation of a surfel per spacing of the grid: neighbours then close the surface
MAX_STRETCH = 3.0  # along the slant
FILL_SPACING = 2.0  # filled-in surfels stand this many times wider apart
MAX_FILLED = 0.3  # share of the target
FILL_CONFIDENCE = 0.1


@dataclass(frozen=True, kw_only=True)
class DenseInitConfig:
    """Settings of `initialise_surfels`."""

    source: str = "patchmatch"
    """where depth comes from: patchmatch (our stereo), or a matcher's name (`vision3d match --help`); dkm gives depth
    to every pixel, as stereo does, the others to the points that they match"""
    weights: str | None = None
    """weights file of that matcher, where it takes one (eloftr, dkm); default: the published ones"""
    neighbours: int = 3
    """views that each view is matched with, 1 to 8"""
    target: int = 60_000
    """about how many surfels; the spacing of the samples follows from it"""
    fill: bool = True
    """also cover what stereo could not measure, with surfels of low confidence"""
    object_masks: bool = False
    """masks cut out an object: nothing starts where any view's mask is black, and guesses start on the visual hull"""
    seed: int = 0
    """seed of everything random"""
    stereo: StereoConfig = field(default_factory=StereoConfig)
    """of PatchMatch stereo"""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """which depths to keep"""

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= MAX_SOURCES:
            raise UsageError(f"each view needs 1 to {MAX_SOURCES} neighbours, got {self.neighbours}")
        if self.source == "patchmatch" and self.weights is not None:
            raise UsageError("a weights file is for a matcher as the source of depth; patchmatch takes none")
        if self.target < 1:
            raise UsageError(f"the target of surfels must be at least 1, got {self.target}")


@dataclass(frozen=True, slots=True)
class DenseInit:
    """Surfels of SH degree 0 and where each came from.

    confidence in [0, 1], below 0.2 where filled in; view: index of the view that it was sampled in; depth_maps: the
    kept depth of every view, weight is its confidence. reason: why there are no surfels, empty where there are.
    """

    surfels: Surfels
    confidence: Float[Tensor, " n"]
    view: Int[Tensor, " n"]
    depth_maps: list[DepthView]
    reason: str = ""


def initialise_surfels(
    views: Sequence[View], scene: Scene, config: DenseInitConfig, progress: Progress = silent
) -> DenseInit:
    """Surfels on what at least two of the views show, and, with config.fill, guesses for the rest.

    Views without overlap or parallax give an empty result with the reason. Vision3DError: fewer than two views, a
    matcher's weights are missing. UsageError: no matcher has that name.
    """
    if len(views) < 2:
        raise Vision3DError(f"depth needs at least two posed photos, got {len(views)}: add photos of the same scene")
    hood = choose_neighbours(views, scene, config.neighbours)
    maps: list[PlaneMap | None] = [None] * len(views)
    hull = Masks.of(views) if config.object_masks else None
    matcher = None if config.source == "patchmatch" else _matcher(config)
    if matcher is None or isinstance(matcher, DenseMatcher):
        planes = (
            estimate_planes(views, hood.sources, hood.inverse_depths, hood.unit, config.stereo, progress)
            if matcher is None
            else warped_planes(views, hood.sources, matcher, progress)
        )
        kept = keep_consistent(views, planes, hood.sources, config.filter)
        if hull is not None:
            kept = [replace(k, depth=inside_map(v, k.depth, hull)) for v, k in zip(views, kept, strict=True)]
        layers = [
            Layer(k.depth, smooth_normals(m.normal, k.depth), k.confidence) for k, m in zip(kept, planes, strict=True)
        ]
        patches, step = sample_to_count(views, layers, config.target)
        surfaces, trust = [k.depth for k in kept], [k.confidence for k in kept]
        patches = without_obstacles(patches, views, surfaces)
        maps = list(planes)
    else:
        patches, surfaces = match_views(views, hood.sources, matcher, config.target, progress)
        patches = without_obstacles(patches, views, surfaces)
        trust = [(surface > 0).astype(np.float32) for surface in surfaces]
        step = float(np.sqrt(sum(surface.size for surface in surfaces) / config.target))
    if config.fill and len(patches):
        patches = Patches.join([patches, without_obstacles(sparse_patches(scene, views, patches), views, surfaces)])
        hulls = (
            None
            if hull is None
            else [hull_depth(view, hull, d) for view, d in zip(views, hood.inverse_depths, strict=True)]
        )
        patches = Patches.join(
            [patches, _filled(views, maps, surfaces, hulls, patches, FILL_SPACING * step, config.target)]
        )
    if hull is not None:
        patches = patches.select(inside(patches.points, hull))
    depth_maps = [
        DepthView(v.name, v.camera, v.cam_from_world, torch.from_numpy(depth), v.rgb, torch.from_numpy(weight))
        for v, depth, weight in zip(views, surfaces, trust, strict=True)
    ]
    reason = "" if len(patches) else _reason(views, hood.sources)
    return DenseInit(
        _surfels(patches, views),
        torch.from_numpy(patches.confidence).float(),
        torch.from_numpy(patches.view),
        depth_maps,
        reason,
    )


def _matcher(config: DenseInitConfig) -> Matcher:
    weights = None if config.weights is None else Path(config.weights)
    return make_matcher(config.source, **weights_options((config.source,), weights)[config.source])


def _filled(
    views: Sequence[View],
    maps: Sequence[PlaneMap | None],
    surfaces: Sequence[Float[np.ndarray, "h w"]],
    hulls: Sequence[Float[np.ndarray, "h w"]] | None,
    accepted: Patches,
    step: float,
    target: int,
) -> Patches:
    """Patches of low confidence for what no accepted one covers, behind or beside all measured surfaces; at most about
    MAX_FILLED times `target`, by a wider spacing. hulls: depth that nothing is nearer than, where masks tell it."""
    layers = []
    factors = PUSHED_BACK if hulls is None else PUSHED_IN_HULL
    for k, (view, plane_map, surface) in enumerate(zip(views, maps, surfaces, strict=True)):
        depth, normal = complete(view, plane_map, surface)
        if hulls is not None:
            depth = np.where((depth > 0) & (hulls[k] > 0), np.maximum(depth, hulls[k]), 0)
        layers.append(Layer(depth, normal, np.full(depth.shape, FILL_CONFIDENCE, np.float32)))
    filled = behind_surfaces(sample(views, layers, step, accepted), views, surfaces, factors)
    if len(filled) > MAX_FILLED * target:
        step *= float(np.sqrt(len(filled) / (MAX_FILLED * target)))
        filled = behind_surfaces(sample(views, layers, step, accepted), views, surfaces, factors)
    return filled


def _reason(views: Sequence[View], sources: Sequence[Sequence[int]]) -> str:
    if not any(bool(view.mask.any()) for view in views):
        return "the masks hide every pixel of all views"
    if not any(sources):
        return "no two views show the same part of the scene from places far enough apart to measure depth"
    return "no depth was confirmed by a second view: too little texture or overlap, or wrong poses"


def _surfels(patches: Patches, views: Sequence[View]) -> Surfels:
    """Disks along the patches, stretched along the slant so that their pictures close up as the grid does."""
    if not len(patches):
        none = torch.zeros(0, 3)
        return Surfels(none, torch.zeros(0, 4), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 1, 3))
    centers = np.stack([view.cam_from_world.center().double().numpy() for view in views])[patches.view]
    ray = patches.points - centers
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    normal = patches.normals / np.linalg.norm(patches.normals, axis=1, keepdims=True)
    cosine = -(ray * normal).sum(axis=1)
    along = ray + cosine[:, None] * normal  # the slant's direction in the surface; any tangent where there is none
    length = np.linalg.norm(along, axis=1)
    other = np.cross(normal, np.eye(3)[np.abs(normal).argmin(axis=1)])
    along = np.where(length[:, None] > 1e-6, along, other)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    frame = torch.from_numpy(np.stack([along, np.cross(normal, along), normal], axis=-1))
    stretch = 1 / cosine.clip(1 / MAX_STRETCH, 1)
    scales = OVERLAP * patches.spacings[:, None] * np.stack([stretch, np.ones_like(stretch)], axis=1)
    opacity = np.where(patches.confidence < 0.2, 0.4, 0.5 + 0.3 * patches.confidence)
    return Surfels(
        torch.from_numpy(patches.points).float(),
        quaternion_from_matrix(frame).float(),
        torch.from_numpy(scales).float(),
        torch.from_numpy(opacity).float(),
        torch.from_numpy((patches.colors - 0.5) / SH_CONSTANT).float()[:, None],
    )
