"""What lies inside the masks of all views: the visual hull (A. Laurentini, "The visual hull concept for
silhouette-based image understanding", PAMI 1994), for masks that cut out an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numba import njit, prange

from vision3d.core import View

STEP_PX = 1.5  # of the search along a ray, in widths of a pixel
MAX_STEPS = 1024
HALVINGS = 4  # of the last step


@dataclass(frozen=True, slots=True)
class Masks:
    """The views' masks in one array, grown by a pixel because stereo and masks are not more exact; matrices: world to
    homogeneous px; sizes: rows and columns that each view fills; whole: the mask ends inside the picture."""

    shown: Bool[np.ndarray, "v h w"]
    sizes: Float[np.ndarray, "v 2"]
    matrices: Float[np.ndarray, "v 3 4"]
    whole: Bool[np.ndarray, " v"]

    @classmethod
    def of(cls, views: Sequence[View], grow_px: int = 1) -> Masks:
        """From views of any sizes; those whose masks show nothing do not count."""
        views = [view for view in views if bool(view.mask.any())]
        if not views:
            return cls(np.zeros((0, 1, 1), np.bool_), np.zeros((0, 2)), np.zeros((0, 3, 4)), np.zeros(0, np.bool_))
        sizes = np.array([view.mask.shape for view in views], np.float64)
        height, width = sizes.max(axis=0).astype(int)
        shown = np.zeros((len(views), height, width), np.bool_)
        window = np.ones((2 * grow_px + 1, 2 * grow_px + 1), np.uint8)
        for k, view in enumerate(views):
            h, w = view.mask.shape
            shown[k, :h, :w] = cv2.dilate(view.mask.numpy().astype(np.uint8), window) > 0
        matrices = [(v.camera.matrix() @ v.cam_from_world.matrix()[:3].double()).numpy() for v in views]
        whole = [not any(bool(m.any()) for m in (v.mask[0], v.mask[-1], v.mask[:, 0], v.mask[:, -1])) for v in views]
        return cls(shown, sizes, np.stack(matrices), np.array(whole))


def inside(points: Float[np.ndarray, "n 3"], masks: Masks) -> Bool[np.ndarray, " n"]:
    """Which world points lie before all cameras and outside no mask. A view whose mask reaches the border of
    its picture says nothing of what is beside it."""
    found = np.zeros(len(points), np.bool_)
    _inside(np.ascontiguousarray(points, np.float64), masks.shown, masks.sizes, masks.matrices, masks.whole, found)
    return found


def inside_map(view: View, depth: Float[np.ndarray, "h w"], masks: Masks) -> Float[np.ndarray, "h w"]:
    """A depth map (z, 0: nothing) without what lies outside the masks."""
    row, column = np.nonzero(depth > 0)
    z = depth[row, column].astype(np.float64)
    (fx, fy), (cx, cy) = view.camera.focal, view.camera.center
    in_cam = np.stack([(column + 0.5 - cx) / fx * z, (row + 0.5 - cy) / fy * z, z], axis=1)
    pose = view.cam_from_world
    points = (in_cam - pose.translation.double().numpy()) @ pose.rotation.double().numpy()
    keep = inside(points, masks)
    out = np.zeros_like(depth)
    out[row[keep], column[keep]] = depth[row[keep], column[keep]]
    return out


def hull_depth(view: View, masks: Masks, inverse_depths: Float[np.ndarray, " 2"]) -> Float[np.ndarray, "h w"]:
    """Depth z at which the ray of each pixel of the view's mask first enters the hull; 0 where it does not, and outside
    the mask. inverse_depths: lowest and highest that are searched."""
    lowest, highest = (float(value) for value in inverse_depths)
    nearest, farthest = 1 / max(highest, 1e-12), 1 / max(lowest, 1e-3 * highest, 1e-12)
    (fx, fy), (cx, cy) = view.camera.focal, view.camera.center
    pose = view.cam_from_world
    rotation, translation = pose.rotation.double().numpy(), pose.translation.double().numpy()
    steps = int(np.clip(np.log(max(farthest / nearest, 1.0)) * max(fx, fy) / STEP_PX, 2, MAX_STEPS))
    depths = np.geomspace(nearest, farthest, steps)
    out = np.zeros(view.mask.shape, np.float32)
    _march(
        view.mask.numpy(),
        np.array([fx, fy, cx, cy]),
        np.ascontiguousarray(rotation),
        np.ascontiguousarray(translation),
        depths,
        masks.shown,
        masks.sizes,
        masks.matrices,
        masks.whole,
        out,
    )
    return out


@njit(cache=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the shape checks of tests have wrapped
def _is_inside(x, y, z, shown, sizes, matrices, whole):  # pragma: no cover (compiled)
    for k in range(shown.shape[0]):
        m = matrices[k]
        w = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        if w <= 0:
            return False
        u = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / w
        v = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / w
        if u >= 0 and v >= 0 and u < sizes[k, 1] and v < sizes[k, 0]:
            if not shown[k, int(v), int(u)]:
                return False
        elif whole[k]:
            return False
    return True


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _inside(points, shown, sizes, matrices, whole, found):  # pragma: no cover (compiled)
    for i in prange(points.shape[0]):
        found[i] = _is_inside(points[i, 0], points[i, 1], points[i, 2], shown, sizes, matrices, whole)


@njit(cache=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _march(
    mask, intrinsics, rotation, translation, depths, shown, sizes, matrices, whole, out
):  # pragma: no cover (compiled)
    h, w = mask.shape
    fx, fy, cx, cy = intrinsics
    center = np.zeros(3)
    for a in range(3):
        for b in range(3):
            center[a] -= rotation[b, a] * translation[b]
    for y in prange(h):
        for x in range(w):
            if not mask[y, x]:
                continue
            rx, ry = (x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy
            dx = rotation[0, 0] * rx + rotation[1, 0] * ry + rotation[2, 0]
            dy = rotation[0, 1] * rx + rotation[1, 1] * ry + rotation[2, 1]
            dz = rotation[0, 2] * rx + rotation[1, 2] * ry + rotation[2, 2]
            for i in range(depths.shape[0]):
                far = depths[i]
                if not _is_inside(
                    center[0] + far * dx, center[1] + far * dy, center[2] + far * dz, shown, sizes, matrices, whole
                ):
                    continue
                near = depths[max(0, i - 1)]
                for _ in range(HALVINGS):
                    t = 0.5 * (near + far)
                    if _is_inside(
                        center[0] + t * dx, center[1] + t * dy, center[2] + t * dz, shown, sizes, matrices, whole
                    ):
                        far = t
                    else:
                        near = t
                out[y, x] = far
                break
