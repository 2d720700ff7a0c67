"""Simulated rooms: floor, walls with windows and doors, furniture that does not meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vision3d.data.simulation.furniture import FLOOR_PIECES, WALL_PIECES
from vision3d.data.simulation.solids import Soup, box, grid, placed
from vision3d.geometry.rotated_rectangles import intersection_areas


@dataclass(frozen=True, slots=True)
class Room:
    """Triangles in metres, z up, the floor at 0, the origin in the middle. size: along x, y and z. taken: footprints
    x, y, length, width, yaw of the furniture."""

    corners: Soup
    size: tuple[float, float, float]
    taken: Float64[np.ndarray, "k 5"]


def sample_room(rng: np.random.Generator, models: Sequence[Soup] = ()) -> Room:
    """A room of 2.6 to 7 m a side, furnished along its walls and in the middle.

    models: pieces to use for every second one beside the own furniture.
    """
    length, width, height = (float(v) for v in rng.uniform((3.0, 2.6, 2.4), (7.0, 5.5, 3.0)))
    parts = [_floor(rng, length, width)]
    taken: list[np.ndarray] = []
    for k, (turn, along, away) in enumerate(
        ((0.0, length, width), (np.pi / 2, width, length), (np.pi, length, width), (-np.pi / 2, width, length))
    ):
        # The wall in its own frame runs along x at y = -away / 2 and faces +y.
        parts.append(placed(_wall(rng, along, height, door=k == 0) + np.array([0, -away / 2, 0]), 0, 0, 0, turn))
        x = -along / 2 + float(rng.uniform(0, 0.6))
        while x < along / 2 - 0.4:
            soup = _piece(rng, WALL_PIECES, models)
            low, high = soup.min((0, 1)), soup.max((0, 1))
            gap = float(rng.uniform(0.01, 0.06))
            at = np.array([x - low[0], gap - away / 2 - low[1], 0.0])
            if high[0] - low[0] < along / 2 - x:
                _put(parts, taken, placed(soup + at, 0, 0, 0, turn), soup + at, turn)
                x += float(high[0] - low[0])
            x += float(rng.exponential(0.35)) + 0.05
    for _ in range(int(rng.integers(4, 12))):
        soup = _piece(rng, FLOOR_PIECES, models)
        turn = float(rng.uniform(-np.pi, np.pi)) if rng.random() < 0.5 else float(rng.integers(4)) * np.pi / 2
        x, y = rng.uniform(-0.4, 0.4, 2) * (length, width)
        shift = np.array([np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y, 0.0])
        _put(parts, taken, placed(soup, float(x), float(y), 0, turn), soup + shift, turn)
    return Room(np.concatenate(parts), (length, width, height), np.array(taken).reshape(-1, 5))


def _piece(
    rng: np.random.Generator, own: Sequence[Callable[[np.random.Generator], Soup]], models: Sequence[Soup]
) -> Soup:
    if len(models) and rng.random() < 0.5:
        return models[int(rng.integers(len(models)))]
    return own[int(rng.integers(len(own)))](rng)


def _put(parts: list[Soup], taken: list[np.ndarray], soup: Soup, own: Soup, turn: float) -> None:
    """Adds the furniture unless it meets another piece. own: the same before the turn about the origin."""
    low, high = own.min((0, 1)), own.max((0, 1))
    cx, cy = (low[:2] + high[:2]) / 2
    c, s = np.cos(turn), np.sin(turn)
    rectangle = np.array([c * cx - s * cy, s * cx + c * cy, high[0] - low[0], high[1] - low[1], turn])
    if taken and intersection_areas(rectangle[None], np.stack(taken)).any():
        return
    taken.append(rectangle)
    parts.append(soup)


def _floor(rng: np.random.Generator, length: float, width: float) -> Soup:
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 5) * length, np.linspace(-0.5, 0.5, 5) * width, indexing="ij")
    parts = [grid(x, y, np.zeros_like(x))]
    if rng.random() < 0.4:  # a carpet
        parts.append(box(rng.uniform(1, 2.2), rng.uniform(1, 1.8), 0.012, *rng.uniform(-0.5, 0.5, 2)))
    return np.concatenate(parts)


def _wall(rng: np.random.Generator, along: float, height: float, door: bool) -> Soup:
    """A wall along x in the plane y = 0 with an opening or none, a frame around it, skirting, pictures, a radiator."""
    half = along / 2
    kind = rng.random()
    if not door and kind < 0.45:
        parts = [_panel(-half, half, 0, height)]
        for _ in range(int(rng.integers(0, 4))):
            wide, tall = rng.uniform(0.2, 0.9), rng.uniform(0.2, 0.8)
            x = rng.uniform(-half + 0.5, half - 0.5)
            parts.append(box(wide, 0.03, tall, x, 0.015, rng.uniform(1.1, 1.6)))
    else:
        wide = float(rng.uniform(0.8, 1.0) if door else rng.uniform(0.8, min(2.0, along - 1)))
        low, high = (0.0, 2.02) if door else (float(rng.uniform(0.7, 1.0)), float(rng.uniform(1.9, 2.2)))
        x = float(rng.uniform(-half + 0.3 + wide / 2, half - 0.3 - wide / 2))
        a, b = x - wide / 2, x + wide / 2
        parts = [_panel(-half, a, 0, height), _panel(b, half, 0, height), _panel(a, b, high, height)]
        frame = 0.07
        parts += [box(frame, 0.1, high - low, end, 0, low) for end in (a, b)]
        parts.append(box(wide + frame, 0.1, frame, x, 0, high))
        if door:
            if rng.random() < 0.5:
                parts.append(box(wide, 0.04, high, x, -0.03))
        else:
            parts += [_panel(a, b, 0, low), box(wide + 0.15, 0.2, 0.03, x, 0.05, low - 0.03)]
            parts += [box(0.05, 0.05, high - low, x, -0.05, low), box(wide, 0.03, 0.05, x, -0.05, (low + high) / 2)]
            if rng.random() < 0.6:
                fins = np.arange(-0.45, 0.46, 0.1) * wide
                parts += [box(0.06 * wide, 0.1, 0.55, x + fin, 0.08, 0.1) for fin in fins]
    parts.append(box(along, 0.02, 0.08, 0, 0.01))
    return np.concatenate(parts)


def _panel(x0: float, x1: float, z0: float, z1: float) -> Soup:
    out: Soup = np.array([[[x0, 0, z0], [x1, 0, z0], [x1, 0, z1]], [[x0, 0, z0], [x1, 0, z1], [x0, 0, z1]]], np.float64)
    return out
