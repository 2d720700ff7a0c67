"""A still picture of cameras and coloured points: z-buffered discs, shaded at depth edges (eye-dome lighting)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vision3d.core import Scene
from vision3d.recon.report.scene_view import FIELD_OF_VIEW, fit, turn, view_of

SUPERSAMPLING = 2
TOP, BOTTOM = (30, 34, 44), (13, 15, 20)  # background
CAMERA = (255, 176, 64)


def draw_overview(
    scene: Scene,
    size: tuple[int, int] = (1280, 720),
    photos: Mapping[str, UInt8[np.ndarray, "_h _w 3"]] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The scene from behind its cameras, a little from the side and above; RGB, size is (width, height) px.

    photos: RGB by name, any size, put on the cameras they belong to.
    """
    if min(size) < 1:
        raise ValueError(f"the picture needs a positive size, got {size}")
    width, height = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    view = view_of(scene)
    rotation = turn(view.yaw, view.pitch)
    distance, x, y = fit(view.framing, view.near, view.yaw, view.pitch, width / height)
    focal = height / 2 / math.tan(FIELD_OF_VIEW / 2)

    def project(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """px of the picture and the depth before the eye, where 0 and less is behind it."""
        seen = points @ rotation.T - (x, y, distance)
        depth = -seen[:, 2]
        safe = np.maximum(depth, 1e-6)
        return np.stack([width / 2 + focal * seen[:, 0] / safe, height / 2 - focal * seen[:, 1] / safe, depth], axis=1)

    picture = _background(width, height)
    depths = np.full((height, width), np.inf, np.float32)
    _splat(picture, depths, project(view.points), view.colors, focal * view.point_size)
    picture = _shade_edges(picture, depths)
    projected = [(f.name, project(np.concatenate([f.center[None], f.corners]))) for f in view.frustums]
    for name, seen in sorted(projected, key=lambda item: -float(item[1][0, 2])):
        if (seen[:, 2] > 0.02).all() and (np.abs(seen[:, :2]) < 10 * max(width, height)).all():
            _frustum(picture, depths, seen, (photos or {}).get(name))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _background(width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    ramp = np.linspace(0, 1, height)[:, None, None]
    colors = np.array(TOP) * (1 - ramp) + np.array(BOTTOM) * ramp
    return np.repeat(colors.astype(np.uint8), width, axis=1)


def _splat(
    picture: UInt8[np.ndarray, "h w 3"],
    depths: Float[np.ndarray, "h w"],
    seen: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"],
    size: float,
) -> None:
    """Draws discs of `size` / depth px radius into picture and depths, the nearest on top."""
    height, width = depths.shape
    order = np.argsort(-seen[:, 2], kind="stable")
    order = order[seen[order, 2] > 0.02]
    px, depth, colors = seen[order, :2], seen[order, 2].astype(np.float32), colors[order]
    radius = np.clip(size / depth, 1.0, 9.0)
    reach = math.ceil(float(radius.max(initial=0)))
    corner = np.floor(np.clip(px, -1e6, 1e6)).astype(np.int64)
    flat_depths, flat_picture = depths.reshape(-1), picture.reshape(-1, 3)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            u, v = corner[:, 0] + dx, corner[:, 1] + dy
            near = dx * dx + dy * dy <= radius * radius
            index = np.flatnonzero(near & (u >= 0) & (u < width) & (v >= 0) & (v < height))
            pixel = v[index] * width + u[index]
            front = depth[index] < flat_depths[pixel]
            index, pixel = index[front], pixel[front]
            flat_depths[pixel] = depth[index]  # sorted from far to near: of repeated pixels the last, nearest stays
            flat_picture[pixel] = colors[index]


def _shade_edges(picture: UInt8[np.ndarray, "h w 3"], depths: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Darkens what lies behind its neighbours, so that shapes stand out of a cloud of dots."""
    drawn = np.isfinite(depths)
    if not drawn.any():
        return picture
    logs = np.log(np.where(drawn, depths, depths[drawn].max() * 1.05)).astype(np.float32)
    deeper = np.zeros_like(logs)
    for dx, dy in ((4, 0), (-4, 0), (0, 4), (0, -4), (3, 3), (-3, -3), (3, -3), (-3, 3)):
        shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        neighbour = cv2.warpAffine(logs, shift, logs.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        deeper += np.clip(logs - neighbour, 0, 0.25)
    shade = np.where(drawn, np.exp(-0.9 * deeper), 1.0)
    return (picture * shade[..., None]).astype(np.uint8)


def _frustum(
    picture: UInt8[np.ndarray, "h w 3"],
    depths: Float[np.ndarray, "h w"],
    seen: Float[np.ndarray, "5 3"],
    photo: UInt8[np.ndarray, "_h _w 3"] | None,
) -> None:
    """Blends one camera into the picture: lines, and its photo or a tint; fainter where points hide it."""
    size = np.array(depths.shape[::-1])
    low = (np.floor(seen[:, :2].min(axis=0)).astype(int) - 4).clip(0, size)
    high = (np.ceil(seen[:, :2].max(axis=0)).astype(int) + 5).clip(0, size)
    if (high <= low).any():
        return
    box = picture[low[1] : high[1], low[0] : high[0]]
    layer = box.copy()
    corners = seen[1:, :2] - low
    outline = np.rint(corners * 16).astype(np.int32)
    if photo is not None and min(photo.shape[:2]) > 1 and cv2.contourArea(corners.astype(np.float32)) > 4:
        _put_photo(layer, photo, corners)
    else:
        cv2.fillConvexPoly(layer, outline, [round(0.35 * c) for c in CAMERA], cv2.LINE_AA, 4)
    apex = np.rint((seen[0, :2] - low) * 16).astype(np.int32)
    for corner in outline:
        cv2.line(layer, apex.tolist(), corner.tolist(), CAMERA, SUPERSAMPLING, cv2.LINE_AA, 4)
    cv2.polylines(layer, [outline], True, CAMERA, SUPERSAMPLING + 1, cv2.LINE_AA, 4)
    strength = 0.92 - 0.6 * _hidden(depths, seen)
    box[:] = cv2.addWeighted(layer, strength, box, 1 - strength, 0)


def _hidden(depths: Float[np.ndarray, "h w"], seen: Float[np.ndarray, "5 3"]) -> float:
    """Share of the centre and corners that lie behind drawn points."""
    height, width = depths.shape
    u, v = np.floor(seen[:, :2]).astype(np.int64).T
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    behind = depths[v[inside], u[inside]] < seen[inside, 2] - 0.02
    return float(behind.mean()) if len(behind) else 0.0


def _put_photo(
    layer: UInt8[np.ndarray, "h w 3"], photo: UInt8[np.ndarray, "_h _w 3"], corners: Float[np.ndarray, "4 2"]
) -> None:
    """Warps the photo onto its four corners, in place."""
    h, w = photo.shape[:2]
    shrink = min(1.0, 2 * float(np.ptp(corners, axis=0).max()) / max(h, w))
    if shrink < 1:  # area resampling first: the warp itself would alias
        size = (max(2, round(w * shrink)), max(2, round(h * shrink)))
        photo = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA))
        h, w = photo.shape[:2]
    source = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    transform = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    size = (layer.shape[1], layer.shape[0])
    cover = cv2.warpPerspective(np.full((h, w), 255, np.uint8), transform, size)[..., None] / 255
    layer[:] = cv2.warpPerspective(photo, transform, size) * cover + layer * (1 - cover)
