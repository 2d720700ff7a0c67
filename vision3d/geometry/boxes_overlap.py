"""Overlap of upright 3D boxes, seen from above and in space, and non-maximum suppression, exact for any yaw.

The footprints' intersections come from rotated_rectangles (Numba on the CPU, float64); tensors on another device
are brought to the CPU and the result goes back. No gradients: losses on overlaps need another form.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core import Boxes3D
from vision3d.geometry.rotated_rectangles import intersection_areas, overlaps, suppress


def iou_bev(a: Boxes3D, b: Boxes3D) -> Float[Tensor, "n m"]:
    """Intersection over union of the footprints of each box of a and each of b, in a's dtype.

    Raises:
        ValueError: boxes in different frames.
    """
    _check_frames(a, b)
    return torch.from_numpy(overlaps(footprints(a), footprints(b))).to(a.centers)


def iou_3d(a: Boxes3D, b: Boxes3D) -> Float[Tensor, "n m"]:
    """Intersection over union of the volumes of each box of a and each of b, in a's dtype. ValueError as `iou_bev`."""
    _check_frames(a, b)
    areas = intersection_areas(footprints(a), footprints(b))
    (low0, high0), (low1, high1) = _heights(a), _heights(b)
    shared = np.minimum(high0[:, None], high1) - np.maximum(low0[:, None], low1)
    inter = areas * np.maximum(shared, 0)
    union = _volumes(a)[:, None] + _volumes(b) - inter
    return torch.from_numpy(np.minimum(inter / union, 1)).to(a.centers)


def nms_bev(boxes: Boxes3D, max_overlap: float, per_class: bool = True, limit: int | None = None) -> Int[Tensor, " k"]:
    """Indices of the boxes left by greedy suppression, best score first (ties: the lower index).

    A box goes if its footprint's IoU with a better one that stays is above max_overlap; per_class: only with one of
    its own class. limit: how many stay at most (of each class), the best ones.

    Raises:
        ValueError: boxes without scores.
    """
    if boxes.scores is None:
        raise ValueError("suppression needs scores")
    scores, labels = boxes.scores.detach().cpu().double().numpy(), boxes.labels.cpu().numpy()
    rectangles = footprints(boxes)
    groups = [labels == label for label in np.unique(labels)] if per_class else [np.ones(len(boxes), np.bool_)]
    kept = [np.zeros(0, np.int64)]
    for group in groups:
        index = np.flatnonzero(group)
        kept.append(suppress(rectangles, index[np.argsort(-scores[index], kind="stable")], max_overlap, limit))
    index = np.sort(np.concatenate(kept))
    index = index[np.argsort(-scores[index], kind="stable")]
    return torch.from_numpy(index).to(boxes.centers.device)


def footprints(boxes: Boxes3D) -> Float[np.ndarray, "n 5"]:
    """(x, y, length, width, yaw) in float64, as rotated_rectangles takes them."""
    columns = torch.cat([boxes.centers[:, :2], boxes.sizes[:, :2], boxes.yaw[:, None]], dim=1)
    out: np.ndarray = columns.detach().cpu().double().numpy()
    return out


def _heights(boxes: Boxes3D) -> tuple[np.ndarray, np.ndarray]:
    z, height = boxes.centers[:, 2].detach().cpu().double().numpy(), boxes.sizes[:, 2].detach().cpu().double().numpy()
    return z - height / 2, z + height / 2


def _volumes(boxes: Boxes3D) -> np.ndarray:
    out: np.ndarray = boxes.sizes.detach().cpu().double().prod(1).numpy()
    return out


def _check_frames(a: Boxes3D, b: Boxes3D) -> None:
    if a.frame != b.frame:
        raise ValueError(f"boxes in the frames {a.frame!r} and {b.frame!r} cannot overlap: transform one of them")
