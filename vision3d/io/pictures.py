"""Pictures for people: two photos side by side with their matches drawn as lines."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

GAP_PX = 8
DIM = 0.8  # photos are darkened a little so that lines stand out


def draw_matches(
    rgb0: UInt8[np.ndarray, "h0 w0 3"],
    rgb1: UInt8[np.ndarray, "h1 w1 3"],
    points0: Float[np.ndarray, "n 2"],
    points1: Float[np.ndarray, "m 2"],
    colors: UInt8[np.ndarray, "n 3"] | None = None,
    *,
    height: int = 640,
    max_lines: int = 300,
    background: tuple[int, int, int] = (24, 26, 30),
) -> UInt8[np.ndarray, "h w 3"]:
    """Both photos at the same height, side by side, with a line from points0[i] to points1[i] (px of rgb0, rgb1).

    height: of the picture in px; photos are never enlarged. max_lines: beyond it, an even subset is drawn.
    colors: RGB per match; by default the hue follows the height of points0, so that a wrong match crosses lines of
    other colours. Matches that are not finite or outside their photo are not drawn.
    """
    if len(points0) != len(points1):
        raise ValueError(f"points0 and points1 must have the same length, got {len(points0)} and {len(points1)}")
    height = max(1, min(height, max(rgb0.shape[0], rgb1.shape[0])))
    left, scale0 = _fit(rgb0, height)
    right, scale1 = _fit(rgb1, height)
    offset = left.shape[1] + GAP_PX
    canvas = np.full((height, offset + right.shape[1], 3), background, np.uint8)
    for photo, x in ((left, 0), (right, offset)):
        y = (height - photo.shape[0]) // 2
        canvas[y : y + photo.shape[0], x : x + photo.shape[1]] = (photo * DIM).astype(np.uint8)

    inside = _inside(points0, rgb0) & _inside(points1, rgb1)
    if colors is None:
        colors = _rainbow(points0[:, 1] / rgb0.shape[0])
    index = np.flatnonzero(inside)
    if len(index) > max_lines:
        index = index[np.linspace(0, len(index) - 1, max(max_lines, 0)).astype(np.int64)]
    start = points0[index] * scale0 + (0, (height - left.shape[0]) // 2)
    end = points1[index] * scale1 + (offset, (height - right.shape[0]) // 2)
    return _lines(canvas, start, end, colors[index])


def _fit(rgb: UInt8[np.ndarray, "h w 3"], height: int) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Float[np.ndarray, " xy"]]:
    """The photo shrunk to at most `height` px, and the factors (x, y) that its points were multiplied by."""
    h, w = rgb.shape[:2]
    if h <= height:
        return rgb, np.ones(2)
    size = (max(1, round(w * height / h)), height)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)), np.array([size[0] / w, size[1] / h])


def _inside(points: Float[np.ndarray, "n 2"], rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, " n"]:
    """Which points are finite and within the photo (NaN compares as false)."""
    inside: np.ndarray = np.all((points >= 0) & (points <= (rgb.shape[1], rgb.shape[0])), axis=1)
    return inside


def _rainbow(values: Float[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """RGB for values in [0, 1], red over green to violet; values that are not finite become red."""
    hue = np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), 0, 1) * 150  # OpenCV's hue has 180 steps
    hsv = np.stack([hue, np.full_like(hue, 190), np.full_like(hue, 255)], axis=1).astype(np.uint8)
    if not len(hsv):
        return hsv
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0])


def _lines(
    canvas: UInt8[np.ndarray, "h w 3"],
    start: Float[np.ndarray, "n 2"],
    end: Float[np.ndarray, "n 2"],
    colors: UInt8[np.ndarray, "n 3"],
) -> UInt8[np.ndarray, "h w 3"]:
    """Half-transparent lines with a dot at each end; OpenCV puts (0, 0) at a pixel's centre, hence the -0.5."""
    width = max(1, round(canvas.shape[0] / 500))
    radius = max(2, round(canvas.shape[0] / 250))
    ends = [
        (tuple(np.rint((a - 0.5) * 16).astype(int).tolist()), tuple(np.rint((b - 0.5) * 16).astype(int).tolist()))
        for a, b in zip(start, end, strict=True)
    ]
    rgb = [tuple(c) for c in colors.tolist()]
    overlay = canvas.copy()
    for (a, b), color in zip(ends, rgb, strict=True):
        cv2.line(overlay, a, b, color, width, cv2.LINE_AA, 4)
    out = np.asarray(cv2.addWeighted(overlay, 0.65, canvas, 0.35, 0))
    for (a, b), color in zip(ends, rgb, strict=True):
        for point in (a, b):
            cv2.circle(out, point, (radius + 1) * 16, (0, 0, 0), -1, cv2.LINE_AA, 4)
            cv2.circle(out, point, radius * 16, color, -1, cv2.LINE_AA, 4)
    return out
