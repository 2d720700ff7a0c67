"""Pictures of an alignment: canonical coordinates as colours, the canonical space itself, points carried over."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

# Colours of the corners of the canonical space: top left, top right, bottom left, bottom right; linear between them.
CORNERS = np.array([[235, 64, 52], [250, 210, 60], [60, 90, 240], [50, 200, 120]], np.float32)
TINT = 0.65  # of the colour over the object
DIM = 0.35  # of the photo around it
CANONICAL_PX = 128  # side of the canonical picture before it is enlarged
SPLAT_PX = 256  # side that photos and coordinates are brought to before they are put there
BACKGROUND = 24


def code(coordinates: Float[np.ndarray, "h w 2"]) -> UInt8[np.ndarray, "h w 3"]:
    """The colour of canonical coordinates, those beyond [-1, 1] taken to the border."""
    t = (np.clip(coordinates, -1, 1).astype(np.float32) + 1) / 2
    x, y = t[..., :1], t[..., 1:]
    top, bottom = CORNERS[0] * (1 - x) + CORNERS[1] * x, CORNERS[2] * (1 - x) + CORNERS[3] * x
    out: np.ndarray = (top * (1 - y) + bottom * y).round().astype(np.uint8)
    return out


def coordinates_picture(
    rgb: UInt8[np.ndarray, "H W 3"], coordinates: Float[Tensor, "2 h w"], mask: Bool[Tensor, "h w"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The photo with its object tinted by canonical coordinates, the rest darkened."""
    height, width = rgb.shape[:2]
    place, share = _enlarged(coordinates, (height, width)), _enlarged(mask[None].float(), (height, width))
    tinted = TINT * code(place) + (1 - TINT) * rgb.astype(np.float32)
    inside = share > 0.5  # [H W 1]
    out: np.ndarray = np.where(inside, tinted, DIM * rgb.astype(np.float32)).round().astype(np.uint8)
    return out


def canonical_picture(
    photos: Sequence[UInt8[np.ndarray, "_ _ 3"]], coordinates: Float[Tensor, "n 2 h w"], mask: Bool[Tensor, "n h w"]
) -> UInt8[np.ndarray, "S T 3"]:
    """The canonical space: left the mean colour of what all objects put there, right the colour code of places that
    are filled."""
    side = CANONICAL_PX
    total, weight = np.zeros((side * side, 3)), np.zeros(side * side)
    for photo, place, inside in zip(photos, coordinates, mask, strict=True):
        rgb = cv2.resize(photo, (SPLAT_PX, SPLAT_PX), interpolation=cv2.INTER_AREA).reshape(-1, 3)
        xy = _enlarged(place, (SPLAT_PX, SPLAT_PX)).reshape(-1, 2)
        keep = _enlarged(inside[None].float(), (SPLAT_PX, SPLAT_PX)).reshape(-1) > 0.5
        keep &= np.all(np.abs(xy) < 1, axis=1)
        cell = ((xy[keep] + 1) / 2 * side).astype(np.int64).clip(0, side - 1)
        index = cell[:, 1] * side + cell[:, 0]
        for channel in range(3):
            total[:, channel] += np.bincount(index, rgb[keep, channel], side * side)
        weight += np.bincount(index, minlength=side * side)
    # Small holes between the samples are filled from their neighbours.
    blurred = cv2.GaussianBlur(total.reshape(side, side, 3), (0, 0), 0.8)
    count = cv2.GaussianBlur(weight.reshape(side, side), (0, 0), 0.8)
    filled = count > 0.25
    mean = np.where(filled[..., None], blurred / np.maximum(count, 1e-9)[..., None], BACKGROUND)
    line = (np.arange(side) + 0.5) / side * 2 - 1
    colours = code(np.stack(np.meshgrid(line, line), axis=-1))
    shown = np.where(filled[..., None], colours, BACKGROUND)
    both = np.concatenate([mean, np.full((side, 4, 3), 255.0), shown], axis=1).round().clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(both, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST))


def points_picture(
    rgb: UInt8[np.ndarray, "H W 3"],
    points: Float[np.ndarray, "n 2"],
    colors: UInt8[np.ndarray, "n 3"],
    filled: Bool[np.ndarray, " n"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Points (px of the photo) as discs, as rings where not `filled`."""
    out = rgb.copy()
    radius = max(3, round(max(rgb.shape[:2]) / 90))
    for (x, y), color, full in zip((points - 0.5).tolist(), colors.tolist(), filled.tolist(), strict=True):
        centre = (round(x * 16), round(y * 16))
        cv2.circle(out, centre, (radius + 1) * 16, (0, 0, 0), -1 if full else 3, cv2.LINE_AA, 4)
        cv2.circle(out, centre, radius * 16, color, -1 if full else 1, cv2.LINE_AA, 4)
    return out


def sheet(rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]], tile: int = 200) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures in rows, each fitted into a square of `tile` px."""
    columns = max(len(row) for row in rows)
    out = np.full((len(rows) * tile, columns * tile, 3), BACKGROUND, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            factor = (tile - 4) / max(picture.shape[:2])
            size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            y, x = r * tile + (tile - size[1]) // 2, c * tile + (tile - size[0]) // 2
            out[y : y + size[1], x : x + size[0]] = small
    return out


def pixels(rgb: Float[Tensor, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """An image in [0, 1] as bytes."""
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def png(picture: Shaped[np.ndarray, "H W 3"]) -> bytes:
    """Encoded as PNG."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise RuntimeError("OpenCV could not encode the picture as PNG")
    return bytes(data)


def _enlarged(values: Float[Tensor, "c h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W c"]:
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
