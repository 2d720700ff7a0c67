"""Furniture and clutter as meshes. On z = 0 around the origin, backs towards -y, so that -y stands at a wall."""

from __future__ import annotations

import numpy as np

from vision3d.data.simulation.solids import Soup, blob, box, leaves, limb, placed, tube


def table(rng: np.random.Generator) -> Soup:
    """A dining table, desk or coffee table."""
    length, width, height = rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.0), float(rng.choice([0.45, 0.72, 0.75, 0.9]))
    parts = [box(length, width, 0.04, z=height - 0.04)]
    if rng.random() < 0.75:
        x, y, thick = length / 2 - 0.08, width / 2 - 0.08, rng.uniform(0.04, 0.08)
        parts += [box(thick, thick, height - 0.04, a * x, b * y) for a in (-1, 1) for b in (-1, 1)]
        parts.append(box(length - 0.16, 0.02, 0.08, 0, -y, height - 0.12))
    else:
        parts += [tube(0.06, 0.06, height - 0.04), tube(0.3, 0.25, 0.04, 12)]
    if rng.random() < 0.3:  # drawers
        parts.append(box(0.4, width * 0.9, height - 0.1, length / 2 - 0.25))
    top = placed(_clutter(rng, int(rng.integers(1, 7)), length * 0.8, width * 0.8), 0, 0, height)
    return np.concatenate([*parts, top])


def chair(rng: np.random.Generator) -> Soup:
    """A kitchen or an office chair."""
    width, seat = rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.48)
    back = rng.uniform(0.38, 0.55)
    parts = [box(width, width, rng.uniform(0.03, 0.08), z=seat)]
    if rng.random() < 0.3:
        parts.append(tube(0.03, 0.03, seat))
        for k in range(5):
            angle = k * 2 * np.pi / 5
            parts.append(limb((0, 0, 0.08), (0.3 * np.cos(angle), 0.3 * np.sin(angle), 0.05), 0.025, 0.02, 5))
    else:
        at = width / 2 - 0.03
        parts += [box(0.035, 0.035, seat, a * at, b * at) for a in (-1, 1) for b in (-1, 1)]
    if rng.random() < 0.5:
        parts.append(box(width, 0.03, back, y=-width / 2, z=seat + 0.08))
    else:
        parts += [box(0.03, 0.03, back + 0.05, a * (width / 2 - 0.03), -width / 2, seat) for a in (-1, 0, 1)]
        parts.append(box(width, 0.03, 0.1, y=-width / 2, z=seat + back))
    return np.concatenate(parts)


def shelf(rng: np.random.Generator) -> Soup:
    """An open shelf with books and boxes, or a wall cupboard."""
    length, depth, height = rng.uniform(0.6, 1.6), rng.uniform(0.25, 0.45), rng.uniform(0.8, 2.1)
    boards = int(rng.integers(2, 6))
    parts = [box(0.02, depth, height, a * length / 2) for a in (-1, 1)] + [box(length, 0.01, height, y=-depth / 2)]
    for k in range(boards + 1):
        z = k * (height - 0.02) / boards
        parts.append(box(length, depth, 0.02, z=z))
        room = height / boards - 0.04
        x = -length / 2 + 0.03
        while k < boards and x < length / 2 - 0.1:
            wide = rng.uniform(0.03, 0.3)
            if rng.random() < 0.7:
                deep = rng.uniform(0.4, 0.9) * depth
                wide = min(wide, length / 2 - 0.02 - x)
                parts.append(box(wide, deep, room * rng.uniform(0.4, 0.95), x + wide / 2, -0.03, z + 0.02))
            x += wide + rng.exponential(0.05)
    return np.concatenate(parts)


def cupboard(rng: np.random.Generator) -> Soup:
    """A wardrobe, a chest of drawers or a fridge, with handles and things on top."""
    length, depth, height = rng.uniform(0.5, 1.8), rng.uniform(0.4, 0.65), rng.uniform(0.7, 2.1)
    parts = [box(length, depth, height)]
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    for i in range(columns):
        for k in range(rows):
            x = (i + 0.5) / columns * length - length / 2
            z = 0.04 + k * (height - 0.06) / rows
            parts.append(box(length / columns - 0.02, 0.02, (height - 0.1) / rows - 0.02, x, depth / 2, z))
            parts.append(box(0.1, 0.04, 0.02, x, depth / 2 + 0.02, z + 0.7 * height / rows))
    if height < 1.5:
        parts.append(placed(_clutter(rng, int(rng.integers(1, 6)), length * 0.85, depth * 0.8), 0, 0, height))
    return np.concatenate(parts)


def kitchen_line(rng: np.random.Generator) -> Soup:
    """A worktop over cupboards, with a sink's tap, and cupboards above."""
    length = rng.uniform(1.6, 3.2)
    parts = [box(length, 0.56, 0.86, y=-0.02, z=0.0), box(length + 0.02, 0.62, 0.04, z=0.86)]
    count = int(length / 0.6)
    for i in range(count):
        x = (i + 0.5) / count * length - length / 2
        parts.append(box(length / count - 0.02, 0.02, 0.7, x, 0.27, 0.1))
        parts.append(box(0.14, 0.03, 0.02, x, 0.295, 0.72))
        if rng.random() < 0.6:
            parts.append(box(length / count - 0.02, 0.33, 0.7, x, -0.13, 1.4))
    x = float(rng.uniform(-0.3, 0.3)) * length
    parts += [limb((x, -0.2, 0.9), (x, -0.2, 1.15), 0.02, 0.02, 5), limb((x, -0.2, 1.15), (x, 0, 1.15), 0.02, 0.02, 5)]
    parts.append(placed(_clutter(rng, int(rng.integers(4, 10)), length * 0.9, 0.5), 0, 0, 0.9))
    return np.concatenate(parts)


def bed(rng: np.random.Generator) -> Soup:
    """A bed with cushions and a crumpled blanket; its head at -y."""
    width, length, height = rng.uniform(0.9, 1.8), rng.uniform(1.95, 2.1), rng.uniform(0.35, 0.55)
    parts = [box(width, length, height), box(width, 0.06, height + rng.uniform(0.2, 0.6), y=-length / 2)]
    for x in np.arange(-width / 2 + 0.4, width / 2 - 0.2, 0.7):
        parts.append(placed(blob(0.32, 0.22, 0.09, 8, 4), x, -length / 2 + 0.35, height + 0.05))
    for _ in range(6):
        x, y = rng.uniform(-0.4, 0.4, 2) * (width, length * 0.6)
        parts.append(placed(blob(rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.5), 0.06, 8, 3), x, y, height))
    return np.concatenate(parts)


def sofa(rng: np.random.Generator) -> Soup:
    """A sofa or an armchair with cushions."""
    length, depth = rng.uniform(0.8, 2.3), rng.uniform(0.75, 0.95)
    parts = [box(length, depth, 0.2, z=0.08), box(length, 0.22, rng.uniform(0.7, 0.9), y=-depth / 2 + 0.11)]
    parts += [box(0.18, depth, 0.6, a * (length / 2 - 0.09)) for a in (-1, 1)]
    count = max(1, int((length - 0.36) / 0.6))
    for i in range(count):
        x = ((i + 0.5) / count - 0.5) * (length - 0.36)
        wide = (length - 0.36) / count / 2
        parts.append(placed(blob(wide * 1.15, (depth - 0.2) / 2 * 1.1, 0.14, 10, 5), x, 0.1, 0.33))
        if rng.random() < 0.7:
            parts.append(placed(blob(wide * 0.9, 0.12, 0.25, 10, 5), x, -depth / 2 + 0.28, 0.62))
    return np.concatenate(parts)


def lamp(rng: np.random.Generator) -> Soup:
    """A floor lamp."""
    height = rng.uniform(1.3, 1.8)
    shade = placed(tube(rng.uniform(0.15, 0.25), 0.12, 0.3, 12), 0, 0, height - 0.15)
    return np.concatenate([tube(0.15, 0.14, 0.03, 12), tube(0.015, 0.015, height, 6), shade])


def plant(rng: np.random.Generator) -> Soup:
    """A pot plant."""
    height = rng.uniform(0.4, 1.4)
    crown = rng.normal(0, 1, (90, 3)) * (0.14, 0.14, 0.2 * height) + (0, 0, 0.3 + 0.6 * height)
    stem = limb((0, 0, 0.2), (0, 0, height), 0.02, 0.01, 5)
    return np.concatenate([tube(0.12, 0.16, 0.3, 10), stem, leaves(rng, crown, 0.12)])


def screen(rng: np.random.Generator) -> Soup:
    """A television on a low board."""
    wide = rng.uniform(0.8, 1.3)
    board = box(wide + 0.3, 0.4, 0.45)
    return np.concatenate(
        [board, box(0.3, 0.2, 0.02, z=0.45), box(0.08, 0.05, 0.1, z=0.45), box(wide, 0.05, wide * 0.57, z=0.53)]
    )


def heap(rng: np.random.Generator) -> Soup:
    """Boxes and bags on the floor."""
    return _clutter(rng, int(rng.integers(2, 6)), 0.7, 0.5, 2.2)


FLOOR_PIECES = (table, table, chair, chair, chair, lamp, plant, heap)
WALL_PIECES = (shelf, shelf, cupboard, cupboard, kitchen_line, bed, sofa, sofa, screen, table, heap, plant)


def _clutter(rng: np.random.Generator, count: int, length: float, width: float, scale: float = 1.0) -> Soup:
    """Boxes, cans, bottles, bowls and monitors on a surface."""
    parts = []
    for _ in range(count):
        x, y = rng.uniform(-0.5, 0.5, 2) * (length, width)
        kind = int(rng.integers(5))
        if kind == 0:
            thing = box(*(rng.uniform(0.06, 0.3, 3) * scale))
        elif kind == 1:
            radius = rng.uniform(0.03, 0.08) * scale
            thing = tube(radius, radius, rng.uniform(0.08, 0.22) * scale, 10)
        elif kind == 2:
            radius = rng.uniform(0.03, 0.05) * scale
            neck = placed(tube(0.4 * radius, 0.35 * radius, 0.09 * scale, 8), 0, 0, 0.17 * scale)
            thing = np.concatenate([tube(radius, radius, 0.17 * scale, 8), neck])
        elif kind == 3:
            thing = placed(blob(*(rng.uniform(0.06, 0.16, 3) * scale)), 0, 0, 0.05)
        else:
            wide = rng.uniform(0.3, 0.55)
            thing = np.concatenate([box(0.2, 0.15, 0.02), box(0.04, 0.04, 0.15), box(wide, 0.04, 0.6 * wide, z=0.12)])
        parts.append(placed(thing, x, y, 0, rng.uniform(-np.pi, np.pi) if kind != 4 else rng.normal(0, 0.3)))
    return np.concatenate(parts)
