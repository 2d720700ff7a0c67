"""Pictures of a scan and its boxes: from above, in the camera's photo, and as a coloured cloud."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vision3d.core import Boxes3D, Image, PointCloud
from vision3d.io.kitti import KittiCalibration

# Of a class by its number, red green blue.
COLORS = ((255, 140, 0), (0, 200, 255), (120, 230, 60), (255, 70, 160), (200, 140, 255))
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
NEAR = 0.5  # m in front of the camera, where edges are cut off


def color_of(label: int) -> tuple[int, int, int]:
    """Red, green, blue of a class."""
    return COLORS[label % len(COLORS)]


def draw_from_above(
    cloud: PointCloud,
    boxes: Boxes3D,
    classes: Sequence[str],
    area: tuple[float, float, float, float],
    width: int = 1000,
) -> UInt8[np.ndarray, "h w 3"]:
    """The scan from above, x up and y to the left, brighter where higher; boxes with a line at their front.

    area: (x min, y min, x max, y max) m of the picture; width: px. A grid line every 10 m.
    """
    x0, y0, x1, y1 = area
    scale = width / (y1 - y0)
    height = max(1, round((x1 - x0) * scale))
    picture = np.full((height, width, 3), 16, np.uint8)
    for meters in range(math.ceil(x0 / 10) * 10, math.floor(x1) + 1, 10):
        row = round((x1 - meters) * scale)
        cv2.line(picture, (0, row), (width, row), (40, 40, 40), 1)
        cv2.putText(
            picture, f"{meters} m", (4, row - 3), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (120, 120, 120), 1, cv2.LINE_AA
        )
    points = cloud.points.float().numpy()
    low, high = np.quantile(points[:, 2], (0.02, 0.98)) if len(points) else (0.0, 1.0)
    order = np.argsort(points[:, 2], kind="stable")  # the highest point of a pixel is the one that shows
    u, v = np.floor((y1 - points[order, 1]) * scale), np.floor((x1 - points[order, 0]) * scale)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    shade = 70 + 185 * np.clip((points[order, 2] - low) / max(high - low, 1e-3), 0, 1)
    picture[v[inside].astype(int), u[inside].astype(int)] = shade[inside, None].astype(np.uint8)
    corners = boxes.corners()[:, :4, :2].float().numpy()
    for i, label in enumerate(boxes.labels.tolist()):
        outline = np.stack([(y1 - corners[i, :, 1]) * scale, (x1 - corners[i, :, 0]) * scale], axis=1)
        color = color_of(label)
        cv2.polylines(picture, [outline.round().astype(np.int32)], True, color, 1, cv2.LINE_AA)
        front, middle = (outline[0] + outline[3]) / 2, outline.mean(0)
        cv2.line(picture, _pixel(middle), _pixel(front), color, 2, cv2.LINE_AA)
        text = classes[label] + (f" {float(boxes.scores[i]):.2f}" if boxes.scores is not None else "")
        cv2.putText(picture, text, _pixel(outline.max(0)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
    return picture


def draw_in_photo(
    image: Image, calibration: KittiCalibration, boxes: Boxes3D, classes: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """The left colour photo with the edges of the boxes, cut off where they pass behind the camera."""
    picture = np.ascontiguousarray((image.rgb.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
    camera = calibration.camera(2, *image.original_size)
    corners = calibration.cam_from_velo(2).apply(boxes.corners().double())
    for i, label in enumerate(boxes.labels.tolist()):
        shown = [part for part in (_before_camera(*corners[i, list(edge)]) for edge in EDGES) if part is not None]
        if not shown:
            continue
        pixels, _ = camera.project(torch.stack(shown))
        pixels = image.from_original(pixels)
        for start, end in pixels.numpy():
            cv2.line(picture, _pixel(start), _pixel(end), color_of(label), 2, cv2.LINE_AA)
        text = classes[label] + (f" {float(boxes.scores[i]):.2f}" if boxes.scores is not None else "")
        top = pixels.reshape(-1, 2).amin(0).clamp(min=12)
        cv2.putText(picture, text, _pixel(top.numpy()), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color_of(label), 1, cv2.LINE_AA)
    return picture


def cloud_with_boxes(cloud: PointCloud, boxes: Boxes3D, spacing: float = 0.04) -> PointCloud:
    """The scan in grey, points inside boxes in their class's colour, and the boxes' edges as dots `spacing` m apart."""
    points = cloud.points.float()
    colors = torch.full((len(points), 3), 0.55)
    parts, tints = [points], [colors]
    inside = boxes.contains(points)
    corners = boxes.corners().float()
    for i, label in enumerate(boxes.labels.tolist()):
        tint = torch.tensor(color_of(label)) / 255
        colors[inside[i]] = tint
        edges = torch.cat([_dots(corners[i, a], corners[i, b], spacing) for a, b in EDGES])
        front = _dots(corners[i, [0, 3]].mean(0), corners[i, :4].mean(0), spacing)
        parts += [edges, front]
        tints += [tint.expand(len(edges), 3), tint.expand(len(front), 3)]
    return PointCloud(torch.cat(parts), torch.cat(tints), cloud.frame)


def _dots(start: Float[Tensor, " 3"], end: Float[Tensor, " 3"], spacing: float) -> Float[Tensor, "n 3"]:
    count = max(2, math.ceil(float((end - start).norm()) / spacing))
    return start + torch.linspace(0, 1, count)[:, None] * (end - start)


def _before_camera(start: Float[Tensor, " 3"], end: Float[Tensor, " 3"]) -> Float[Tensor, "2 3"] | None:
    """The part of an edge (in the camera's frame) that is at least NEAR m before the camera."""
    depths = (float(start[2]), float(end[2]))
    if max(depths) <= NEAR:
        return None
    if min(depths) < NEAR:
        cut = start + (NEAR - depths[0]) / (depths[1] - depths[0]) * (end - start)
        start, end = (cut, end) if depths[0] < NEAR else (start, cut)
    return torch.stack([start, end])


def _pixel(point: Float[np.ndarray, " 2"]) -> tuple[int, int]:
    """Whole px for OpenCV, kept to what its integers hold."""
    x, y = np.clip(point, -30000, 30000).round().astype(int)
    return int(x), int(y)
