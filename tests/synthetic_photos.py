"""Photos of a textured room corner, rendered exactly, with their cameras: SIFT likes them, made in a second."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

# Three walls that meet at the origin: origin, two edge vectors (3 units long).
_WALLS = (
    (np.array([0.0, 0, 0]), np.array([3.0, 0, 0]), np.array([0, 3.0, 0])),
    (np.array([0.0, 0, 0]), np.array([0, 3.0, 0]), np.array([0, 0, 3.0])),
    (np.array([0.0, 0, 0]), np.array([0, 0, 3.0]), np.array([3.0, 0, 0])),
)


def _texture(rng: np.random.Generator, side: int = 768) -> np.ndarray:
    """Random blobs at several scales and colours."""
    out = np.full((side, side, 3), 110.0)
    for cells, weight in ((6, 70), (24, 60), (96, 60), (256, 40)):
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        out += weight * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(out, 0, 255).astype(np.uint8)


def look_at(center: np.ndarray, target: np.ndarray) -> np.ndarray:
    """cam_from_world 3x4 of a camera at `center` that looks at `target`; world up is +z."""
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross(z, [0.0, 0, 1])
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return np.concatenate([rotation, -(rotation @ center)[:, None]], axis=1)


def room_corner(folder: Path, count: int, size: tuple[int, int] = (480, 360), seed: int = 0) -> Path:
    """Writes `count` photos view_0.png ... into `folder`; returns a cameras.json beside it with K and poses."""
    rng = np.random.default_rng(seed)
    textures = [_texture(rng) for _ in _WALLS]
    width, height = size
    k = np.array([[1.1 * width, 0, width / 2], [0, 1.1 * width, height / 2], [0, 0, 1]])
    folder.mkdir(parents=True, exist_ok=True)
    cameras = {}
    for i in range(count):
        angle = np.deg2rad(45 + 40 * (i / max(count - 1, 1) - 0.5))
        center = np.array([5 * np.cos(angle), 5 * np.sin(angle), 2.4 + 0.5 * np.sin(3.0 * i)])
        pose = look_at(center, np.array([0.9, 0.9, 0.9]))
        photo = np.full((height, width, 3), 90, np.uint8)
        for texture, (origin, u, v) in zip(textures, _WALLS, strict=True):
            side = texture.shape[0]
            # Texture px, centres at whole numbers + 0.5, to the wall, to the photo.
            world_from_texture = np.stack([u / side, v / side, origin], axis=1)
            image_from_texture = k @ (pose[:, :3] @ world_from_texture + np.outer(pose[:, 3], [0, 0, 1]))
            half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
            warp = np.linalg.inv(half) @ image_from_texture @ half
            flags = cv2.INTER_AREA if side > 2 * width else cv2.INTER_LINEAR
            wall = cv2.warpPerspective(texture, warp, size, flags=flags)
            inside = cv2.warpPerspective(np.full(texture.shape[:2], 255, np.uint8), warp, size) > 127
            photo[inside] = wall[inside]
        name = f"view_{i}.png"
        cv2.imwrite(str(folder / name), photo)
        cameras[name] = {"width": width, "height": height, "K": k.tolist(), "cam_from_world": pose.tolist()}
    path = folder.parent / f"{folder.name}-cameras.json"
    path.write_text(json.dumps({"images": cameras}))
    return path
