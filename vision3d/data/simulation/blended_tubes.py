"""Smooth closed surfaces of tapered tubes that flow into each other, as meshes.

I. Quilez, "Smooth minimum", 2013 (the quadratic polynomial); T. Lewiner et al., "Efficient implementation of marching
cubes' cases with topological guarantees", Journal of Graphics Tools 2003 (scikit-image's).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from skimage.measure import marching_cubes

Vector = Float64[np.ndarray, " 3"]
_BLOCK = 4  # grid points along the side of what is evaluated together or left out
_NUDGE = 1e-3  # of a step: distances nearer to zero are moved away from it, so that no triangle is a point


@dataclass(frozen=True, slots=True)
class Tube:
    """A tapered tube with round ends, its cross-section `flat` times as thick along the unit vector `across`."""

    part: str
    start: Vector
    end: Vector
    radius0: float
    radius1: float
    across: Vector
    flat: float = 1.0


@dataclass(frozen=True, slots=True)
class Chain:
    """Tubes that flow into each other within `blend`, a length."""

    tubes: tuple[Tube, ...]
    blend: float


@dataclass(frozen=True, slots=True)
class Layer:
    """Chains apart from each other (a left and a right one) that flow into all earlier layers within `blend`."""

    chains: tuple[Chain, ...]
    blend: float


def tube_distance(tube: Tube, points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
    """Signed distance, negative inside; exact to the first order near the surface."""
    stretch = np.eye(3) + (1 / tube.flat - 1) * np.outer(tube.across, tube.across)
    axis = stretch @ (tube.end - tube.start)
    offset = (points - tube.start) @ stretch
    share = np.clip(offset @ axis / max(float(axis @ axis), 1e-12), 0.0, 1.0)
    offset -= share[:, None] * axis
    length = np.linalg.norm(offset, axis=1)
    slope = np.linalg.norm(offset @ stretch, axis=1) / np.maximum(length, 1e-12)
    deep = length - (tube.radius0 + share * (tube.radius1 - tube.radius0))
    out: Float64[np.ndarray, " n"] = deep / np.maximum(slope, 1.0)
    return out


def surface_distance(layers: tuple[Layer, ...], points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " n"]:
    """Signed distance to the whole, negative inside, approximate far from the surface."""
    out: Float64[np.ndarray, " n"] = np.full(len(points), np.inf)
    for layer in layers:
        nearest = np.full(len(points), np.inf)
        for chain in layer.chains:
            along = np.full(len(points), np.inf)
            for tube in chain.tubes:
                along = _blended(along, tube_distance(tube, points), chain.blend)
            nearest = np.minimum(nearest, along)
        out = _blended(out, nearest, layer.blend)
    return out


def nearest_tubes(layers: tuple[Layer, ...], points: Float64[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    """The number of the tube nearest to each point, in the order of the layers."""
    tubes = [tube for layer in layers for chain in layer.chains for tube in chain.tubes]
    out: Int64[np.ndarray, " n"] = np.stack([tube_distance(tube, points) for tube in tubes]).argmin(0)
    return out


def surface_mesh(layers: tuple[Layer, ...], step: float) -> tuple[Float64[np.ndarray, "n 3"], Int64[np.ndarray, "m 3"]]:
    """Vertices and faces, counter-clockwise from outside, on a grid of this step that is symmetric about x = 0."""
    tubes = [tube for layer in layers for chain in layer.chains for tube in chain.tubes]
    ends = np.stack([[t.start, t.end] for t in tubes]).reshape(-1, 3)
    radii = np.array([[t.radius0, t.radius1] for t in tubes]).reshape(-1, 1)
    margin = max([layer.blend for layer in layers] + [c.blend for layer in layers for c in layer.chains]) + 2 * step
    low, high = (ends - radii).min(0) - margin, (ends + radii).max(0) + margin
    high[0] = max(high[0], -low[0])
    low[0] = -high[0]
    blocks = np.ceil((high - low) / (step * _BLOCK)).astype(int)
    first = (low + high) / 2 - (blocks * _BLOCK - 1) / 2 * step
    middles = np.stack(np.meshgrid(*[np.arange(n) for n in blocks], indexing="ij"), -1).reshape(-1, 3)
    coarse = surface_distance(layers, first + (middles * _BLOCK + (_BLOCK - 1) / 2) * step)
    reach = 1.5 * (_BLOCK + 1) / 2 * np.sqrt(3) * step  # distances grow a little faster than the way in places
    volume = coarse.reshape(blocks)
    near = np.abs(volume) < reach
    for axis in range(3):
        volume, near = np.repeat(volume, _BLOCK, axis), np.repeat(near, _BLOCK, axis)
    at = np.argwhere(near)
    volume[near] = surface_distance(layers, first + at * step)
    close = np.abs(volume) < _NUDGE * step
    volume[close] = np.where(volume[close] < 0, -_NUDGE, _NUDGE) * step
    vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="ascent")
    return first + vertices.astype(np.float64) * step, faces[:, ::-1].astype(np.int64)


def surface_points(
    layers: tuple[Layer, ...],
    inside: Float64[np.ndarray, "n 3"],
    toward: Float64[np.ndarray, "n 3"],
    reach: float,
) -> Float64[np.ndarray, "n 3"]:
    """Where rays from points inside leave the surface for the first time; reach: a length that leads out of it.

    ValueError: a ray starts outside or does not leave.
    """
    t = np.linspace(0, reach, 128)
    rays = inside[:, None] + t[:, None] * (toward / np.linalg.norm(toward, axis=1, keepdims=True))[:, None]
    values = surface_distance(layers, rays.reshape(-1, 3)).reshape(len(inside), -1)
    if (values[:, 0] >= 0).any() or (values < 0).all(1).any():
        raise ValueError("a ray must start inside the surface and leave it")
    after = (values >= 0).argmax(1)
    rows = np.arange(len(inside))
    d0, d1 = values[rows, after - 1], values[rows, after]
    share = (d0 / (d0 - d1))[:, None]
    out: Float64[np.ndarray, "n 3"] = rays[rows, after - 1] * (1 - share) + rays[rows, after] * share
    return out


def _blended(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """The smaller one, less where both are within `blend` of each other."""
    with np.errstate(invalid="ignore"):
        near = np.maximum(blend - np.abs(a - b), 0.0)
    out: np.ndarray = np.minimum(a, b) - np.where(np.isfinite(a), near, 0.0) ** 2 / (4 * max(blend, 1e-12))
    return out
