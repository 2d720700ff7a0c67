"""Overlaps of the KITTI object evaluation: in the image, seen from above, and in space, of all pairs in each frame.

Rules of the official evaluation (object development kit): intersection over union of a result and a ground truth, and
for DontCare the share of the result that it covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int64

from vision3d.eval.kitti_frames import KittiFrames
from vision3d.geometry.rotated_rectangles import shared_area

IMAGE, GROUND, SPACE = 0, 1, 2
_NJIT = numba.njit(cache=True, nogil=True, error_model="numpy")


@dataclass(frozen=True, slots=True)
class FrameOverlaps:
    """Per kind (image, ground, space): pairs, result by result within a frame, and what DontCare covers of results.

    The pair of result j and ground truth i of frame f stands at starts[f] + j * (ground truths of f) + i.
    """

    pairs: Float64[np.ndarray, "3 p"]
    starts: Int64[np.ndarray, " frames_and_one"]
    excused: Float64[np.ndarray, "3 d"]


def compute_overlaps(frames: KittiFrames) -> FrameOverlaps:
    """All overlaps of all frames, in float64."""
    truth, results = frames.truth, frames.results
    sizes = np.diff(truth.starts) * np.diff(results.starts)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    pairs = np.zeros((3, int(starts[-1])))
    excused = np.zeros((3, len(results.objects)))
    _overlaps(
        truth.starts, results.starts, starts,
        truth.objects.boxes_2d, results.objects.boxes_2d,
        truth.rectangles(), results.rectangles(),
        _heights(truth.objects.locations, truth.objects.dimensions),
        _heights(results.objects.locations, results.objects.dimensions),
        truth.objects.dimensions.prod(1), results.objects.dimensions.prod(1),
        truth.types == "dontcare", pairs, excused,
    )  # fmt: skip
    return FrameOverlaps(pairs, starts, excused)


def _heights(locations: np.ndarray, dimensions: np.ndarray) -> Float64[np.ndarray, "n 2"]:
    """Top and bottom of the boxes along y, which points down."""
    return np.stack([locations[:, 1] - dimensions[:, 0], locations[:, 1]], axis=1)


@_NJIT  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _overlaps(
    gt_starts, det_starts, pair_starts, gt_2d, det_2d, gt_ground, det_ground, gt_y, det_y, gt_volume, det_volume,
    dont_care, pairs, excused,
):  # fmt: skip  # pragma: no cover (compiled)
    for f in range(gt_starts.shape[0] - 1):
        first, count = gt_starts[f], gt_starts[f + 1] - gt_starts[f]
        for d in range(det_starts[f], det_starts[f + 1]):
            area_2d = (det_2d[d, 2] - det_2d[d, 0]) * (det_2d[d, 3] - det_2d[d, 1])
            area = max(det_ground[d, 2], 0.0) * max(det_ground[d, 3], 0.0)
            for k in range(count):
                g = first + k
                at = pair_starts[f] + (d - det_starts[f]) * count + k
                w = min(det_2d[d, 2], gt_2d[g, 2]) - max(det_2d[d, 0], gt_2d[g, 0])
                h = min(det_2d[d, 3], gt_2d[g, 3]) - max(det_2d[d, 1], gt_2d[g, 1])
                inter_2d = w * h if w > 0 and h > 0 else 0.0
                inter = shared_area(
                    gt_ground[g, 0], gt_ground[g, 1], gt_ground[g, 2], gt_ground[g, 3], gt_ground[g, 4],
                    det_ground[d, 0], det_ground[d, 1], det_ground[d, 2], det_ground[d, 3], det_ground[d, 4],
                )  # fmt: skip
                inter_3d = inter * max(0.0, min(det_y[d, 1], gt_y[g, 1]) - max(det_y[d, 0], gt_y[g, 0]))
                if dont_care[g]:
                    if inter_2d > 0:
                        excused[0, d] = max(excused[0, d], inter_2d / area_2d)
                    if inter > 0:
                        excused[1, d] = max(excused[1, d], inter / area)
                    if inter_3d > 0:
                        excused[2, d] = max(excused[2, d], inter_3d / det_volume[d])
                    continue
                if inter_2d > 0:
                    area_gt = (gt_2d[g, 2] - gt_2d[g, 0]) * (gt_2d[g, 3] - gt_2d[g, 1])
                    pairs[0, at] = inter_2d / (area_2d + area_gt - inter_2d)
                if inter > 0:
                    area_gt = max(gt_ground[g, 2], 0.0) * max(gt_ground[g, 3], 0.0)
                    pairs[1, at] = inter / (area + area_gt - inter)
                if inter_3d > 0:
                    pairs[2, at] = inter_3d / (det_volume[d] + gt_volume[g] - inter_3d)
