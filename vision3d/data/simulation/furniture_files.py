"""Furniture and people from Sweet Home 3D's catalogues (.sh3f: zip files of OBJ models with their sizes).

Debian's package sweethome3d-furniture has five of them under CC0 and CC BY, in /usr/share/sweethome3d/furniture.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from vision3d.core import UsageError, Vision3DError
from vision3d.data.simulation.solids import Soup

_CATALOGUE = "PluginFurnitureCatalog.properties"
_CATEGORIES = ("Living room", "Bedroom", "Kitchen", "Office", "Bathroom", "Characters")
_LARGEST = 400_000  # bytes of a model: finer ones take longer than they are worth
_LINE = re.compile(r"(\w+)#(\d+)=(.*)")


@dataclass(frozen=True, slots=True)
class Model:
    """A piece as the furniture of this package is: metres, on z = 0 around the origin, its back towards -y."""

    name: str
    category: str
    corners: Soup


def read_models(folder: str | Path, most: int = 120) -> list[Model]:
    """The models for rooms that stand on the floor, of all catalogues in the folder, in a fixed order.

    most: evenly chosen among them, since reading takes some 20 ms each.

    Raises:
        UsageError: no folder, or no catalogues in it. Vision3DError: a catalogue that cannot be read.
    """
    files = sorted(Path(folder).glob("*.sh3f"))
    if not files:
        raise UsageError(f"{folder} holds no catalogues of Sweet Home 3D (.sh3f): give the folder of the package")
    found = [(file, entry) for file in files for entry in _entries(file)]
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))]
    models = []
    for file, entry in chosen:
        corners = _corners(file, entry["model"].lstrip("/"))
        if len(corners):
            # The catalogue's y is up and its front is +z; here z is up and the front is +y.
            upright = corners[..., [0, 2, 1]]
            size = np.array([float(entry[key]) / 100 for key in ("width", "depth", "height")])
            low, high = upright.min((0, 1)), upright.max((0, 1))
            middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
            scaled = (upright - middle) * size / np.maximum(high - low, 1e-9)
            models.append(Model(entry["name"], entry["category"], scaled))
    return models


def read_catalogue(file: Path) -> list[tuple[dict[str, str], int]]:
    """All entries of a catalogue in its order, each with the size of its model in bytes.

    Raises:
        Vision3DError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            text = archive.read(_CATALOGUE).decode("latin-1")
            sizes = {info.filename: info.file_size for info in archive.infolist()}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise Vision3DError(f"{file} is no catalogue of Sweet Home 3D: {error}") from None
    table: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        match = _LINE.match(line.strip())
        if match:
            table.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
    return [(entry, sizes.get(entry.get("model", "").lstrip("/"), _LARGEST)) for _, entry in sorted(table.items())]


def _entries(file: Path) -> list[dict[str, str]]:
    return [
        entry
        for entry, size in read_catalogue(file)
        if entry.get("category") in _CATEGORIES
        and size < _LARGEST
        and "elevation" not in entry
        and "modelRotation" not in entry
        and float(entry.get("height", 0)) >= 25
        and max(float(entry.get("width", 0)), float(entry.get("depth", 0))) >= 25
    ]


def _corners(file: Path, name: str) -> Float64[np.ndarray, "m 3 3"]:
    return read_triangles(file, name)[0]


def read_triangles(file: Path, name: str) -> tuple[Float64[np.ndarray, "m 3 3"], Int64[np.ndarray, " m"]]:
    """The triangles of an OBJ in the archive and their material's number; polygons become fans.

    Raises:
        Vision3DError: it cannot be read.
    """
    materials: dict[str, int] = {}
    numbers_of_faces: list[int] = []
    current = 0
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    try:
        with zipfile.ZipFile(file) as archive:
            text = archive.read(name).decode("latin-1")
        for line in text.splitlines():
            if line.startswith("v "):
                vertices.append([float(v) for v in line.split()[1:4]])
            elif line.startswith("usemtl "):
                current = materials.setdefault(line[7:].strip(), len(materials))
            elif line.startswith("f "):
                numbers = [int(word.split("/")[0]) for word in line.split()[1:]]
                corners = [n - 1 if n > 0 else len(vertices) + n for n in numbers]
                faces += [(corners[0], corners[k], corners[k + 1]) for k in range(1, len(corners) - 1)]
                numbers_of_faces += [current] * (len(corners) - 2)
        out: Float64[np.ndarray, "m 3 3"] = np.array(vertices, np.float64).reshape(-1, 3)[
            np.array(faces, np.int64).reshape(-1, 3)
        ]
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise Vision3DError(f"{file}: the model {name} cannot be read: {error}") from None
    return out, np.array(numbers_of_faces, np.int64)
