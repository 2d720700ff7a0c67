"""A spinning LiDAR with 64 beams: directions of its rays, and what comes back of each.

Elevations as the Velodyne HDL-64E's manual has them: 32 beams from +2 to -8.33 degrees, 32 from -8.83 to -24.33. A
return is seen if the light that comes back is enough: reflectance x cosine of incidence / distance^2 (the range
equation for diffuse surfaces that fill the beam).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from vision3d.data.simulation.materials import LOST, ROUGHNESS

_NEAR = 0.1  # share of the light at 50 m that is added to the law's denominator
_FAINT = 0.07  # light below which intensities fall


@dataclass(frozen=True, kw_only=True)
class LidarConfig:
    """The sensor. Lengths in metres."""

    columns: int = 2150
    """Firings a turn: 0.167 degrees each."""
    height: float = 1.73
    """Of the sensor over the ground."""
    nearest: float = 2.5
    """Returns from nearer are not reported (the own vehicle)."""
    farthest: float = 80.0
    """Greatest range."""
    noise: float = 0.015
    """Standard deviation of a range."""
    sensitivity: float = 0.013
    """Half of the returns are lost where this share comes back of what a white wall at 50 m sends."""


def elevations() -> Float64[np.ndarray, " 64"]:
    """Of the beams over the horizon, rad, from the highest down."""
    upper, lower = np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.33, 32)
    out: Float64[np.ndarray, " 64"] = np.deg2rad(np.concatenate([upper, lower]))
    return out


def ray_directions(columns: int, low: float = -np.pi, high: float = np.pi) -> Float64[np.ndarray, "r 3"]:
    """Unit vectors of the rays with azimuths in [low, high), beam by beam, each from right to left; frame "lidar"."""
    # The lasers of a head do not fire in one plane: each has its own shift in azimuth, the same in every turn.
    shift = np.random.default_rng(64).uniform(0, 1, 64)
    first = np.floor((low + np.pi) / (2 * np.pi) * columns)
    count = int(np.ceil((high - low) / (2 * np.pi) * columns))
    azimuth = (first + np.arange(count)[None] + shift[:, None]) * (2 * np.pi / columns) - np.pi
    elevation = np.broadcast_to(elevations()[:, None], azimuth.shape)
    out: Float64[np.ndarray, "r 3"] = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1
    ).reshape(-1, 3)
    return out


def receive(
    rng: np.random.Generator,
    config: LidarConfig,
    distance: Float64[np.ndarray, " r"],
    cosine: Float64[np.ndarray, " r"],
    material: UInt8[np.ndarray, " r"],
    reflectance: Float32[np.ndarray, " r"],
) -> tuple[Bool[np.ndarray, " r"], Float64[np.ndarray, " r"], Float64[np.ndarray, " r"]]:
    """Which of the r surface points met are seen, the ranges measured and the intensities in [0, 1].

    distance: true range, m. cosine: of the angle of incidence.
    """
    n = len(distance)
    # Near the sensor its optics are out of focus: the light does not grow without end.
    light = reflectance * (0.03 + 0.97 * np.abs(cosine)) / (_NEAR + (distance / 50) ** 2)
    seen = rng.random(n) < 1 / (1 + (config.sensitivity / light) ** 2)
    seen &= rng.random(n) >= LOST[material]
    seen &= (distance >= config.nearest) & (distance <= config.farthest)
    spread = np.hypot(config.noise, ROUGHNESS[material])
    measured = distance + spread * np.clip(rng.normal(size=n), -4, 4)
    # The sensor corrects for distance as long as there is light enough.
    corrected = light**2 / (light**2 + _FAINT**2)
    intensity = np.minimum(reflectance, 1.2) * (0.7 + 0.3 * np.abs(cosine)) * corrected * np.exp(rng.normal(0, 0.2, n))
    return seen, measured, np.clip(np.round(intensity, 2), 0.0, 0.99)
