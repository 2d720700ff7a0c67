"""The anchor head of SECOND (Yan et al., Sensors 2018, sections 3.4, 3.5): classes, boxes, directions; losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.core import Boxes3D
from vision3d.detection import box_coder
from vision3d.detection.anchors import CAR, CYCLIST, HEADINGS, IGNORED, PEDESTRIAN, AnchorClass, assign, make_anchors
from vision3d.detection.grid import VoxelGrid

# Smooth L1: quadratic below this.
SMOOTH_BELOW = 1 / 9
FOCAL_ALPHA = 0.25


@dataclass(frozen=True, kw_only=True)
class AnchorHeadConfig:
    """classes: in the order of their labels. Weights of the three losses."""

    classes: tuple[AnchorClass, ...] = (CAR, PEDESTRIAN, CYCLIST)
    class_weight: float = 1.0
    box_weight: float = 2.0
    direction_weight: float = 0.2


@dataclass(frozen=True, slots=True)
class AnchorOutput:
    """Of all anchors: class logits, boxes as residuals, logits of the two directions."""

    classes: Float[Tensor, "b n k"]
    codes: Float[Tensor, "b n 7"]
    directions: Float[Tensor, "b n 2"]
    anchors: Float[Tensor, "n 7"]

    def boxes(self) -> Float[Tensor, "b n 7"]:
        """Decoded rows (x, y, z, length, width, height, yaw)."""
        rows = box_coder.decode(self.codes, self.anchors.expand_as(self.codes))
        yaw = box_coder.turn_into_bin(rows[..., 6], self.directions.argmax(-1))
        return torch.cat([rows[..., :6], yaw[..., None]], dim=-1)


@dataclass(frozen=True, slots=True)
class AnchorLosses:
    """Weighted, mean over the batch."""

    classes: Float[Tensor, ""]
    boxes: Float[Tensor, ""]
    directions: Float[Tensor, ""]


class AnchorHead(nn.Module):
    """Three 1x1 convolutions on the view from above."""

    def __init__(self, config: AnchorHeadConfig, grid: VoxelGrid, in_channels: int) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        kinds = len(config.classes)
        places = kinds * len(HEADINGS)
        self.conv_cls = nn.Conv2d(in_channels, places * kinds, 1)
        self.conv_box = nn.Conv2d(in_channels, places * 7, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, places * 2, 1)
        # One anchor in a hundred is an object at first: otherwise the many others swamp the loss (RetinaNet, 4.1).
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - 0.01) / 0.01))  # type: ignore[arg-type]
        nn.init.normal_(self.conv_box.weight, std=0.001)

    def forward(self, x: Float[Tensor, "b c y x"]) -> AnchorOutput:
        """Anchors: as many as y x x cells hold."""
        kinds = len(self.config.classes)

        cells = x.movedim(1, -1).contiguous()

        def rows(conv: nn.Conv2d, width: int) -> Tensor:
            # As a matrix product: torch's 1x1 convolution takes a slow path on one thread, above all backwards.
            return F.linear(cells, conv.weight.flatten(1), conv.bias).float().reshape(len(x), -1, width)

        anchors = make_anchors(self.config.classes, self.grid, (x.shape[2], x.shape[3])).to(x.device)
        return AnchorOutput(rows(self.conv_cls, kinds), rows(self.conv_box, 7), rows(self.conv_dir_cls, 2), anchors)

    def losses(self, out: AnchorOutput, boxes: Sequence[Boxes3D]) -> AnchorLosses:
        """Against the true boxes of each cloud (frame "lidar", labels: indices of config.classes)."""
        config = self.config
        terms = [
            _one_cloud(out.classes[b], out.codes[b], out.directions[b], out.anchors, config.classes, truth)
            for b, truth in enumerate(boxes)
        ]
        classes, codes, directions = (torch.stack(term).mean() for term in zip(*terms, strict=True))
        weights = (config.class_weight, config.box_weight, config.direction_weight)
        return AnchorLosses(classes * weights[0], codes * weights[1], directions * weights[2])


def sigmoid_focal(logits: Float[Tensor, "*b"], truth: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Focal loss with gamma 2 and alpha FOCAL_ALPHA (Lin et al., "RetinaNet", ICCV 2017, equation 5)."""
    wrong = torch.where(truth > 0, -logits, logits).sigmoid()
    share = torch.where(truth > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    return share * wrong.square() * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")


def smooth_l1(difference: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Quadratic below SMOOTH_BELOW."""
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=SMOOTH_BELOW)


def _one_cloud(
    classes: Tensor, codes: Tensor, directions: Tensor, anchors: Tensor, kinds: Sequence[AnchorClass], truth: Boxes3D
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the anchors, divided by how many answer for a box."""
    rows = box_coder.box_rows(truth).to(anchors)
    found = assign(anchors, kinds, rows, truth.labels.to(anchors.device))
    positive = (found.labels > 0).nonzero()[:, 0]
    count = max(1, len(positive))
    one_hot = F.one_hot(found.labels.clamp(min=0), len(kinds) + 1)[:, 1:].to(classes)
    counted = found.labels != IGNORED
    class_loss = sigmoid_focal(classes[counted], one_hot[counted]).sum() / count
    if not len(positive):
        return class_loss, codes.sum() * 0, directions.sum() * 0
    boxes = rows[found.box[positive]]
    wanted = box_coder.encode(boxes, anchors[positive])
    mine = codes[positive]
    # Yaw by the sine of its error: a box turned by pi costs nothing here, that is what directions are for.
    difference = torch.cat([mine[:, :6] - wanted[:, :6], torch.sin(mine[:, 6:] - wanted[:, 6:])], dim=1)
    box_loss = smooth_l1(difference).sum() / count
    bins = box_coder.direction_bin(boxes[:, 6])
    return class_loss, box_loss, F.cross_entropy(directions[positive], bins, reduction="sum") / count
