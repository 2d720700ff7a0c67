"""Building blocks of simulated scenes: triangle soups of boxes, tubes, limbs, lofts, leaves and grids.

A soup is an array [m 3 3] of corners in metres, z up. Everything here is closed or thin; normals are not needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8

from vision3d.core import RigidTransform
from vision3d.data.simulation.materials import Material

Soup = Float64[np.ndarray, "_ 3 3"]  # any number: functions take and give soups of several lengths


@dataclass(frozen=True, slots=True)
class Solid:
    """Triangles with what they are made of. reflectance: share of the light sent back; above 1: a retroreflector."""

    corners: Soup
    material: UInt8[np.ndarray, " m"]
    reflectance: Float32[np.ndarray, " m"]

    @classmethod
    def of(cls, corners: Soup, material: Material, reflectance: float | None = None) -> Solid:
        """All of one material; reflectance: by default the material's."""
        share = material.reflectance if reflectance is None else reflectance
        return cls(corners, np.full(len(corners), material.number, np.uint8), np.full(len(corners), share, np.float32))

    @classmethod
    def join(cls, parts: list[Solid]) -> Solid:
        """All parts as one."""
        return cls(
            np.concatenate([p.corners for p in parts]) if parts else np.zeros((0, 3, 3)),
            np.concatenate([p.material for p in parts]) if parts else np.zeros(0, np.uint8),
            np.concatenate([p.reflectance for p in parts]) if parts else np.zeros(0, np.float32),
        )

    def placed(self, x: float, y: float, z: float, yaw: float = 0.0) -> Solid:
        """Turned about z, then moved."""
        return Solid(placed(self.corners, x, y, z, yaw), self.material, self.reflectance)

    def moved(self, b_from_a: RigidTransform) -> Solid:
        """From frame a to frame b."""
        moved = b_from_a.apply(torch.from_numpy(self.corners.reshape(-1, 3))).numpy()
        return Solid(moved.reshape(-1, 3, 3), self.material, self.reflectance)

    def fitted(self, length: float, width: float, height: float) -> Solid:
        """Stretched to this size along x, y, z, standing on z = 0 with its middle above the origin."""
        low, high = self.corners.min((0, 1)), self.corners.max((0, 1))
        scale = np.array([length, width, height]) / (high - low)
        middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        return Solid((self.corners - middle) * scale, self.material, self.reflectance)


def placed(corners: Soup, x: float, y: float, z: float, yaw: float = 0.0) -> Soup:
    """Turned about z, then moved."""
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    out: Soup = corners @ turn + np.array([x, y, z])
    return out


_CUBE = np.array([[i & 1, (i >> 1) & 1, i >> 2] for i in range(8)], np.float64) - 0.5
_CUBE_FACES = np.array([0, 2, 3, 0, 3, 1, 4, 5, 7, 4, 7, 6, 0, 1, 5, 0, 5, 4, 2, 6, 7, 2, 7, 3, 0, 4, 6, 0, 6, 2])
_CUBE_FACES = np.concatenate([_CUBE_FACES, [1, 3, 7, 1, 7, 5]]).reshape(-1, 3)


def box(length: float, width: float, height: float, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Soup:
    """A box standing on height z, its middle above (x, y)."""
    vertices = _CUBE * (length, width, height) + (x, y, z + height / 2)
    out: Soup = vertices[_CUBE_FACES]
    return out


def loft(sections: Float64[np.ndarray, "k p 3"], caps: bool = True) -> Soup:
    """The skin over k closed polygons of p corners each, and fans over the first and the last."""
    k, p, _ = sections.shape
    i, j = np.meshgrid(np.arange(k - 1), np.arange(p), indexing="ij")
    a, b = (i * p + j).ravel(), (i * p + (j + 1) % p).ravel()
    faces = np.stack([np.stack([a, b, b + p], 1), np.stack([a, b + p, a + p], 1)], axis=1).reshape(-1, 3)
    if caps:
        fan = np.stack([np.zeros(p - 2, np.int64), np.arange(1, p - 1), np.arange(2, p)], axis=1)
        faces = np.concatenate([faces, fan[:, ::-1], fan + (k - 1) * p])
    out: Soup = sections.reshape(-1, 3)[faces]
    return out


def limb(
    start: tuple[float, float, float], end: tuple[float, float, float], radius0: float, radius1: float, sides: int = 7
) -> Soup:
    """A rounded tube from start to end, as arms and trunks are."""
    a, b = np.array(start), np.array(end)
    axis = b - a
    length = float(np.linalg.norm(axis))
    axis = axis / length
    across = np.cross(axis, [1.0, 0, 0] if abs(axis[0]) < 0.8 else [0, 1.0, 0])
    across /= np.linalg.norm(across)
    angle = np.arange(sides) * (2 * np.pi / sides)
    ring = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(axis, across)
    at = np.array([-0.8 * radius0, 0.0, length, length + 0.8 * radius1])
    radius = np.array([0.5 * radius0, radius0, radius1, 0.5 * radius1])
    return loft(a + at[:, None, None] * axis + radius[:, None, None] * ring)


def tube(radius0: float, radius1: float, height: float, sides: int = 8) -> Soup:
    """An upright tube on the origin, radius0 at its foot, closed."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(sides)], axis=1)
    return loft(np.stack([ring * radius0, ring * radius1 + (0, 0, height)]))


def blob(rx: float, ry: float, rz: float, sides: int = 8, rings: int = 5) -> Soup:
    """An ellipsoid about the origin."""
    latitude = np.linspace(-0.5, 0.5, rings + 2)[1:-1] * np.pi
    angle = np.arange(sides) * (2 * np.pi / sides)
    x = np.cos(latitude)[:, None] * np.cos(angle)
    y = np.cos(latitude)[:, None] * np.sin(angle)
    z = np.broadcast_to(np.sin(latitude)[:, None], x.shape)
    return loft(np.stack([x * rx, y * ry, z * rz], axis=-1))


def grid(x: Float64[np.ndarray, "a b"], y: Float64[np.ndarray, "a b"], z: Float64[np.ndarray, "a b"]) -> Soup:
    """Two triangles per cell of a grid of points; cells in rows of the first axis."""
    points = np.stack([x, y, z], axis=-1)
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    out: Soup = np.stack([np.stack([a, b, c], 2), np.stack([a, c, d], 2)], axis=2).reshape(-1, 3, 3)
    return out


def sheet(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> Soup:
    """Two triangles over four corners [*n 3] in turn."""
    out: Soup = np.stack([np.stack([a, b, c], -2), np.stack([a, c, d], -2)], axis=-3).reshape(-1, 3, 3)
    return out


def leaves(rng: np.random.Generator, centers: Float64[np.ndarray, "n 3"], size: float) -> Soup:
    """Triangles of about this size, turned at random, at these places: light passes between them."""
    out: Soup = centers[:, None] + rng.normal(0, size / 2, (len(centers), 3, 3))
    return out
