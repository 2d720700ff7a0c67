"""`project_surfels` on the CPU in Numba: one pass over the surfels writes a table in depth order, one its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from vision3d.recon.splat2d.depth_sort import order_by_depth
from vision3d.recon.splat2d.project import COEFFICIENTS
from vision3d.recon.splat2d.project_kernels import BLOCKS, SHARED, project_backward, project_forward, take_rows


@dataclass(frozen=True, slots=True)
class Parameters:
    """Contiguous float32 arrays of what a picture depends on."""

    means: Float[np.ndarray, "n 3"]
    quats: Float[np.ndarray, "n 4"]
    scales: Float[np.ndarray, "n 2"]
    opacities: Float[np.ndarray, " n"]
    sh: Float[np.ndarray, "n k 3"]
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]
    intrinsics: Float[np.ndarray, " 4"]


@dataclass(frozen=True, slots=True)
class Projected:
    """What compositing needs.

    rows: the coefficients of `project.Projection`, a and b times `tile_memory.ROOT`, the opacity's logarithm to base 2;
    zeros for surfels that are not drawn. table: the same in depth order. boxes: in depth order, first and last column,
    first and last row that each can touch; empty ones have last < first. near: nearest depth that is drawn.
    """

    rows: Float[np.ndarray, "n 16"]
    table: Float[np.ndarray, "n 16"]
    boxes: Int[np.ndarray, "n 4"]
    order: Int[np.ndarray, " n"]
    near: np.float32


def project(p: Parameters, size: tuple[int, int], near: float | None) -> Projected:
    """Surfels nearer than `near` (None: a hundredth of the median depth) are not drawn."""
    n = len(p.means)
    order, default = order_by_depth(p.means, p.rotation, p.translation)
    limit = np.float32(default if near is None else near)
    # torch aligns to cache lines
    rows, table = (torch.empty(n, COEFFICIENTS, dtype=torch.float32).numpy() for _ in range(2))
    boxes, table_boxes = np.empty((n, 4), np.int32), np.empty((n, 4), np.int32)
    project_forward(
        *(p.means, p.quats, p.scales, p.opacities, p.sh, p.rotation, p.translation, p.intrinsics, _center(p)),
        *(limit, *size, rows, boxes),
    )
    take_rows(rows, boxes, order, table, table_boxes)
    return Projected(rows, table, table_boxes, order, limit)


def project_gradient(p: Parameters, projected: Projected, upstream: Float[np.ndarray, "n 16"]) -> Parameters:
    """Gradients of the parameters, from those, in depth order, of the coefficients (of ln opacity)."""
    fields = [np.empty_like(a) for a in (p.means, p.quats, p.scales, p.opacities, p.sh)]
    shared = np.zeros((BLOCKS, SHARED))
    ranks = np.empty_like(projected.order)
    ranks[projected.order] = np.arange(len(ranks), dtype=ranks.dtype)
    project_backward(
        *(p.means, p.quats, p.scales, p.opacities, p.sh, p.rotation, p.translation, p.intrinsics, _center(p)),
        *(projected.near, projected.rows, upstream, ranks, *fields, shared),
    )
    total = shared.sum(0).astype(np.float32)
    means, quats, scales, opacities, sh = fields
    return Parameters(means, quats, scales, opacities, sh, total[:9].reshape(3, 3), total[9:12], total[12:16])


def _center(p: Parameters) -> Float[np.ndarray, " 3"]:
    """Of the camera, in the world."""
    center: np.ndarray = -(np.ascontiguousarray(p.rotation.T) @ p.translation)
    return center
