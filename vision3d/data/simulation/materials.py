"""What a laser sees of a surface: reflectance at 905 nm, roughness, and how often the pulse does not come back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Material:
    """reflectance: 0 to 1, above 1 for retroreflectors. roughness: of the surface, m, one standard deviation. lost:
    share of pulses that go through it or are mirrored away."""

    number: int
    reflectance: float
    roughness: float
    lost: float


ASPHALT = Material(0, 0.32, 0.004, 0.0)
PAVING = Material(1, 0.36, 0.006, 0.0)
GRASS = Material(2, 0.42, 0.03, 0.05)
WALL = Material(3, 0.35, 0.01, 0.0)
GLASS = Material(4, 0.08, 0.005, 0.82)
PAINT = Material(5, 0.18, 0.003, 0.08)
RUBBER = Material(6, 0.03, 0.005, 0.15)
METAL = Material(7, 0.28, 0.003, 0.05)
FOLIAGE = Material(8, 0.42, 0.03, 0.1)
WOOD = Material(9, 0.30, 0.01, 0.0)
CLOTH = Material(10, 0.3, 0.008, 0.02)
SIGN = Material(11, 3.0, 0.003, 0.0)
MARKING = Material(12, 0.6, 0.004, 0.0)

MATERIALS = (ASPHALT, PAVING, GRASS, WALL, GLASS, PAINT, RUBBER, METAL, FOLIAGE, WOOD, CLOTH, SIGN, MARKING)
ROUGHNESS = np.array([m.roughness for m in MATERIALS])
LOST = np.array([m.lost for m in MATERIALS])
