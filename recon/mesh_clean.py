"""After marching cubes: which views see a vertex, its colour as their weighted mean, and removal of small pieces."""

from __future__ import annotations

from collections.abc import Sequence

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
    for view, prepared in zip(views, maps, strict=True):
        p = vertices @ prepared.rotation.T + prepared.translation
        h, w = prepared.values.shape[:2]
        fx, fy, cx, cy = prepared.intrinsics
        front = p[:, 2] > 0
        z = np.where(front, p[:, 2], 1)
        u, v = fx * p[:, 0] / z + cx, fy * p[:, 1] / z + cy
        at = np.flatnonzero(front & (u >= 0) & (v >= 0) & (u < w) & (v < h))
        u, v, z = u[at], v[at], z[at] / voxel
        q, g, trust = prepared.values[v.astype(np.int64), u.astype(np.int64)].astype(np.float64).T
        near = np.abs(1 / np.where(trust > 0, q, 1) - z) * g < truncation
        seen = (trust > 0) & near
        at, u, v, trust = at[seen], u[seen], v[seen], trust[seen]
        support[at] += 1
        picture = view.color.detach().cpu().permute(1, 2, 0).double().numpy()
        total[at] += trust[:, None] * _bilinear(picture, u, v)
        weights[at] += trust
    colors = np.where(weights[:, None] > 0, total / np.where(weights > 0, weights, 1)[:, None], 0.5)
    return np.clip(np.nan_to_num(colors, nan=0.5), 0, 1), support


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


def _bilinear(
    picture: Float[np.ndarray, "h w 3"], u: Float[np.ndarray, " n"], v: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Colours at px (pixel centres at halves), the border repeated outwards."""
    h, w = picture.shape[:2]
    x, y = np.clip(u - 0.5, 0, w - 1), np.clip(v - 0.5, 0, h - 1)
    x0, y0 = np.minimum(x.astype(np.int64), max(w - 2, 0)), np.minimum(y.astype(np.int64), max(h - 2, 0))
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    tx, ty = (x - x0)[:, None], (y - y0)[:, None]
    top = picture[y0, x0] * (1 - tx) + picture[y0, x1] * tx
    bottom = picture[y1, x0] * (1 - tx) + picture[y1, x1] * tx
    out: np.ndarray = top * (1 - ty) + bottom * ty
    return out


def to_tensors(
    vertices: Float[np.ndarray, "n 3"], faces: Int64[np.ndarray, "m 3"], colors: Float[np.ndarray, "n 3"]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Float32 vertices and colours, int64 faces."""
    return (
        torch.from_numpy(np.ascontiguousarray(vertices, np.float32)),
        torch.from_numpy(np.ascontiguousarray(faces)),
        torch.from_numpy(np.ascontiguousarray(colors, np.float32)),
    )
