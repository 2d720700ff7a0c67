"""After marching cubes: which views see a vertex, its colour as their weighted mean, and removal of small pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vision3d.core import DepthView
from vision3d.recon.fusion_maps import FusionMap


def color_vertices(
    vertices: Float[np.ndarray, "n 3"],
    views: Sequence[DepthView],
    maps: Sequence[FusionMap],
    voxel: float,
    truncation: float,
) -> tuple[Float[np.ndarray, "n 3"], Int64[np.ndarray, " n"]]:
    """Colour (0 to 1, grey where nothing sees it) of each vertex, and how many views support it.

    A view supports a vertex that lies within `truncation` (voxels) of its depth, across the surface, at the nearest
    pixel that took part in the fusion. Colour is bilinear in the picture; views count with the weight that they had in
    the fusion.
    """
    total, weights = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
    support = np.zeros(len(vertices), np.int64)
    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    for view, prepared in zip(views, maps, strict=True):
        picture = view.color.detach().cpu().float().nan_to_num(nan=0.5).permute(1, 2, 0).contiguous().numpy()
        pose = (prepared.rotation, prepared.translation, prepared.intrinsics)
        _add_view(vertices, *pose, prepared.values, picture, voxel, truncation, total, weights, support)
    colors = np.where(weights[:, None] > 0, total / np.where(weights > 0, weights, 1)[:, None], 0.5)
    return np.clip(colors, 0, 1), support


def faces_of_large_components(faces: Int64[np.ndarray, "m 3"], count: int, share: float) -> Bool[np.ndarray, " m"]:
    """Which faces belong to a connected piece that has at least `share` of all faces; count: of the vertices."""
    if not len(faces):
        return np.zeros(0, np.bool_)
    start = np.concatenate([faces[:, 0], faces[:, 1]])
    end = np.concatenate([faces[:, 1], faces[:, 2]])
    graph = coo_array((np.ones(len(start), np.bool_), (start, end)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    mine = label[faces[:, 0]]
    out: np.ndarray = np.bincount(mine)[mine] >= share * len(faces)
    return out


def without_unused(
    faces: Int64[np.ndarray, "m 3"], count: int
) -> tuple[Int64[np.ndarray, "m 3"], Int64[np.ndarray, " k"]]:
    """Faces over the vertices that they use, renumbered in order, and which these are."""
    used = np.zeros(count, np.bool_)
    used[faces] = True
    number = np.cumsum(used) - 1
    return number[faces], np.flatnonzero(used)


def to_tensors(
    vertices: Float[np.ndarray, "n 3"], faces: Int64[np.ndarray, "m 3"], colors: Float[np.ndarray, "n 3"]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float32 vertices and colours, int64 faces."""
    return (
        torch.from_numpy(np.ascontiguousarray(vertices, np.float32)),
        torch.from_numpy(np.ascontiguousarray(faces)),
        torch.from_numpy(np.ascontiguousarray(colors, np.float32)),
    )


@numba.njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _add_view(
    vertices, rotation, translation, intrinsics, values, picture, voxel, truncation, total, weights, support
):  # pragma: no cover (compiled)
    """Adds one view's colours, bilinear with the border repeated outwards."""
    h, w = values.shape[:2]
    fx, fy, cx, cy = intrinsics
    for i in numba.prange(vertices.shape[0]):
        a, b, c = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        z = rotation[2, 0] * a + rotation[2, 1] * b + rotation[2, 2] * c + translation[2]
        if z <= 0:
            continue
        u = fx * (rotation[0, 0] * a + rotation[0, 1] * b + rotation[0, 2] * c + translation[0]) / z + cx
        v = fy * (rotation[1, 0] * a + rotation[1, 1] * b + rotation[1, 2] * c + translation[1]) / z + cy
        if not (u >= 0 and v >= 0 and u < w and v < h):
            continue
        q, g, trust = values[int(v), int(u), 0], values[int(v), int(u), 1], values[int(v), int(u), 2]
        if trust <= 0 or not abs(1 / q - z / voxel) * g < truncation:
            continue
        support[i] += 1
        weights[i] += trust
        x, y = min(max(u - 0.5, 0.0), w - 1.0), min(max(v - 0.5, 0.0), h - 1.0)
        x0, y0 = int(x), int(y)
        x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
        tx, ty = x - x0, y - y0
        for k in range(3):
            top = picture[y0, x0, k] * (1 - tx) + picture[y0, x1, k] * tx
            bottom = picture[y1, x0, k] * (1 - tx) + picture[y1, x1, k] * tx
            total[i, k] += trust * (top * (1 - ty) + bottom * ty)
