"""Which depths to keep: those that other views' depth maps confirm, without specks, and how far to trust them.

Schoenberger et al., ECCV 2016, section 4.6 (fusion: reprojection, depth and normal agreement in several views).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import cv2
import numba
import numpy as np
from jaxtyping import Float, Int

from vision3d.core import View
from vision3d.recon.stereo.patchmatch import PlaneMap


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """What counts as confirmed."""

    max_reprojection_px: float = 1.5
    """forward-backward error"""
    max_depth_error: float = 0.01
    """relative difference of depths"""
    max_cost: float = 0.75
    """of pixels that two or more views confirm"""
    max_cost_one: float = 0.5
    """of pixels that only one view confirms"""
    speck: int = 60
    """connected pieces of fewer px (in a picture of 0.4 megapixels) are dropped"""


@dataclass(frozen=True, slots=True)
class KeptDepth:
    """Depth of one view, 0 where nothing was kept; confirmed: how many views agree; confidence in [0, 1],
    from 0.25 where kept."""

    depth: Float[np.ndarray, "h w"]
    confirmed: Int[np.ndarray, "h w"]
    confidence: Float[np.ndarray, "h w"]


def keep_consistent(
    views: Sequence[View], maps: Sequence[PlaneMap], sources: Sequence[Sequence[int]], config: FilterConfig
) -> list[KeptDepth]:
    """The depths of every view that at least one other view confirms at a low cost, or two at a higher one."""
    return [_keep(views, maps, _checkers(sources, i), i, config) for i in range(len(views))]


def _checkers(sources: Sequence[Sequence[int]], i: int) -> list[int]:
    """The view's own sources, then views that it is a source of."""
    return list(dict.fromkeys([*sources[i], *(j for j, theirs in enumerate(sources) if i in theirs)]))


def _keep(
    views: Sequence[View], maps: Sequence[PlaneMap], checkers: Sequence[int], i: int, config: FilterConfig
) -> KeptDepth:
    view, plane_map = views[i], maps[i]
    count = np.zeros(plane_map.depth.shape, np.int32)
    for j in checkers:
        matrix, back = projection(view, views[j]), projection(views[j], view)
        confirm(plane_map.depth, maps[j].depth, matrix, back, config.max_reprojection_px, config.max_depth_error, count)
    cost = plane_map.cost
    kept = (plane_map.depth > 0) & view.mask.numpy()
    kept &= ((count >= 2) & (cost < config.max_cost)) | ((count >= 1) & (cost < config.max_cost_one))
    depth = without_specks(np.where(kept, plane_map.depth, 0), max(4, round(config.speck * kept.size / 4e5)))
    agreement = 1 - 0.5 ** count.astype(np.float32)
    confidence = np.where(depth > 0, 0.25 + 0.75 * agreement * (1 - cost).clip(0, 1), 0)
    return KeptDepth(depth.astype(np.float32), count, confidence.astype(np.float32))


def without_specks(depth: Float[np.ndarray, "h w"], smallest: int) -> Float[np.ndarray, "h w"]:
    """Drops connected pieces of fewer pixels; neighbours that differ by over 2 % of depth are not connected."""
    logarithm = np.log(np.where(depth > 0, depth, 1))
    shown = logarithm[depth > 0]
    if not shown.size:
        return depth
    low, high = float(shown.min()), float(shown.max())
    step = max((high - low) / 32000, 1e-4)
    label = np.where(depth > 0, ((logarithm - low) / step + 1).clip(1, 32766), 0).astype(np.int16)
    cv2.filterSpeckles(label, 0, smallest - 1, max(1, round(0.02 / step)))
    return np.where(label > 0, depth, 0)


def smooth_normals(
    normal: Float[np.ndarray, "h w 3"], depth: Float[np.ndarray, "h w"], size: int = 5
) -> Float[np.ndarray, "h w 3"]:
    """Normals averaged over the kept pixels (depth > 0) of a small window: single ones are noisy by some degrees."""
    kept = normal * (depth > 0)[..., None].astype(np.float32)
    total = cv2.boxFilter(kept, -1, (size, size), normalize=False, borderType=cv2.BORDER_CONSTANT)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return np.where(length > 0.5, total / np.maximum(length, 0.5), normal).astype(np.float32)


def projection(view_from: View, view_to: View) -> Float[np.ndarray, "3 4"]:
    """Matrix that takes (x z, y z, z, 1), px and depth of a pixel in one view, to homogeneous px in the other.

    Rounding does not depend on the scene's unit: the kernel works in float64.
    """
    to_from = view_to.cam_from_world @ view_from.cam_from_world.inverse()
    k_to, k_from = view_to.camera.matrix().numpy(), view_from.camera.matrix().numpy()
    left = k_to @ to_from.rotation.double().numpy() @ np.linalg.inv(k_from)
    return np.concatenate([left, (k_to @ to_from.translation.double().numpy())[:, None]], axis=1)


@numba.njit(cache=True, nogil=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def confirm(depth, other, matrix, back, max_px, max_relative, count):  # pragma: no cover (compiled)
    """Adds 1 to count where the other view's depth map agrees with this one's depth (see `projection`)."""
    height, width = depth.shape
    other_height, other_width = other.shape
    for row in numba.prange(height):
        r = np.int64(row)
        for c in range(width):
            z = np.float64(depth[r, c])
            if z <= 0:
                continue
            x, y = c + 0.5, r + 0.5
            z1 = (matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]) * z + matrix[2, 3]
            if z1 <= 0:
                continue
            u = ((matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]) * z + matrix[0, 3]) / z1
            v = ((matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]) * z + matrix[1, 3]) / z1
            if not (0 <= u < other_width and 0 <= v < other_height):
                continue
            z_other = np.float64(other[np.int64(v), np.int64(u)])
            if z_other <= 0 or abs(z_other - z1) > max_relative * z1:
                continue
            z2 = (back[2, 0] * u + back[2, 1] * v + back[2, 2]) * z_other + back[2, 3]
            if z2 <= 0:
                continue
            du = ((back[0, 0] * u + back[0, 1] * v + back[0, 2]) * z_other + back[0, 3]) / z2 - x
            dv = ((back[1, 0] * u + back[1, 1] * v + back[1, 2]) * z_other + back[1, 3]) / z2 - y
            if du * du + dv * dv <= max_px * max_px:
                count[r, c] += 1
