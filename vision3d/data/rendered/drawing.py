"""Draws a textured room: exact first hits, mip-mapped textures, diffuse lamps, averaged over rays within each pixel.

L. Williams, "Pyramidal parametrics", SIGGRAPH 1983: the level of the texture whose texels are as large as what a ray
stands for.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from vision3d.data.mesh_raster import first_hits
from vision3d.data.rendered.scene import TexturedRoom

_RAYS = 3  # along each side of a pixel; odd, so that one goes through its centre


def draw_room(
    room: TexturedRoom,
    levels: list[UInt8[np.ndarray, "_ _ _ 3"]],
    world_from_cam: Float64[np.ndarray, "3 4"],
    intrinsics: tuple[float, float, float, float],
    width: int,
    height: int,
) -> tuple[Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Linear light (not yet exposed) and depth z in metres at pixel centres, 0 where nothing is hit.

    levels: the textures' pyramid. world_from_cam: rotation and position; x right, y down, z forward. intrinsics: fx,
    fy, cx, cy px.
    """
    rotation, position = world_from_cam[:, :3], world_from_cam[:, 3]
    corners = np.ascontiguousarray((room.corners - position) @ rotation)
    lamps = room.lamps.copy()
    lamps[:, :3] = (lamps[:, :3] - position) @ rotation
    scaled = tuple(v * _RAYS for v in intrinsics)
    fx, fy, cx, cy = scaled
    face, weights, depth = first_hits(corners, (fx, fy, cx, cy), width * _RAYS, height * _RAYS)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    packed = np.concatenate([level.reshape(len(level), -1, 3) for level in levels], axis=1)
    light = np.zeros((height, width, 3), np.float32)
    _shade(
        face, weights, depth, normal, room.texture.astype(np.int64), room.texels, room.tint, lamps, room.ambient,
        _density(room), packed, levels[0].shape[1], len(levels), np.array(scaled), _RAYS, light,
    )  # fmt: skip
    middle = (slice(_RAYS // 2, None, _RAYS),) * 2
    return light, depth[middle].astype(np.float32)


def _density(room: TexturedRoom) -> Float64[np.ndarray, " m"]:
    """Texels per metre of each triangle, from its areas in both."""
    a, b = (room.corners[:, k] - room.corners[:, 0] for k in (1, 2))
    c, d = (room.texels[:, k] - room.texels[:, 0] for k in (1, 2))
    metres = np.linalg.norm(np.cross(a, b), axis=1)
    out: Float64[np.ndarray, " m"] = np.sqrt(np.abs(c[:, 0] * d[:, 1] - c[:, 1] * d[:, 0]) / np.maximum(metres, 1e-12))
    return out


@numba.njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _shade(
    face,
    weights,
    depth,
    normal,
    texture,
    texels,
    tint,
    lamps,
    ambient,
    density,
    packed,
    side,
    count,
    camera,
    rays,
    light,
):  # pragma: no cover (compiled)
    h, w = light.shape[0], light.shape[1]
    fx, fy, cx, cy = camera
    share = 1.0 / (rays * rays)
    for row in numba.prange(h):
        for column in range(w):
            for k in range(rays * rays):
                v, u = row * rays + k // rays, column * rays + k % rays
                m = face[v, u]
                if m < 0:
                    continue
                z = depth[v, u]
                x, y = (u + 0.5 - cx) / fx * z, (v + 0.5 - cy) / fy * z
                nx, ny, nz = normal[m, 0], normal[m, 1], normal[m, 2]
                facing = nx * x + ny * y + nz * z
                if facing > 0:
                    nx, ny, nz = -nx, -ny, -nz
                cosine = max(abs(facing) / np.sqrt(x * x + y * y + z * z), 0.05)
                shade = ambient
                for j in range(lamps.shape[0]):
                    dx, dy, dz = lamps[j, 0] - x, lamps[j, 1] - y, lamps[j, 2] - z
                    d2 = dx * dx + dy * dy + dz * dz + 1e-6
                    toward = (nx * dx + ny * dy + nz * dz) / np.sqrt(d2)
                    if toward > 0:
                        shade += lamps[j, 3] * toward / (0.3 + 0.4 * d2)
                b0, b1 = weights[v, u, 0], weights[v, u, 1]
                b2 = 1.0 - b0 - b1
                s = b0 * texels[m, 0, 0] + b1 * texels[m, 1, 0] + b2 * texels[m, 2, 0]
                t = b0 * texels[m, 0, 1] + b1 * texels[m, 1, 1] + b2 * texels[m, 2, 1]
                footprint = z / fx / np.sqrt(cosine) * density[m]
                level, first, n = 0, 0, side
                while footprint > 1.4 and level < count - 1:
                    first += n * n
                    n //= 2
                    footprint *= 0.5
                    s *= 0.5
                    t *= 0.5
                    level += 1
                s0, t0 = np.floor(s - 0.5), np.floor(t - 0.5)
                ds, dt = s - 0.5 - s0, t - 0.5 - t0
                i0, j0 = int(s0) % n, int(t0) % n
                i1, j1 = (i0 + 1) % n, (j0 + 1) % n
                number = texture[m]
                for c in range(3):
                    top = (
                        packed[number, first + j0 * n + i0, c] * (1 - ds) + packed[number, first + j0 * n + i1, c] * ds
                    )
                    low = (
                        packed[number, first + j1 * n + i0, c] * (1 - ds) + packed[number, first + j1 * n + i1, c] * ds
                    )
                    light[row, column, c] += share * shade * tint[m, c] * (top * (1 - dt) + low * dt) / 255.0
