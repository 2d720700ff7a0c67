"""What stands beside a street: houses, walls, hedges, trees, poles, signs, bins. On z = 0 around the origin."""

from __future__ import annotations

import functools

import numpy as np

from vision3d.data.simulation import materials as m
from vision3d.data.simulation.solids import Solid, box, leaves, limb, sheet, tube

SHAPES = 24


def house(rng: np.random.Generator, length: float, depth: float, floors: int) -> Solid:
    """A house along x: front wall with windows and doors towards -y, and a gable roof or a flat one."""
    storey = float(rng.uniform(2.7, 3.2))
    height = floors * storey + 0.6
    shade = float(rng.uniform(0.2, 0.55))
    parts = [Solid.of(box(length, depth, height, z=-0.5), m.WALL, shade)]
    columns = max(1, int(length // rng.uniform(2.2, 3.4)))
    x = (np.arange(columns) + 0.5) / columns * length - length / 2
    panes, frames = [], []
    wide, tall = float(rng.uniform(0.8, 1.3)), float(rng.uniform(1.1, 1.6))
    for side in (-1.0, 1.0):
        for floor in range(floors):
            low = 0.9 + floor * storey
            keep = x[rng.random(columns) < 0.85]
            panes.append(_upright(keep, side * (depth / 2 + 0.01), wide, low, low + tall))
            frames.append(_upright(keep, side * (depth / 2 + 0.06), wide + 0.2, low - 0.1, low))
    door = float(rng.choice(x))
    panes.append(_upright(np.array([door]), -(depth / 2 + 0.015), 1.1, 0.0, 2.1))
    parts.append(Solid.of(np.concatenate(panes), m.GLASS))
    parts.append(Solid.of(np.concatenate(frames), m.WALL, 0.5))
    if rng.random() < 0.5:
        parts.append(Solid.of(box(2.0, 1.2, 0.25, door, -(depth / 2 + 0.6), 2.3), m.WALL, 0.4))
    if floors > 1 and rng.random() < 0.4:  # balconies
        for at in x[rng.random(columns) < 0.4]:
            parts.append(Solid.of(box(1.9, 1.1, 1.1, float(at), -(depth / 2 + 0.55), storey), m.WALL, 0.4))
    if rng.random() < 0.75:
        ridge = height - 0.5 + depth * float(rng.uniform(0.3, 0.5))
        eaves, over = height - 0.5, 0.5
        e = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * (length / 2 + over, depth / 2 + over)
        a, b, c, d = (np.array([px, py, eaves]) for px, py in e)
        p, q = np.array([-length / 2 - over, 0, ridge]), np.array([length / 2 + over, 0, ridge])
        roof = np.concatenate([sheet(a, b, q, p), sheet(c, d, p, q), np.stack([[a, d, p], [b, c, q]])])
        parts.append(Solid.of(roof, m.WALL, 0.25))
    return Solid.join(parts)


def _upright(x: np.ndarray, y: float, wide: float, low: float, high: float) -> np.ndarray:
    """Rectangles parallel to the front at these x."""
    full = np.full(len(x), y)
    a, b = x - wide / 2, x + wide / 2
    return sheet(
        *(np.stack([px, full, np.full(len(x), z)], axis=-1) for px, z in ((a, low), (b, low), (b, high), (a, high)))
    )


def tree(rng: np.random.Generator) -> Solid:
    """A tree of 4 to 11 m."""
    shape = _tree(int(rng.integers(SHAPES)))
    scale = float(rng.uniform(0.75, 1.3))
    return Solid(shape.corners * scale, shape.material, shape.reflectance)


@functools.cache
def _tree(number: int) -> Solid:
    rng = np.random.default_rng([500, number])
    trunk = float(rng.uniform(1.8, 3.2))
    top = trunk + float(rng.uniform(2.5, 5))
    radius = float(rng.uniform(1.2, 2.6))
    thick = float(rng.uniform(0.1, 0.22))
    wood = [limb((0, 0, 0), (0, 0, trunk + 0.5 * (top - trunk)), thick, 0.5 * thick, 8)]
    for _ in range(5):
        angle, z = rng.uniform(0, 2 * np.pi), rng.uniform(0.8 * trunk, 0.6 * top)
        end = (0.6 * radius * np.cos(angle), 0.6 * radius * np.sin(angle), z + 0.8)
        wood.append(limb((0, 0, z), end, 0.06, 0.02, 5))
    crown = _ball(rng, 420, bias=0.45) * (radius, radius, (top - trunk) / 2) + (0, 0, (top + trunk) / 2)
    return Solid.join([Solid.of(np.concatenate(wood), m.WOOD), Solid.of(leaves(rng, crown, 0.42), m.FOLIAGE)])


def bush(rng: np.random.Generator) -> Solid:
    """A bush of about 0.5 to 1.8 m."""
    shape = _bush(int(rng.integers(SHAPES)))
    scale = float(rng.uniform(0.6, 1.5))
    return Solid(shape.corners * scale, shape.material, shape.reflectance)


@functools.cache
def _bush(number: int) -> Solid:
    rng = np.random.default_rng([600, number])
    size = rng.uniform(0.45, 0.8, 3)
    at = _ball(rng, 150, bias=0.5) * size + (0, 0, 0.7 * size[2])
    return Solid.of(leaves(rng, at, 0.22), m.FOLIAGE)


def hedge(rng: np.random.Generator, length: float, depth: float, height: float) -> Solid:
    """A hedge or thicket along x: a core that lets nothing through, and twigs around it."""
    count = int(20 * length * (height + depth)) + 20
    at = rng.uniform(-0.5, 0.5, (count, 3)) * (length, depth, height) + np.array([0, 0, height / 2])
    return Solid.join(
        [
            Solid.of(box(length, 0.4 * depth, 0.85 * height), m.FOLIAGE),
            Solid.of(leaves(rng, at, 0.2), m.FOLIAGE),
        ]
    )


def wall(rng: np.random.Generator, length: float, height: float) -> Solid:
    """A garden wall along x, or a fence of pales."""
    if rng.random() < 0.5:
        return Solid.of(box(length, 0.25, height), m.WALL, float(rng.uniform(0.2, 0.5)))
    x = np.arange(-length / 2, length / 2, 0.35)
    pales = [box(0.1, 0.03, height, float(at)) for at in x]
    rails = [box(length, 0.04, 0.08, z=z * height) for z in (0.25, 0.8)]
    return Solid.of(np.concatenate(pales + rails), m.WOOD)


def lamp(rng: np.random.Generator) -> Solid:
    """A street lamp; its arm reaches towards -y."""
    height = float(rng.uniform(5, 8))
    parts = [tube(0.09, 0.06, height), limb((0, 0, height), (0, -1.4, height + 0.2), 0.05, 0.04, 6)]
    return Solid.of(np.concatenate([*parts, box(0.2, 0.6, 0.15, 0, -1.5, height + 0.1)]), m.METAL)


def sign(rng: np.random.Generator) -> Solid:
    """A traffic sign that faces -x."""
    low = float(rng.uniform(1.9, 2.4))
    radius = float(rng.uniform(0.25, 0.35))
    plate = tube(radius, radius, 0.02, 12)[:, :, [2, 1, 0]] + (-0.05, 0, low + radius)
    return Solid.join([Solid.of(tube(0.035, 0.035, low + 2 * radius, 6), m.METAL), Solid.of(plate, m.SIGN)])


def street_furniture(rng: np.random.Generator) -> Solid:
    """A bin, a box, a bollard or a bench."""
    kind = int(rng.integers(4))
    if kind == 0:
        return Solid.of(box(0.6, 0.7, 1.05), m.PAINT, 0.2)
    if kind == 1:
        return Solid.of(box(1.1, 0.4, 1.2), m.METAL, 0.45)
    if kind == 2:
        return Solid.of(tube(0.1, 0.09, 0.9), m.METAL)
    seat = [box(1.6, 0.45, 0.06, z=0.42), box(1.6, 0.05, 0.35, y=0.22, z=0.5)]
    legs = [box(0.06, 0.4, 0.42, x=x) for x in (-0.7, 0.7)]
    return Solid.of(np.concatenate(seat + legs), m.WOOD)


def _ball(rng: np.random.Generator, count: int, bias: float) -> np.ndarray:
    """Points in the unit ball, the more at its surface the smaller bias is."""
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    out: np.ndarray = direction * rng.random((count, 1)) ** bias
    return out
