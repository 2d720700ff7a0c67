"""Pictures of two or more point clouds from three directions, each cloud in a colour of its own."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

# Orange, blue, then what is told apart from them and from each other (M. Okabe and K. Ito's palette).
COLORS = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [204, 121, 167], [213, 94, 0], [0, 114, 178]],
    np.uint8,
)
BACKGROUND = (24, 26, 30)
MOST_POINTS = 150_000  # drawn of a cloud


def cloud_color(k: int) -> UInt8[np.ndarray, " 3"]:
    """RGB of cloud k; they repeat after seven."""
    out: np.ndarray = COLORS[k % len(COLORS)]
    return out


def draw_clouds(clouds: list[Float[np.ndarray, "_ 3"]], title: str, size: int = 480) -> UInt8[np.ndarray, "h w 3"]:
    """Three orthographic views side by side: from above and from two sides, along the axes of the points' spread.

    size: height in px, and width of a view. The farther a point, the darker. The 0.5 % outermost points may lie
    outside.
    """
    thinned = [c[:: max(1, len(c) // MOST_POINTS)] for c in clouds]
    points = np.concatenate(thinned)
    colors = np.concatenate([np.tile(cloud_color(k), (len(c), 1)) for k, c in enumerate(thinned)])
    axes = _axes(points)
    local = (points - np.median(points, axis=0)) @ axes.T
    views = [_view(local[:, list(order)], colors, size) for order in ((0, 1, 2), (0, 2, 1), (1, 2, 0))]
    gap = np.full((size, 6, 3), 60, np.uint8)
    canvas = np.concatenate([views[0], gap, views[1], gap, views[2]], axis=1)
    bar = np.full((34, canvas.shape[1], 3), BACKGROUND, np.uint8)
    cv2.putText(bar, title, (10, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([bar, canvas])


def png(rgb: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The picture as PNG."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not ok:
        raise RuntimeError("OpenCV could not encode the picture as PNG")
    return bytes(data)


def _axes(points: np.ndarray) -> np.ndarray:
    """Rows: the directions of most, middle and least spread; right-handed."""
    centered = points - np.median(points, axis=0)
    reach = np.quantile(np.linalg.norm(centered, axis=1), 0.95)
    near = centered[np.linalg.norm(centered, axis=1) <= reach]
    _, vectors = np.linalg.eigh(near.T @ near)
    axes: np.ndarray = vectors.T[::-1].copy()
    axes[2] *= np.sign(np.linalg.det(axes)) or 1.0
    return axes


def _view(points: np.ndarray, colors: np.ndarray, size: int) -> np.ndarray:
    """Painted from far to near, two pixels a point; the third coordinate comes towards the viewer."""
    low, high = np.quantile(points, 0.005, axis=0), np.quantile(points, 0.995, axis=0)
    extent = max(float((high - low)[:2].max()), 1e-12)
    scale = 0.94 * size / extent
    x, y = (((points[:, :2] - (low + high)[:2] / 2) * scale * (1, -1)) + size / 2).T
    depth = np.clip((points[:, 2] - low[2]) / max(float(high[2] - low[2]), 1e-12), 0, 1)
    inside = (x >= 0) & (x < size - 1) & (y >= 0) & (y < size - 1)
    order = np.flatnonzero(inside)[np.argsort(depth[inside], kind="stable")]
    shaded = (colors[order] * (0.35 + 0.65 * depth[order])[:, None]).astype(np.uint8)
    canvas = np.full((size, size, 3), BACKGROUND, np.uint8)
    column, row = x[order].astype(np.int64), y[order].astype(np.int64)
    for down, right in ((1, 1), (1, 0), (0, 1), (0, 0)):
        canvas[row + down, column + right] = shaded
    return canvas
