"""Walkers and cyclists as meshes of rounded limbs. Heading along +x, standing on z = 0 around the origin."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from vision3d.data.simulation import materials as m
from vision3d.data.simulation.solids import Solid, blob, box, limb, loft

SHAPES = 32  # of each kind


def pedestrian(rng: np.random.Generator) -> Solid:
    """Someone who stands or walks, grown-up or child, with or without a bag."""
    height = float(np.clip(rng.normal(1.74, 0.1), 1.45, 1.98)) if rng.random() < 0.88 else float(rng.uniform(1.1, 1.45))
    body = _walker(int(rng.integers(SHAPES)))
    scale = height / 1.75
    wide = scale * float(rng.uniform(0.92, 1.12))
    return Solid(body.corners * (scale, wide, scale), body.material, body.reflectance)


def cyclist(rng: np.random.Generator) -> Solid:
    """Someone on a bicycle."""
    body = _cyclist(int(rng.integers(SHAPES)))
    scale = float(np.clip(rng.normal(1.0, 0.04), 0.9, 1.1))
    return Solid(body.corners * scale, body.material, body.reflectance)


@functools.cache
def _walker(number: int) -> Solid:
    rng = np.random.default_rng([300, number])
    stride = float(rng.uniform(0, 0.42))
    swing = 0.8 * stride + float(rng.uniform(0, 0.08))
    coat, trousers = rng.uniform(0.08, 0.6, 2)
    hip, shoulder = 0.92, 1.42
    legs = []
    for side, way in ((0.1, 1), (-0.1, -1)):
        foot = way * stride
        knee = (0.55 * foot + 0.05, side, 0.5)
        legs += [
            limb((0, side, hip), knee, 0.09, 0.065),
            limb(knee, (foot - 0.04, side, 0.1), 0.062, 0.045),
            box(0.26, 0.1, 0.08, foot + 0.04, side, 0),
        ]
    arms = []
    for side, way in ((0.22, -1), (-0.22, 1)):
        elbow = (way * swing * 0.45 - 0.03, side * 1.1, 1.14)
        arms += [
            limb((0, side, shoulder), elbow, 0.055, 0.045),
            limb(elbow, (way * swing * 0.8 + 0.12, side * 1.1, 0.92), 0.042, 0.035),
        ]
    parts = [
        Solid.of(np.concatenate(legs), m.CLOTH, float(trousers)),
        Solid.of(np.concatenate([_torso(0.0, hip - 0.06, 0.0, shoulder + 0.05), *arms]), m.CLOTH, float(coat)),
        Solid.of(_head(0.02, 1.62), m.CLOTH, 0.45),
    ]
    if rng.random() < 0.4:  # a backpack or a bag in hand
        if rng.random() < 0.5:
            parts.append(Solid.of(box(0.16, 0.3, 0.42, -0.2, 0, 0.98), m.CLOTH, 0.2))
        else:
            parts.append(Solid.of(box(0.3, 0.1, 0.32, 0.1, -0.3, 0.5), m.CLOTH, 0.3))
    return Solid.join(parts)


@functools.cache
def _cyclist(number: int) -> Solid:
    rng = np.random.default_rng([400, number])
    radius, lean = 0.34, float(rng.uniform(0.1, 0.42))
    rear, front = (-0.53, 0.0, radius), (0.53, 0.0, radius)
    crank, seat, bar = (-0.08, 0.0, 0.3), (-0.25, 0.0, 0.95), (0.38, 0.0, 1.05)
    head_tube = (0.4, 0.0, 0.9)
    steel = [
        limb(a, b, 0.018, 0.018, 5)
        for a, b in ((rear, crank), (crank, seat), (rear, seat), (crank, head_tube), (seat, head_tube))
    ]
    steel += [limb(front, bar, 0.018, 0.018, 5), limb((0.36, -0.28, 1.05), (0.36, 0.28, 1.05), 0.015, 0.015, 5)]
    shoulder = (-0.25 + 0.5 * np.sin(lean) + 0.05, 0.95 + 0.55 * np.cos(lean))
    phase = float(rng.uniform(0, np.pi))
    legs, arms = [], []
    for side, turn in ((0.1, phase), (-0.1, phase + np.pi)):
        pedal = (crank[0] + 0.17 * np.cos(turn), side, crank[2] + 0.17 * np.sin(turn))
        knee = (0.16 + 0.08 * np.cos(turn), side * 1.2, 0.72 + 0.12 * np.sin(turn))
        legs += [
            limb((-0.22, side, 0.95), knee, 0.09, 0.065),
            limb(knee, (pedal[0], side, pedal[2] + 0.08), 0.06, 0.045),
        ]
        legs.append(box(0.26, 0.09, 0.08, pedal[0] + 0.05, side, pedal[2]))
        elbow = ((shoulder[0] + 0.36) / 2, 2.3 * side, shoulder[1] - 0.3)
        arms += [
            limb((shoulder[0], 2 * side, shoulder[1] - 0.05), elbow, 0.055, 0.045),
            limb(elbow, (0.34, 2.5 * side, 1.07), 0.042, 0.035),
        ]
    coat, trousers = rng.uniform(0.08, 0.6, 2)
    torso = _torso(-0.24, 0.9, shoulder[0], shoulder[1])
    parts = [
        Solid.of(np.concatenate([_wheel(rear, radius), _wheel(front, radius)]), m.RUBBER),
        Solid.of(np.concatenate(steel), m.METAL, 0.3),
        Solid.of(np.concatenate(legs), m.CLOTH, float(trousers)),
        Solid.of(np.concatenate([torso, *arms]), m.CLOTH, float(coat)),
        Solid.of(_head(shoulder[0] + 0.1, shoulder[1] + 0.17), m.CLOTH, 0.45),
    ]
    if rng.random() < 0.3:
        parts.append(Solid.of(box(0.3, 0.34, 0.3, -0.55, 0, 0.72), m.CLOTH, 0.3))
    return Solid.join(parts)


def _torso(x0: float, z0: float, x1: float, z1: float) -> np.ndarray:
    """From the hips at (x0, z0) to the shoulders at (x1, z1), broader than deep."""
    share = np.array([0.0, 0.25, 0.6, 0.9, 1.0])
    deep = np.array([0.1, 0.11, 0.13, 0.11, 0.05])
    wide = np.array([0.16, 0.15, 0.19, 0.2, 0.08])
    angle = np.arange(8) * (np.pi / 4)
    x = x0 + share * (x1 - x0)
    z = z0 + share * (z1 - z0)
    ring = np.stack(
        [
            x[:, None] + deep[:, None] * np.cos(angle),
            wide[:, None] * np.sin(angle),
            np.broadcast_to(z[:, None], (5, 8)),
        ],
        axis=-1,
    )
    return loft(ring)


def _head(x: float, z: float) -> np.ndarray:
    out: np.ndarray = blob(0.1, 0.08, 0.13) + np.array([x, 0, z])
    return out


def _wheel(center: tuple[float, float, float], radius: float, sides: int = 14) -> np.ndarray:
    """A bicycle's: a thin ring and a few spokes."""
    angle = np.arange(sides + 1) * (2 * np.pi / sides)
    points = np.stack([radius * np.cos(angle), np.zeros(sides + 1), radius * np.sin(angle)], axis=1) + center
    ring = [limb(tuple(a), tuple(b), 0.022, 0.022, 4) for a, b in itertools.pairwise(points)]
    spokes = [limb(tuple(points[k]), tuple(points[k + sides // 2]), 0.006, 0.006, 3) for k in range(0, sides // 2, 2)]
    return np.concatenate(ring + spokes)
