"""Boxes as residuals against anchors, and headings as an angle modulo pi with a bin that says which way.

Zhou and Tuzel, "VoxelNet", CVPR 2018, section 2.2 (residuals); Yan et al., "SECOND", Sensors 2018, section 3.4
(direction). Rows are (x, y, z, length, width, height, yaw), m and rad, of boxes' centres in the LiDAR's frame.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core import Boxes3D

# Directions are bins of pi from this angle on, so that cars along the axes lie in the middle of a bin.
DIRECTION_OFFSET = 0.78539
# No size is decoded to more than e^LIMIT times the anchor's, and none to less than e^-LIMIT.
SIZE_LIMIT = 5.0


def encode(boxes: Float[Tensor, "n 7"], anchors: Float[Tensor, "n 7"]) -> Float[Tensor, "n 7"]:
    """Offsets in units of the anchor's diagonal and height, logarithms of size ratios, difference of yaw."""
    diagonal = anchors[:, 3:5].norm(dim=1, keepdim=True)
    flat = (boxes[:, :2] - anchors[:, :2]) / diagonal
    up = (boxes[:, 2:3] - anchors[:, 2:3]) / anchors[:, 5:6]
    return torch.cat([flat, up, (boxes[:, 3:6] / anchors[:, 3:6]).log(), boxes[:, 6:] - anchors[:, 6:]], dim=1)


def decode(codes: Float[Tensor, "*b 7"], anchors: Float[Tensor, "*b 7"]) -> Float[Tensor, "*b 7"]:
    """The inverse of `encode`; sizes stay within e^SIZE_LIMIT of the anchor's."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    flat = codes[..., :2] * diagonal + anchors[..., :2]
    up = codes[..., 2:3] * anchors[..., 5:6] + anchors[..., 2:3]
    sizes = codes[..., 3:6].clamp(-SIZE_LIMIT, SIZE_LIMIT).exp() * anchors[..., 3:6]
    return torch.cat([flat, up, sizes, codes[..., 6:] + anchors[..., 6:]], dim=-1)


def direction_bin(yaw: Float[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """0 or 1: in which half turn from DIRECTION_OFFSET on the heading lies."""
    turned = torch.remainder(yaw - DIRECTION_OFFSET, 2 * math.pi)
    return (turned / math.pi).long().clamp(max=1)


def turn_into_bin(yaw: Float[Tensor, "*b"], direction: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The heading modulo pi that lies in the bin."""
    out: Tensor = torch.remainder(yaw - DIRECTION_OFFSET, math.pi) + DIRECTION_OFFSET + math.pi * direction
    return out


def box_rows(boxes: Boxes3D) -> Float[Tensor, "n 7"]:
    """(x, y, z, length, width, height, yaw), float32."""
    return torch.cat([boxes.centers, boxes.sizes, boxes.yaw[:, None]], dim=1).float()


def boxes_of(rows: Float[Tensor, "n 7"], labels: Int[Tensor, " n"], scores: Float[Tensor, " n"]) -> Boxes3D:
    """Rows as boxes in the frame "lidar"."""
    return Boxes3D(rows[:, :3], rows[:, 3:6], rows[:, 6], labels, scores, "lidar")
