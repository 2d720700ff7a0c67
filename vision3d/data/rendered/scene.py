"""A furnished room with textures, posters and lamps, from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from vision3d.data.simulation.room import Room, sample_room
from vision3d.data.simulation.solids import Soup, grid

_NEAR = 0.004  # m from a wall, floor or ceiling within which a triangle is part of it
_DENSITY = (120.0, 420.0)  # texels per metre


@dataclass(frozen=True, slots=True)
class TexturedRoom:
    """Triangles in metres, z up, with their texture's number, its coordinates in texels, and a tint.

    lamps: position and strength of each, metres; ambient: light that is everywhere.
    """

    corners: Soup
    texture: Int[np.ndarray, " m"]
    texels: Float64[np.ndarray, "m 3 2"]
    tint: Float64[np.ndarray, "m 3"]
    lamps: Float64[np.ndarray, "k 4"]
    ambient: float
    size: tuple[float, float, float]


def sample_textured_room(
    rng: np.random.Generator, surfaces: int, posters: int, side: int, models: Sequence[Soup] = ()
) -> TexturedRoom:
    """surfaces: number of textures that repeat, which come first; posters: of pictures, after them; side: texels."""
    room = sample_room(rng, models)
    shell, group = _groups(room.corners, room.size)
    count = int(group.max()) + 1
    chosen = rng.integers(surfaces, size=count)
    tint = np.clip(rng.normal(1.0, 0.22, (count, 1)) + rng.normal(0, 0.06, (count, 3)), 0.35, 1.5)
    density = rng.uniform(*_DENSITY, count)
    turned = rng.random(count) < 0.5
    offset = rng.uniform(0, side, (count, 2))
    if rng.random() < 0.6:  # one wallpaper all around
        for values in (chosen, tint, density, turned):
            values[2:shell] = values[2]
    texels = _box_projection(room.corners) * density[group, None, None]
    texels = np.where(turned[group, None, None], texels[..., ::-1], texels) + offset[group, None]
    parts = [(room.corners, chosen[group], texels, tint[group])]
    length, width, height = room.size
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 5) * length, np.linspace(-0.5, 0.5, 5) * width, indexing="ij")
    above = grid(x, y, np.full_like(x, height))
    ceiling = _box_projection(above) * rng.uniform(*_DENSITY)
    light = np.full((len(above), 3), rng.uniform(0.8, 1.4))
    parts.append((above, np.full(len(above), int(rng.integers(surfaces))), ceiling, light))
    for _ in range(int(rng.integers(3, 14))):
        quad, corners = _poster(rng, room), np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float64) * side
        order = [[0, 1, 2], [0, 2, 3]]
        number = np.full(2, surfaces + int(rng.integers(posters)))
        parts.append((quad[order], number, corners[order], np.ones((2, 3))))
    columns = zip(*parts, strict=True)
    corners_, texture, texels_, tint_ = (np.concatenate(c) for c in columns)
    lamps = np.stack(
        [
            rng.uniform(-0.45, 0.45, 3) * length,
            rng.uniform(-0.45, 0.45, 3) * width,
            rng.uniform(0.6, 0.98, 3) * height,
            rng.uniform(0.2, 1.6, 3),
        ],
        axis=1,
    )[: int(rng.integers(1, 4))]
    return TexturedRoom(corners_, texture, texels_, tint_, lamps, float(rng.uniform(0.25, 0.6)), room.size)


def _groups(corners: Soup, size: tuple[float, float, float]) -> tuple[int, Int[np.ndarray, " m"]]:
    """What belongs together: 0 the floor, 1 the rest of the room's shell, 2 to 5 the walls, then each closed part.

    Returns the first number that is no part of the shell, and each triangle's.
    """
    flat = np.round(corners.reshape(-1, 3) / 1e-4).astype(np.int64)
    _, vertex = np.unique(flat, axis=0, return_inverse=True)
    a, b, c = vertex.reshape(-1, 3).T
    n = int(vertex.max()) + 1
    links = coo_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, c])), (n, n))
    part = connected_components(links, directed=False)[1][a]
    group = 6 + part
    group[(np.abs(corners[:, :, 2]) < _NEAR).all(1)] = 0
    for k, (axis, sign) in enumerate(((0, 1), (0, -1), (1, 1), (1, -1))):
        group[(np.abs(corners[:, :, axis] - sign * size[axis] / 2) < _NEAR).all(1)] = 2 + k
    return 6, group


def _box_projection(corners: Soup) -> Float64[np.ndarray, "m 3 2"]:
    """Metres along the two axes that a triangle faces least."""
    normal = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    axes = np.array([[1, 2], [0, 2], [0, 1]])[normal.argmax(1)]
    out: Float64[np.ndarray, "m 3 2"] = np.take_along_axis(corners, axes[:, None].repeat(3, 1), axis=2)
    return out


def _poster(rng: np.random.Generator, room: Room) -> Float64[np.ndarray, "4 3"]:
    """Corners from the lower left on, as seen from within: on a wall."""
    axis, sign = int(rng.integers(2)), float(rng.choice([-1.0, 1.0]))
    wide, tall = rng.uniform(0.25, 1.1, 2)
    along = room.size[1 - axis]
    middle = rng.uniform(-0.5, 0.5) * max(along - wide, 0.1)
    low = rng.uniform(0.7, max(0.75, room.size[2] - tall - 0.1))
    off = sign * (room.size[axis] / 2 - 0.012)
    a, b = middle - wide / 2, middle + wide / 2
    out = np.empty((4, 3))
    out[:, axis] = off
    out[:, 1 - axis] = [b, a, a, b] if (axis == 0) == (sign > 0) else [a, b, b, a]
    out[:, 2] = [low, low, low + tall, low + tall]
    return out
