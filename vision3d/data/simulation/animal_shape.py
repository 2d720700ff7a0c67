"""Proportions and poses of four-legged animals, drawn per individual: horses, cows, sheep, dogs, cats.

Measured by eye from side views; lengths are shares of the height at the withers unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimalShape:
    """Angles in radians."""

    height: float
    """m, at the withers"""
    length: float
    """of the trunk"""
    chest: float
    """depth of the trunk at the chest"""
    width: float
    """of the trunk, as a share of its depth"""
    tuck: float
    """depth of the trunk at the loins, as a share of the chest's"""
    neck: float
    neck_up: float
    """angle above the horizontal"""
    neck_base: float
    """radius"""
    throat: float
    """radius of the neck at the head"""
    head: float
    """from the poll to the nose"""
    head_down: float
    """angle below the horizontal"""
    skull: float
    """radius"""
    muzzle: float
    """radius"""
    stop: float
    """how far the muzzle lies below the forehead, as a share of the skull"""
    ear: float
    ear_width: float
    ear_out: float
    """0: upright, pi / 2: to the side, more: hanging"""
    leg: float
    """radius of the upper foreleg"""
    foot: float
    """length of the foot in front of the leg"""
    tail: float
    tail_up: float
    """0: hanging, pi / 2: straight back"""
    tail_curl: float
    """angle that it turns upwards along its length"""
    tail_root: float
    """radius"""
    tail_tip: float
    """radius"""
    mane: float
    """radius"""
    horn: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnimalPose:
    """Angles in radians; all zero: standing, left and right alike. Legs: front left and right, back left and right."""

    neck_up: float = 0.0
    neck_aside: float = 0.0
    head_up: float = 0.0
    head_aside: float = 0.0
    tail_aside: float = 0.0
    swing: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """of the whole leg, forwards"""
    bend: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """of knee and hock, at least 0"""


Range = tuple[float, float]
KINDS: Mapping[str, Mapping[str, Range]] = {
    "horse": {
        "height": (1.4, 1.7), "length": (0.98, 1.08), "chest": (0.43, 0.48), "width": (0.62, 0.7), "tuck": (0.8, 0.92),
        "neck": (0.44, 0.52), "neck_up": (0.7, 0.95), "neck_base": (0.17, 0.19), "throat": (0.085, 0.1),
        "head": (0.38, 0.42), "head_down": (0.75, 1.0), "skull": (0.085, 0.095), "muzzle": (0.05, 0.058),
        "stop": (0.0, 0.1), "ear": (0.11, 0.13), "ear_width": (0.026, 0.03), "ear_out": (0.15, 0.35),
        "leg": (0.05, 0.06), "foot": (0.03, 0.04), "tail": (0.5, 0.6), "tail_up": (0.2, 0.6), "tail_curl": (-0.6, -0.2),
        "tail_root": (0.025, 0.03), "tail_tip": (0.04, 0.05), "mane": (0.03, 0.04), "horn": (0.0, 0.0),
    },
    "cow": {
        "height": (1.3, 1.5), "length": (1.15, 1.28), "chest": (0.5, 0.56), "width": (0.68, 0.78), "tuck": (1.0, 1.08),
        "neck": (0.32, 0.38), "neck_up": (0.2, 0.45), "neck_base": (0.16, 0.18), "throat": (0.1, 0.12),
        "head": (0.36, 0.4), "head_down": (0.6, 0.85), "skull": (0.09, 0.1), "muzzle": (0.068, 0.078),
        "stop": (0.0, 0.1), "ear": (0.17, 0.2), "ear_width": (0.042, 0.05), "ear_out": (1.5, 1.8),
        "leg": (0.05, 0.06), "foot": (0.03, 0.04), "tail": (0.55, 0.65), "tail_up": (0.05, 0.2),
        "tail_curl": (-0.1, 0.0),
        "tail_root": (0.022, 0.026), "tail_tip": (0.035, 0.04), "mane": (0.0, 0.0), "horn": (0.14, 0.26),
    },
    "sheep": {
        "height": (0.65, 0.8), "length": (1.08, 1.2), "chest": (0.56, 0.64), "width": (0.8, 0.92), "tuck": (0.95, 1.05),
        "neck": (0.38, 0.46), "neck_up": (0.75, 1.0), "neck_base": (0.15, 0.17), "throat": (0.095, 0.11),
        "head": (0.32, 0.36), "head_down": (0.45, 0.7), "skull": (0.08, 0.09), "muzzle": (0.048, 0.055),
        "stop": (0.0, 0.2), "ear": (0.17, 0.2), "ear_width": (0.04, 0.048), "ear_out": (1.5, 1.9),
        "leg": (0.042, 0.05), "foot": (0.03, 0.04), "tail": (0.18, 0.26), "tail_up": (0.2, 0.4),
        "tail_curl": (-0.2, 0.0),
        "tail_root": (0.045, 0.05), "tail_tip": (0.035, 0.04), "mane": (0.0, 0.0), "horn": (0.0, 0.0),
    },
    "dog": {
        "height": (0.35, 0.7), "length": (1.0, 1.18), "chest": (0.42, 0.5), "width": (0.6, 0.72), "tuck": (0.6, 0.78),
        "neck": (0.26, 0.34), "neck_up": (0.7, 1.0), "neck_base": (0.12, 0.14), "throat": (0.09, 0.1),
        "head": (0.36, 0.44), "head_down": (0.15, 0.4), "skull": (0.1, 0.115), "muzzle": (0.048, 0.06),
        "stop": (0.35, 0.6), "ear": (0.13, 0.19), "ear_width": (0.042, 0.055), "ear_out": (0.2, 0.45),
        "leg": (0.048, 0.058), "foot": (0.06, 0.075), "tail": (0.4, 0.5), "tail_up": (1.2, 2.2),
        "tail_curl": (0.2, 1.2),
        "tail_root": (0.032, 0.038), "tail_tip": (0.016, 0.024), "mane": (0.0, 0.0), "horn": (0.0, 0.0),
    },
    "cat": {
        "height": (0.24, 0.3), "length": (1.25, 1.42), "chest": (0.4, 0.46), "width": (0.68, 0.78),
        "tuck": (0.85, 0.95),
        "neck": (0.2, 0.26), "neck_up": (0.5, 0.8), "neck_base": (0.13, 0.15), "throat": (0.11, 0.13),
        "head": (0.26, 0.29), "head_down": (0.1, 0.3), "skull": (0.14, 0.155), "muzzle": (0.055, 0.065),
        "stop": (0.3, 0.45), "ear": (0.17, 0.2), "ear_width": (0.065, 0.075), "ear_out": (0.3, 0.45),
        "leg": (0.05, 0.058), "foot": (0.06, 0.075), "tail": (0.75, 0.95), "tail_up": (1.0, 2.2),
        "tail_curl": (0.3, 1.4),
        "tail_root": (0.036, 0.042), "tail_tip": (0.028, 0.034), "mane": (0.0, 0.0), "horn": (0.0, 0.0),
    },
}  # fmt: skip


def draw_shape(rng: np.random.Generator, kind: str) -> AnimalShape:
    """An individual of a kind; every second dog has hanging ears."""
    ranges = KINDS[kind]
    values = {field.name: float(rng.uniform(*ranges[field.name])) for field in fields(AnimalShape)}
    hanging = float(rng.uniform(2.5, 2.9)) if rng.random() < 0.5 else None
    if kind == "dog" and hanging is not None:
        values["ear_out"] = hanging
    return AnimalShape(**values)


def draw_pose(rng: np.random.Generator, kind: str) -> AnimalPose:
    """Standing or walking, the head turned; horses, cows and sheep graze at times."""
    stride = float(rng.uniform(0.0, 0.42))
    phase = float(rng.uniform(0, 2 * np.pi))
    steps = [phase + turn for turn in (0.0, np.pi, 0.75 * np.pi, 1.75 * np.pi)]
    swing = [stride * float(np.sin(step)) for step in steps]
    bend = [1.6 * stride * max(0.0, float(np.cos(step))) for step in steps]
    grazes = rng.random() < 0.25 and kind in ("horse", "cow", "sheep")
    return AnimalPose(
        neck_up=float(rng.uniform(-1.3, -1.0)) if grazes else float(rng.uniform(-0.35, 0.2)),
        neck_aside=float(rng.uniform(-0.5, 0.5)),
        head_up=float(rng.uniform(-0.2, 0.3)),
        head_aside=float(rng.uniform(-0.6, 0.6)),
        tail_aside=float(rng.uniform(-0.6, 0.6)),
        swing=(swing[0], swing[1], swing[2], swing[3]),
        bend=(bend[0], bend[1], bend[2], bend[3]),
    )
