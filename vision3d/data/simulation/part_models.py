"""Furniture and cars with named points that mean the same part on every mesh of a category.

From the catalogues of Debian's sweethome3d-furniture. A part is the vertex farthest in a direction, in coordinates that
run from -1 to 1 over the mesh's box (x right, y front, z up), among the vertices of a part of the box.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from vision3d.core import UsageError
from vision3d.data.simulation.furniture_files import read_catalogue, read_triangles
from vision3d.data.simulation.solids import Soup

_LARGEST = 1_100_000  # bytes of a model
_HINT = (
    "install Debian's sweethome3d-furniture, or without root rights: apt-get download sweethome3d-furniture && "
    "dpkg -x sweethome3d-furniture_*.deb DIR, and give DIR/usr/share/sweethome3d/furniture"
)


@dataclass(frozen=True, slots=True)
class Part:
    """The vertex farthest along `toward` among those with low <= z <= high (box coordinates)."""

    toward: tuple[float, float, float]
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True, slots=True)
class PartModel:
    """A mesh in metres around its box's centre, x right, y front, z up; material of each triangle; points by name."""

    name: str
    category: str
    corners: Soup
    material: Int64[np.ndarray, " m"]
    points: Float64[np.ndarray, "k 3"]


def _four(name: str, low: float, high: float, z: float = 0.0) -> dict[str, Part]:
    sides = (("front right", 1, 1), ("front left", -1, 1), ("back right", 1, -1), ("back left", -1, -1))
    return {f"{name} {side}": Part((x, y, z), low, high) for side, x, y in sides}


# Category -> words in the catalogue's name, range of heights (cm), parts by name.
_FEET = _four("foot", -1.0, -0.9)
_TOP = _four("top", 0.9, 1.0)
_BACK = {"back top right": Part((1, -0.3, 0.3), 0.7, 1.0), "back top left": Part((-1, -0.3, 0.3), 0.7, 1.0)}
_FRONT = {"seat front right": Part((1, 1, 0), -0.2, 0.2), "seat front left": Part((-1, 1, 0), -0.2, 0.2)}
_ARMS = {"arm front right": Part((1, 1, 1), -0.4, 1.0), "arm front left": Part((-1, 1, 1), -0.4, 1.0)}
_BED_END = {"end top right": Part((1, 1, 0.7)), "end top left": Part((-1, 1, 0.7))}
_ROOF = _four("roof", 0.85, 1.0)
_BUMPERS = _four("bumper", -0.7, 0.0)
_BONNET = {"bonnet right": Part((1, 1, 1), -0.5, 0.5), "bonnet left": Part((-1, 1, 1), -0.5, 0.5)}
CATEGORIES: Mapping[str, tuple[str, tuple[float, float], Mapping[str, Part]]] = {
    "table": (r"^(?!.*(tennis|pool|football|bedside|changing|dressing|round|clothes)).*(table|desk)$", (35, 95),
              {**_TOP, **_FEET}),
    "chair": (r"^(?!.*(arm|wheel|relax|deck|beach|high|bar)).*chair( with cushion)?$", (70, 120),
              {**_BACK, **_FEET, **_FRONT}),
    "sofa": (r"^(?!.*(corner|opened)).*(sofa|couch)( [23] seats)?$", (65, 105), {**_BACK, **_FEET, **_ARMS}),
    "armchair": (r"armchair$", (65, 110), {**_BACK, **_FEET, **_ARMS}),
    "bed": (r"^(?!.*(baby|bunk|mezz)).*bed$", (60, 120), {**_BACK, **_FEET, **_BED_END}),
    "cupboard": (r"wardrobe|cupboard|bookcase|shelves|cabinet$", (60, 250), {**_TOP, **_FEET}),
    "car": (r"sedan|beetle|seat leon|peugeot|renault|suv|chevrolet|smart car", (120, 200),
            {**_FEET, **_ROOF, **_BUMPERS, **_BONNET}),
}  # fmt: skip


def read_part_models(folder: str | Path) -> dict[str, list[PartModel]]:
    """All models per category, in a fixed order.

    Raises:
        UsageError: no catalogues there; the message says how to get them. Vision3DError: one that cannot be read.
    """
    files = sorted(Path(folder).glob("*.sh3f"))
    if not files:
        raise UsageError(f"{folder} holds no catalogues of Sweet Home 3D (.sh3f): {_HINT}")
    models: dict[str, list[PartModel]] = {category: [] for category in CATEGORIES}
    for file in files:
        for entry, size in read_catalogue(file):
            category = _category(entry)
            if category is None or size > _LARGEST or "modelRotation" in entry:
                continue
            corners, material = read_triangles(file, entry["model"].lstrip("/"))
            if len(corners) < 10:
                continue
            extent = np.array([float(entry[key]) / 100 for key in ("width", "depth", "height")])
            # The catalogue's y is up and its front is +z; x is turned so that nothing is mirrored.
            upright = corners[..., [0, 2, 1]] * (-1.0, 1.0, 1.0)
            low, high = upright.min((0, 1)), upright.max((0, 1))
            unit = 2 * (upright - low) / np.maximum(high - low, 1e-9) - 1
            points = np.stack([_find(unit.reshape(-1, 3), part) for part in CATEGORIES[category][2].values()])
            half = extent / 2
            name = f"{file.stem}:{entry['name']}:{entry['model']}"
            models[category].append(PartModel(name, category, unit * half, material, points * half))
    return models


def _category(entry: Mapping[str, str]) -> str | None:
    name, height = entry.get("name", "").lower(), float(entry.get("height", 0))
    for category, (words, (least, most), _) in CATEGORIES.items():
        if least <= height <= most and re.search(words, name) and "elevation" not in entry:
            return category
    return None


def _find(unit: Float64[np.ndarray, "n 3"], part: Part) -> Float64[np.ndarray, " 3"]:
    inside = unit[(unit[:, 2] >= part.low) & (unit[:, 2] <= part.high)]
    if not len(inside):
        inside = unit[np.abs(unit[:, 2] - (part.low + part.high) / 2).argsort()[:64]]
    score = inside @ np.array(part.toward, np.float64)
    # Ties go to the middle of the vertices that are as far.
    best: Float64[np.ndarray, " 3"] = inside[score >= score.max() - 0.02]
    middle = best.mean(0)
    nearest: Float64[np.ndarray, " 3"] = best[np.linalg.norm(best - middle, axis=1).argmin()]
    return nearest
