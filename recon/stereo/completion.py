"""Depth where stereo kept none: the single view's own plane where it looks sound, else a smooth continuation.

Push-pull interpolation over an image pyramid: Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from vision3d.core import View
from vision3d.recon.stereo.consistency import without_specks
from vision3d.recon.stereo.patchmatch import PlaneMap, pixel_camera

SOUND_COST = 0.35  # of a plane that no other view confirms (it may be hidden there)


def complete(
    view: View, plane_map: PlaneMap | None, kept: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w 3"]]:
    """Depth and normals for the masked-in pixels where `kept` is 0; depth is 0 elsewhere, and everywhere where the
    view has no depth at all to start from."""
    height, width = kept.shape
    known = kept.copy()
    normal = np.zeros((height, width, 3), np.float32)
    if plane_map is not None:
        sound = (kept == 0) & (plane_map.cost < SOUND_COST) & view.mask.numpy()
        sound_depth = without_specks(np.where(sound, plane_map.depth, 0), max(8, kept.size // 1000))
        known = np.where(sound_depth > 0, sound_depth, known)
    if not (known > 0).any():
        return np.zeros_like(kept), normal
    middle = float(np.median(known[known > 0]))
    # Far depths weigh more: what shows no texture is more often behind than in front.
    weight = np.where(known > 0, (known / middle).clip(0.3, 3) ** 2, 0).astype(np.float64)
    smooth = push_pull(np.log(np.where(known > 0, known, middle) / middle), weight)
    depth = np.where(known > 0, known, middle * np.exp(smooth)).astype(np.float32)
    normal = depth_normals(depth, pixel_camera(view.camera))
    if plane_map is not None:
        normal = np.where((sound_depth > 0)[..., None], plane_map.normal, normal)
    missing: Bool[np.ndarray, "h w"] = view.mask.numpy() & (kept == 0)
    return np.where(missing, depth, 0).astype(np.float32), normal.astype(np.float32)


def push_pull(value: Float[np.ndarray, "h w"], weight: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Weighted averages spread into pixels of weight 0; pixels with weight keep their value."""
    height, width = value.shape
    if min(height, width) == 1 and max(height, width) == 1:
        return value
    pad = ((0, height % 2), (0, width % 2))
    w = np.pad(weight, pad)
    v = np.pad(value, pad) * w
    blocks = (-(-height // 2), 2, -(-width // 2), 2)
    coarse_weight = w.reshape(blocks).sum(axis=(1, 3))
    coarse = v.reshape(blocks).sum(axis=(1, 3)) / np.where(coarse_weight > 0, coarse_weight, 1)
    below = push_pull(coarse, np.minimum(coarse_weight, 1))
    return np.where(weight > 0, value, _doubled(below, height, width))


def depth_normals(depth: Float[np.ndarray, "h w"], camera: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "h w 3"]:
    """Normals facing the camera from finite differences of inverse depth, for a depth that is positive everywhere."""
    height, width = depth.shape
    w = 1 / depth.astype(np.float64)
    b = np.gradient(w, axis=0) if height > 1 else np.zeros_like(w)
    a = np.gradient(w, axis=1) if width > 1 else np.zeros_like(w)
    fx, fy, cx, cy = (float(v) for v in camera)
    ray_x, ray_y = (np.arange(width) - cx) / fx, ((np.arange(height) - cy) / fy)[:, None]
    normal = -np.stack([a * fx, b * fy, w - a * fx * ray_x - b * fy * ray_y], axis=-1)
    return np.asarray(normal / np.linalg.norm(normal, axis=-1, keepdims=True))


def _doubled(small: Float[np.ndarray, "h w"], height: int, width: int) -> Float[np.ndarray, "h2 w2"]:
    """Linear interpolation to twice the size, cut to height x width."""

    def axis(count: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = ((np.arange(count) + 0.5) / 2 - 0.5).clip(0, size - 1)
        low = at.astype(np.int64)
        return low, np.minimum(low + 1, size - 1), at - low

    r0, r1, fr = axis(height, small.shape[0])
    c0, c1, fc = axis(width, small.shape[1])
    rows = small[r0] * (1 - fr)[:, None] + small[r1] * fr[:, None]
    return np.asarray(rows[:, c0] * (1 - fc) + rows[:, c1] * fc)
