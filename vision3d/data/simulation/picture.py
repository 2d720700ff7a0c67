"""The picture that a camera takes of simulated triangles: colours by material, light from above, haze with distance."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from vision3d.data.mesh_raster import first_hits
from vision3d.data.simulation import materials as m
from vision3d.data.simulation.solids import Solid

_SKY = np.array([196, 214, 235], np.float64)
_SUN = np.array([0.35, -0.85, -0.4])  # towards the sun, in the camera's frame: x right, y down, z forward
_COLORS = {
    m.ASPHALT: (92, 92, 96),
    m.PAVING: (150, 145, 138),
    m.GRASS: (88, 120, 62),
    m.WALL: (196, 178, 152),
    m.GLASS: (60, 76, 92),
    m.PAINT: (190, 188, 186),
    m.RUBBER: (36, 36, 38),
    m.METAL: (140, 144, 150),
    m.FOLIAGE: (66, 98, 48),
    m.WOOD: (112, 88, 64),
    m.CLOTH: (120, 110, 130),
    m.SIGN: (214, 190, 176),
    m.MARKING: (225, 225, 225),
}
_TABLE = np.array([_COLORS[material] for material in m.MATERIALS], np.float64)
_USUAL = np.array([material.reflectance for material in m.MATERIALS])


def take_picture(
    solid: Solid, intrinsics: tuple[float, float, float, float], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """solid: in the camera's frame. intrinsics: fx, fy, cx, cy px. size: width, height px."""
    width, height = size
    face, _, depth = first_hits(solid.corners, intrinsics, width, height)
    a, b, c = solid.corners.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = 0.62 + 0.38 * np.abs(normal @ (_SUN / np.linalg.norm(_SUN)))
    # Lighter and darker ones of a kind: paint and cloth differ, and each has a hue of its own.
    share = np.sqrt(np.clip(solid.reflectance / _USUAL[solid.material], 0.1, 2.5))
    hue = np.stack([np.sin(37 * solid.reflectance + k) for k in (0.0, 2.1, 4.2)], axis=1)
    tinted = np.isin(solid.material, (m.PAINT.number, m.CLOTH.number))[:, None]
    color = _TABLE[solid.material] * (light * share)[:, None] * (1 + 0.3 * hue * tinted)
    haze = np.exp(-depth / 150)[..., None]
    shown = np.where(face[..., None] >= 0, haze * color[face] + (1 - haze) * _SKY, _SKY)
    out: UInt8[np.ndarray, "h w 3"] = np.clip(shown, 0, 255).astype(np.uint8)
    return out
