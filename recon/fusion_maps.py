"""Depth maps made ready for fusion: inverse depth, the factor to tangent distances, weights; edges of objects left out.

A plane n . x = d has the inverse depth q = (n / d) . (x/z, y/z, 1), linear in the pixel, so that differences of q give
n / d and with it the factor g = q / |n / d| from (depth along the ray - z) to the distance from the plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float32, Float64

from vision3d.core import DepthView


@dataclass(frozen=True, slots=True)
class FusionMap:
    """One view in grid units. values per pixel: inverse depth (per voxel), tangent factor g, weight (0: leave out)."""

    values: Float32[np.ndarray, "h w 3"]
    intrinsics: Float64[np.ndarray, " 4"]  # fx, fy, cx, cy in px
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, " 3"]  # world to camera, in the scene's unit


def fusion_map(
    view: DepthView, voxel: float, truncation: float, max_angle_deg: float, reference_depth: float
) -> FusionMap:
    """Prepare a depth map for voxels of a size (scene unit) and a truncation (voxels).

    Left out: unknown, negative, NaN or infinite depth; pixels wider than the truncation; both sides of a depth step
    that a plane seen at more than `max_angle_deg` from its normal would make (and that is more than a voxel). The
    weight is the view's own times the cosine of the viewing angle times (reference_depth / depth)^2: a far pixel
    covers more surface and is measured less well.
    """
    if not 0 < max_angle_deg < 90:
        raise ValueError(f"the largest viewing angle must lie between 0 and 90 degrees, got {max_angle_deg}")
    camera = view.camera
    shape = (camera.height, camera.width)
    if tuple(view.depth.shape) != shape or any(camera.distortion):
        raise ValueError(f"{view.name}: a depth map of {shape[1]}x{shape[0]} px without distortion is needed")
    depth = view.depth.detach().cpu().double().numpy()
    weight = view.weight.detach().cpu().double().numpy()
    usable = np.isfinite(depth) & (depth > 0) & np.isfinite(weight) & (weight > 0)
    # A ratio first: depth itself may be at any scale. Wide pixels tell too little for a band of this width.
    in_voxels = np.where(usable, depth, 0.0) / voxel
    usable &= in_voxels / min(camera.focal) <= truncation
    inverse = np.where(usable, 1 / np.where(usable, in_voxels, 1.0), 0.0)
    values = np.zeros((*shape, 3), np.float32)
    intrinsics = np.array([*camera.focal, *camera.center])
    scaled = np.where(usable, weight * (reference_depth / voxel * inverse) ** 2, 0.0)
    _fill(inverse, scaled, intrinsics, math.tan(math.radians(max_angle_deg)), values)
    return FusionMap(
        values,
        intrinsics,
        np.ascontiguousarray(view.cam_from_world.rotation.detach().cpu().double().numpy()),
        np.ascontiguousarray(view.cam_from_world.translation.detach().cpu().double().numpy()),
    )


def median_depth_and_footprint(views: list[DepthView]) -> tuple[float, float] | None:
    """Medians over all known pixels of depth and of a pixel's width there (scene unit); None if no depth is known."""
    depths, widths = [], []
    for view in views:
        depth = view.depth.detach().cpu().double()
        known = depth[torch.isfinite(depth) & (depth > 0) & (view.weight.detach().cpu() > 0)]
        depths.append(known)
        widths.append(known * 2 / (view.camera.focal[0] + view.camera.focal[1]))
    every = torch.cat(depths) if depths else torch.zeros(0)
    if not len(every):
        return None
    return float(every.median()), float(torch.cat(widths).median())


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _fill(inverse, weight, intrinsics, steepest, values):  # pragma: no cover (compiled)
    h, w = inverse.shape
    fx, fy, cx, cy = intrinsics
    for y in range(h):
        for x in range(w):
            q = inverse[y, x]
            if q <= 0:
                continue
            edge = False
            # Differences to the neighbours: left, right, up, down; NaN where unknown.
            left = q - inverse[y, x - 1] if x > 0 and inverse[y, x - 1] > 0 else np.nan
            right = inverse[y, x + 1] - q if x < w - 1 and inverse[y, x + 1] > 0 else np.nan
            up = q - inverse[y - 1, x] if y > 0 and inverse[y - 1, x] > 0 else np.nan
            down = inverse[y + 1, x] - q if y < h - 1 and inverse[y + 1, x] > 0 else np.nan
            for difference, other, focal in (
                (left, q - left, fx),
                (right, q + right, fx),
                (up, q - up, fy),
                (down, q + down, fy),
            ):
                # In depth: |z - z'| against the width of the nearer pixel, and against one voxel.
                step = abs(difference) / (q * other)
                if step > 1 and step > steepest / (max(q, other) * focal):
                    edge = True
            if edge:
                continue
            across = _slope(left, right)
            along = _slope(up, down)
            a, b = fx * across, fy * along
            c = q - across * (x + 0.5 - cx) - along * (y + 0.5 - cy)
            g = q / np.sqrt(a * a + b * b + c * c)
            ray = np.sqrt(1 + ((x + 0.5 - cx) / fx) ** 2 + ((y + 0.5 - cy) / fy) ** 2)
            values[y, x, 0] = q
            values[y, x, 1] = g
            values[y, x, 2] = weight[y, x] * g / ray


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _slope(before, after):  # pragma: no cover (compiled)
    if np.isnan(before):
        return 0.0 if np.isnan(after) else after
    return before if np.isnan(after) else 0.5 * (before + after)
