"""From scored boxes to detections: threshold, the best ones, non-maximum suppression of rotated footprints."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core import Boxes3D
from vision3d.detection.box_coder import boxes_of
from vision3d.geometry.boxes_overlap import nms_bev


@dataclass(frozen=True, kw_only=True)
class SuppressionConfig:
    """min_score: below it boxes go. max_overlap: IoU from above with a better box beyond which a box goes, whatever
    their classes. candidates: the best ones that are looked at; most: how many are left at most."""

    min_score: float = 0.1
    max_overlap: float = 0.01
    candidates: int = 4096
    most: int = 500

    def __post_init__(self) -> None:
        if not (0 <= self.min_score <= 1 and 0 <= self.max_overlap <= 1) or min(self.candidates, self.most) < 1:
            raise ValueError(f"min_score and max_overlap lie in 0..1, counts are at least 1, got {self}")


def select_boxes(
    rows: Float[Tensor, "n 7"], labels: Int[Tensor, " n"], scores: Float[Tensor, " n"], config: SuppressionConfig
) -> Boxes3D:
    """What is left, best first (ties: the earlier row), in the frame "lidar". Rows that are not finite go."""
    kept = (scores >= config.min_score) & torch.isfinite(rows).all(1) & torch.isfinite(scores)
    index = kept.nonzero()[:, 0]
    order = torch.sort(scores[index], descending=True, stable=True).indices[: config.candidates]
    index = index[order]
    boxes = boxes_of(rows[index], labels[index], scores[index])
    return boxes.select(nms_bev(boxes, config.max_overlap, per_class=False, limit=config.most))
