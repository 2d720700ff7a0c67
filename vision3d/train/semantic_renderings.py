"""Views of meshes whose points are known in every view: supervision without labels.

F. Fundel et al., "Distillation of Diffusion Features for Semantic Correspondence", WACV 2025, section 3 (there: video
frames of things with depth). Here the meshes that the training pictures of a simulated set show are drawn anew by the
set's own renderer, each view with its own light, textures and background; points lie anywhere on the surface.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vision3d.data.semantic_pairs import PIXEL_CENTRE
from vision3d.data.simulation.animal_shape import KINDS
from vision3d.data.simulation.animals import animal_model
from vision3d.data.simulation.mini_spair import MiniSpairConfig, shoot
from vision3d.data.simulation.part_models import PartModel, read_part_models
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_directory
from vision3d.train.semantic_sources import Picture

NOTE = "views.json"
TRIES = 8  # views that show too little are drawn again


@dataclass(frozen=True, kw_only=True)
class RenderingsConfig:
    """Which views are drawn."""

    furniture: Path | None = None
    """folder of the catalogues that the set was made of (`vision3d simulate spair --furniture`); null: no renderings"""
    views: int = 6
    """of each mesh that trn shows"""
    points: int = 400
    """on the surface of each mesh, most of them hidden in any one view"""
    seed: int = 0
    """of points and views"""

    def __post_init__(self) -> None:
        if self.views < 2 or self.points < 2:
            raise ValueError(f"renderings need 2 views and 2 points or more, got {self.views} and {self.points}")


@dataclass(frozen=True, slots=True)
class MeshView:
    """A rendered picture of (width, height) px; points px, row by row the same of all views of a mesh, and which of
    them can be seen here."""

    file: Path
    size: tuple[int, int]
    points: Float[Tensor, "n 2"]
    visible: Bool[Tensor, " n"]


def common_points(a: MeshView, b: MeshView) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Where the points that both views show lie in each of them, px."""
    both = a.visible & b.visible
    return a.points[both], b.points[both]


def surface_points(model: PartModel, count: int, rng: np.random.Generator) -> Float64[np.ndarray, "n 3"]:
    """Points spread evenly over the surface of a mesh, its inside included."""
    a, b, c = model.corners.transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(area), size=count, p=area / area.sum())
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    out: Float64[np.ndarray, "n 3"] = (1 - u) * a[chosen] + u * (1 - v) * b[chosen] + u * v * c[chosen]
    return out


def mesh_views(config: RenderingsConfig, root: Path, pictures: Sequence[Picture], folder: Path) -> list[list[MeshView]]:
    """The views of every mesh that `pictures` of the set in `root` show, at least two of each; drawn once into
    `folder`, then read.

    Raises:
        UsageError: no catalogues, pictures that name no mesh of them, a folder with other views. Vision3DError: it
        cannot be read.
    """
    assert config.furniture is not None
    names = _meshes(root, pictures)
    settings = {**asdict(config), "furniture": config.furniture.name, "meshes": names}
    if not folder.is_dir():
        _draw(config, names, settings, folder)
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if note["settings"] != settings:
            raise UsageError(f"{folder} keeps renderings of other meshes or settings; give another folder")
        return [[_view(folder, record) for record in mesh] for mesh in note["views"]]
    except (OSError, ValueError, KeyError) as error:
        raise Vision3DError(f"cannot read the renderings in {folder}: {error}; remove the folder") from None


def _meshes(root: Path, pictures: Sequence[Picture]) -> list[str]:
    names = set()
    for picture in pictures:
        file = root / "ImageAnnotation" / picture.category / f"{picture.file.stem}.json"
        try:
            names.add(str(json.loads(file.read_text(encoding="utf-8"))["mesh_name"]))
        except (OSError, ValueError, KeyError):
            raise UsageError(
                f"{file} names no mesh: renderings need a set of vision3d simulate spair; "
                "leave out renderings.furniture"
            ) from None
    return sorted(names)


def _draw(config: RenderingsConfig, names: Sequence[str], settings: dict[str, object], folder: Path) -> None:
    assert config.furniture is not None
    animals = [name for name in names if name.partition(":")[0] in KINDS]
    models = {name: animal_model(name) for name in animals}
    if len(animals) < len(names):
        models |= {model.name: model for found in read_part_models(config.furniture).values() for model in found}
    missing = [name for name in names if name not in models]
    if missing:
        raise UsageError(f"{config.furniture} has no mesh {missing[0]}: the set was made of other catalogues")
    camera = MiniSpairConfig()
    with atomic_directory(folder) as root:
        views = []
        for number, name in enumerate(names):
            rng = np.random.default_rng((config.seed, number))
            model = replace(models[name], points=surface_points(models[name], config.points, rng))
            records = []
            for view in range(config.views):
                shots = (shoot(rng, model, camera) for _ in range(TRIES))
                shot = next((s for s in shots if s is not None), None)
                if shot is not None:
                    file = f"{model.category}-{number:04d}-{view:02d}.png"
                    cv2.imwrite(str(root / file), np.ascontiguousarray(shot[0][..., ::-1]))
                    records.append({"file": file, "size": [camera.width, camera.height], "points": shot[3]})
            if len(records) > 1:
                views.append(records)
        if not views:
            raise UsageError(f"no mesh of {config.furniture} shows enough in two views")
        (root / NOTE).write_text(json.dumps({"settings": settings, "views": views}), encoding="utf-8")


def _view(folder: Path, record: dict[str, Any]) -> MeshView:
    points = record["points"]
    visible = torch.tensor([point is not None for point in points])
    at = torch.tensor([(0.0, 0.0) if point is None else point for point in points]) + PIXEL_CENTRE
    width, height = record["size"]
    return MeshView(folder / str(record["file"]), (int(width), int(height)), at, visible)
