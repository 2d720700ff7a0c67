"""Horses, cows, sheep, dogs and cats as meshes in poses, made from nothing but a name, with points named alike on all.

An individual is KIND:SEED:NUMBER; the name alone decides its proportions, its pose and the pattern of its coat.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vision3d.core import UsageError
from vision3d.data.simulation.animal_body import KEYPOINTS, AnimalBody, animal_body
from vision3d.data.simulation.animal_shape import KINDS, AnimalPose, AnimalShape, draw_pose, draw_shape
from vision3d.data.simulation.blended_tubes import Chain, Layer, Tube, nearest_tubes, surface_mesh, surface_points
from vision3d.data.simulation.part_models import PartModel
from vision3d.data.simulation.solids import Soup

COAT, SECOND, HAIR, HARD, EYE = range(5)  # materials: the coat's two colours, mane and tail, horn and nose, eyes
_STEPS = 50  # of the grid, along the height at the withers
_EYE = 0.2  # radius as a share of the skull's
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "horse": ("plain", "plain", "points", "patches"),
    "cow": ("plain", "patches", "patches"),
    "sheep": ("fleece",),
    "dog": ("plain", "patches", "saddle"),
    "cat": ("plain", "points", "stripes"),
}


def animal_names(kind: str, count: int, seed: int) -> list[str]:
    """The first `count` individuals of a kind; other seeds have others."""
    return [f"{kind}:{seed}:{number}" for number in range(count)]


def animal_model(name: str) -> PartModel:
    """The individual called KIND:SEED:NUMBER. UsageError for another name."""
    kind, _, rest = name.partition(":")
    seed, _, number = rest.partition(":")
    if kind not in KINDS or not all(part.isascii() and part.isdigit() for part in (seed, number)):
        raise UsageError(f"an animal is called KIND:SEED:NUMBER, KIND one of {', '.join(KINDS)}; got {name}")
    rng = np.random.default_rng([int(seed), int(number), zlib.crc32(kind.encode())])
    shape = draw_shape(rng, kind)
    return posed_animal(name, kind, shape, draw_pose(rng, kind), rng)


def posed_animal(name: str, kind: str, shape: AnimalShape, pose: AnimalPose, rng: np.random.Generator) -> PartModel:
    """The mesh of this shape in this pose, around its box's centre; rng: of the pattern."""
    body = animal_body(shape, pose)
    vertices, faces = surface_mesh(body.layers, shape.height / _STEPS)
    corners = vertices[faces]
    material = _materials(kind, shape, body, corners.mean(1), rng)
    points = _on_skin(body, corners, shape.height)
    eyes, ends = _eyes(shape, body, points)
    points[[KEYPOINTS.index("eye right"), KEYPOINTS.index("eye left")]] = ends
    corners = np.concatenate([corners, eyes])
    material = np.concatenate([material, np.full(len(eyes), EYE)])
    middle = (corners.min((0, 1)) + corners.max((0, 1))) / 2
    return PartModel(name, kind, corners - middle, material, points - middle)


def first_exit(
    corners: Soup, inside: Float64[np.ndarray, " 3"], toward: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, " 3"] | None:
    """Where the ray from `inside` first meets a triangle (T. Moeller and B. Trumbore, 1997); None: nowhere."""
    a, b, c = corners.transpose(1, 0, 2)
    u, v, to = b - a, c - a, inside - a
    p, q = np.cross(toward, v), np.cross(to, u)
    determinant = (u * p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s, t, length = ((x / determinant) for x in ((to * p).sum(1), q @ toward, (v * q).sum(1)))
    hit = (s >= -1e-9) & (t >= -1e-9) & (s + t <= 1 + 1e-9) & (length > 0)
    if not hit.any():
        return None
    out: Float64[np.ndarray, " 3"] = inside + length[hit].min() * toward
    return out


def _on_skin(body: AnimalBody, corners: Soup, height: float) -> Float64[np.ndarray, "k 3"]:
    """The named points, on the mesh."""
    rays = [body.rays[name] for name in KEYPOINTS]
    inside, toward = np.stack([ray[0] for ray in rays]), np.stack([ray[1] for ray in rays])
    exact = surface_points(body.layers, inside, toward, height)
    found = []
    for start, direction, near in zip(inside, toward, exact, strict=True):
        point = first_exit(corners, start, direction)
        if point is None or np.linalg.norm(point - near) > 3 * height / _STEPS:  # the grid missed a thin tip
            vertices = corners.reshape(-1, 3)
            point = vertices[np.linalg.norm(vertices - near, axis=1).argmin()]
        found.append(point)
    return np.stack(found)


def _eyes(
    shape: AnimalShape, body: AnimalBody, points: Float64[np.ndarray, "k 3"]
) -> tuple[Soup, Float64[np.ndarray, "2 3"]]:
    """Eyeballs that stand out of the skin, and the points farthest out on them: right, left."""
    radius = _EYE * shape.skull * shape.height
    balls, ends = [], []
    for name in ("eye right", "eye left"):
        toward = body.rays[name][1] / np.linalg.norm(body.rays[name][1])
        middle = points[KEYPOINTS.index(name)] - 0.3 * radius * toward
        tube = Tube("eye", middle, middle, radius, radius, np.array([1.0, 0.0, 0.0]))
        vertices, faces = surface_mesh((Layer((Chain((tube,), 0.0),), 0.0),), radius / 4)
        balls.append(vertices[faces])
        end = first_exit(balls[-1], middle, toward)
        assert end is not None
        ends.append(end)
    return np.concatenate(balls), np.stack(ends)


def _materials(
    kind: str, shape: AnimalShape, body: AnimalBody, at: Float64[np.ndarray, "m 3"], rng: np.random.Generator
) -> Int64[np.ndarray, " m"]:
    """Of each triangle, by the nearest bone and the individual's pattern."""
    parts = np.array([tube.part for layer in body.layers for chain in layer.chains for tube in chain.tubes])
    part = parts[nearest_tubes(body.layers, at)]
    pattern = str(rng.choice(PATTERNS[kind]))
    out = np.where(_second(pattern, part, at / shape.height, rng), SECOND, COAT)
    hair = part == "mane" if kind != "horse" else np.isin(part, ("mane", "tail"))
    out[hair] = HAIR
    out[np.isin(part, ("nose", "horn"))] = HARD
    if kind in ("horse", "cow", "sheep"):
        out[part == "foot"] = HARD
    return out.astype(np.int64)


def _second(
    pattern: str, part: np.ndarray, at: Float64[np.ndarray, "m 3"], rng: np.random.Generator
) -> Bool[np.ndarray, " m"]:
    """Where the coat has its second colour; at: in heights at the withers."""
    y, z = at[:, 1], at[:, 2]
    out: Bool[np.ndarray, " m"] = np.zeros(len(at), bool)
    if pattern == "points":
        out = np.isin(part, ("shank", "foot", "muzzle", "ear", "tail"))
    elif pattern == "fleece":
        out = ~np.isin(part, ("trunk", "neck", "tail")) & ~((part == "leg") & (z > 0.42))
    elif pattern == "saddle":
        out = np.isin(part, ("trunk", "neck", "tail")) & (z > 0.78 + 0.03 * np.sin(9 * y))
    elif pattern == "stripes":
        wave = 2 * np.pi * 7 * y + 1.5 * np.sin(5 * z + rng.uniform(0, 6))
        out = np.isin(part, ("trunk", "tail", "leg", "neck")) & (np.sin(wave) > 0.35)
    elif pattern == "patches":
        waves, phases = rng.normal(0, 4.5, (6, 3)), rng.uniform(0, 2 * np.pi, 6)
        out = np.sin(at @ waves.T + phases).sum(1) > 0.4
    return out
