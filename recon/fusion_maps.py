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

_WIDEST = 5.0  # in widths of a typical pixel
_MEDIAN_PIXELS = 1 << 18
_NOISE_STEP = 6.0  # standard deviations of the noise: depth steps beneath it are none
_SLOPE_NOISE = 0.4  # standard deviation of a slope (tangent of an angle) from which it is taken over more pixels
_MAX_REACH = 8  # px


@dataclass(frozen=True, slots=True)
class Typical:
    """Medians over all known pixels of all views: depth, and a pixel's width there (scene unit)."""

    depth: float
    width: float


@dataclass(frozen=True, slots=True)
class FusionMap:
    """One view in grid units. values per pixel: inverse depth (per voxel), tangent factor g, weight (0: leave out)."""

    values: Float32[np.ndarray, "h w 3"]
    intrinsics: Float64[np.ndarray, " 4"]  # fx, fy, cx, cy in px
    rotation: Float64[np.ndarray, "3 3"]
    translation: Float64[np.ndarray, " 3"]  # world to camera, in the scene's unit


def fusion_map(view: DepthView, voxel: float, truncation: float, max_angle_deg: float, typical: Typical) -> FusionMap:
    """Prepare a depth map for voxels of a size (scene unit) and a truncation (voxels).

    Left out: unknown, negative, NaN or infinite depth; pixels wider than the truncation and than 5 typical ones; both
    sides of a depth step that a plane seen at more than `max_angle_deg` from its normal would make (and that is more
    than a voxel, and stands out of the map's noise). The weight is the view's own times the fourth power of the cosine
    of the viewing angle times (typical depth / depth)^2: seen from aside and far away, a pixel covers more surface, and
    the tangent plane stands for it less well. Slopes are taken over more pixels the noisier a map is.
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
    in_voxels = np.where(usable, depth, 0.0) / voxel
    usable &= in_voxels / min(camera.focal) <= max(truncation, _WIDEST * typical.width / voxel)
    inverse = np.where(usable, 1 / np.where(usable, in_voxels, 1.0), 0.0)
    values = np.zeros((*shape, 3), np.float32)
    intrinsics = np.array([*camera.focal, *camera.center])
    scaled = np.where(usable, weight * (typical.depth / voxel * inverse) ** 2, 0.0)
    noise = relative_noise(inverse)
    reach = int(np.clip(np.ceil(noise * max(camera.focal) / _SLOPE_NOISE), 1, _MAX_REACH))
    _fill(inverse, scaled, intrinsics, math.tan(math.radians(max_angle_deg)), _NOISE_STEP * noise, reach, values)
    return FusionMap(
        values,
        intrinsics,
        np.ascontiguousarray(view.cam_from_world.rotation.detach().cpu().double().numpy()),
        np.ascontiguousarray(view.cam_from_world.translation.detach().cpu().double().numpy()),
    )


def relative_noise(inverse: Float64[np.ndarray, "h w"]) -> float:
    """Standard deviation of inverse depth from pixel to pixel, over itself: from the median second difference in rows,
    which is zero for planes. 0 where no three known pixels are side by side."""
    left, middle, right = inverse[:, :-2], inverse[:, 1:-1], inverse[:, 2:]
    known = (left > 0) & (middle > 0) & (right > 0)
    if not known.any():
        return 0.0
    second = np.abs(left[known] - 2 * middle[known] + right[known]) / middle[known]
    return float(1.4826 * np.median(second) / math.sqrt(6))


def typical_pixel(views: list[DepthView]) -> Typical | None:
    """The medians, of an even subset of about a quarter of a million pixels; None if no depth is known."""
    step = math.ceil(math.sqrt(sum(view.depth.numel() for view in views) / _MEDIAN_PIXELS))
    for stride in sorted({step, 1}, reverse=True):  # all pixels where the subset happens to hold none
        depths, widths = [], []
        for view in views:
            depth = view.depth.detach().cpu()[::stride, ::stride].double()
            known = (depth > 0) & torch.isfinite(depth) & (view.weight.detach().cpu()[::stride, ::stride] > 0)
            depths.append(depth[known])
            widths.append(depth[known] * 2 / (view.camera.focal[0] + view.camera.focal[1]))
        every = torch.cat(depths)
        if len(every):
            return Typical(float(every.median()), float(torch.cat(widths).median()))
    return None


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _fill(inverse, weight, intrinsics, steepest, noise_step, reach, values):  # pragma: no cover (compiled)
    h, w = inverse.shape
    fx, fy, cx, cy = intrinsics
    for y in range(h):
        for x in range(w):
            q = inverse[y, x]
            if q <= 0:
                continue
            edge = False
            for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                edge = edge or _is_step(inverse, x, y, x + dx, y + dy, fx if dx != 0 else fy, steepest, noise_step)
            if edge:
                continue
            across = _slope(inverse, x, y, 1, 0, fx, steepest, noise_step, reach)
            along = _slope(inverse, x, y, 0, 1, fy, steepest, noise_step, reach)
            a, b = fx * across, fy * along
            c = q - across * (x + 0.5 - cx) - along * (y + 0.5 - cy)
            g = q / np.sqrt(a * a + b * b + c * c)
            ray = np.sqrt(1 + ((x + 0.5 - cx) / fx) ** 2 + ((y + 0.5 - cy) / fy) ** 2)
            values[y, x, 0] = q
            values[y, x, 1] = g
            values[y, x, 2] = weight[y, x] * (g / ray) ** 4


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _is_step(inverse, x, y, x1, y1, focal, steepest, noise_step):  # pragma: no cover (compiled)
    """Whether two pixels, `focal` px from the camera, are known and not of one surface."""
    h, w = inverse.shape
    if x1 < 0 or y1 < 0 or x1 >= w or y1 >= h or inverse[y1, x1] <= 0:
        return False
    near, far = max(inverse[y, x], inverse[y1, x1]), min(inverse[y, x], inverse[y1, x1])
    step = 1 / far - 1 / near  # in voxels
    apart = abs(x1 - x) + abs(y1 - y)
    return step > 1 and step > (steepest * apart / focal + noise_step) / near


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _slope(inverse, x, y, dx, dy, focal, steepest, noise_step, reach):  # pragma: no cover (compiled)
    """Change of inverse depth per pixel along (dx, dy): over `reach` pixels to both sides, else to one side, else over
    the next pixels."""
    h, w = inverse.shape
    q = inverse[y, x]
    for attempt in range(2):
        t = reach if attempt == 0 else 1
        slope, sides = 0.0, 0
        for sign in (-1, 1):
            x1, y1 = x + sign * t * dx, y + sign * t * dy
            if x1 < 0 or y1 < 0 or x1 >= w or y1 >= h or inverse[y1, x1] <= 0:
                continue
            if _is_step(inverse, x, y, x1, y1, focal, steepest, noise_step):
                continue
            slope += sign * (inverse[y1, x1] - q) / t
            sides += 1
        if sides > 0:
            return slope / sides
    return 0.0
