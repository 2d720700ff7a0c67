"""A small set of rendered pairs in SPair-71k's layout: furniture, cars and animals, synthetic, with exact keypoints.

Layout and fields: J. Min et al., arXiv 1908.10543. Whole meshes go to one of trn, val and test.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64

from vision3d.core import Progress, UsageError, silent
from vision3d.data.mesh_raster import first_hits
from vision3d.data.rendered.textures import surface_texture
from vision3d.data.simulation.animal_shape import KINDS
from vision3d.data.simulation.animals import animal_model, animal_names
from vision3d.data.simulation.depth_camera import look
from vision3d.data.simulation.part_models import CATEGORIES as FURNITURE
from vision3d.data.simulation.part_models import PartModel, read_part_models
from vision3d.io.atomic import atomic_directory

_RAYS = 2  # along each side of a pixel
_FOCAL = 1.3  # times the width
CATEGORIES = (*FURNITURE, *KINDS)
_SLOTS = 30  # keypoints in an ImageAnnotation, as the data set has them


@dataclass(frozen=True, kw_only=True)
class MiniSpairConfig:
    """Settings of the pictures; the seed decides all the rest."""

    furniture: Path = Path("/usr/share/sweethome3d/furniture")
    """Folder of the catalogues (.sh3f) of Debian's sweethome3d-furniture."""
    categories: tuple[str, ...] = ()
    """Only these (default: all); animals alone (horse, cow, sheep, dog, cat) need no catalogues."""
    animals: int = 10
    """Individuals of each kind of animal, each in a pose of its own; 5 or more, so that every split has two or one."""
    seed: int = 0
    """Of meshes, views, backgrounds and pairs."""
    views: int = 4
    """Pictures of each mesh."""
    pairs: int = 60
    """Most pairs per category and split (a third of them in Layout/small)."""
    width: int = 320
    """px"""
    height: int = 256
    """px"""


def write_mini_spair(out: str | Path, config: MiniSpairConfig, progress: Progress = silent) -> dict[str, int]:
    """Writes the folder as a whole and returns the number of pairs per split.

    Raises:
        UsageError: the folder exists and is not empty, there are no catalogues, a category is unknown, or no pair comes
            of the settings. Vision3DError: it cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty: choose another folder")
    models = _models(config, progress)
    total = sum(len(m) for m in models.values()) * config.views
    done = 0
    layout: dict[str, list[str]] = {"trn": [], "val": [], "test": []}
    with atomic_directory(out) as root:
        for category, found in models.items():
            rng = np.random.default_rng([config.seed, CATEGORIES.index(category)])
            splits: dict[str, list[dict[str, Any]]] = {split: [] for split in layout}
            for place, index in enumerate(rng.permutation(len(found))):
                split = ("trn", "test", "trn", "test", "val")[place % 5]
                for view in range(config.views):
                    shot = shoot(rng, found[index], config)
                    if shot is not None:
                        name = f"{index:04d}_{view:06d}"
                        splits[split].append({**_save(root, category, name, found[index], *shot), "mesh": int(index)})
                    done += 1
                    progress("pictures", done, total)
            for split, shots in splits.items():
                layout[split] += _pairs(rng, root, split, category, shots, config.pairs, len(layout[split]))
        if not any(layout.values()):
            raise UsageError(
                "these settings give no pair in any split: more views, animals or pairs, or larger pictures"
            )
        for split, names in layout.items():
            for size, chosen in (("large", names), ("small", names[::3])):
                file = root / "Layout" / size / f"{split}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("".join(f"{name}\n" for name in chosen), encoding="utf-8")
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
        (root / "synthetic.json").write_text(json.dumps({"synthetic": True, "settings": settings}), encoding="utf-8")
        (root / "README.md").write_text(
            "Synthetic: rendered meshes in SPair-71k's layout. Not the data set, and its figures are not comparable.\n"
            "Furniture and cars are meshes of Debian's sweethome3d-furniture; horses, cows, sheep, dogs and cats are "
            "tubes around bones, made by `vision3d simulate spair` itself.\n",
            encoding="utf-8",
        )
    return {split: len(names) for split, names in layout.items()}


def _models(config: MiniSpairConfig, progress: Progress) -> dict[str, list[PartModel]]:
    """The models of the wanted categories. Errors as in `write_mini_spair`."""
    unknown = [category for category in config.categories if category not in CATEGORIES]
    if unknown:
        raise UsageError(f"no category is called {unknown[0]}; known: {', '.join(CATEGORIES)}")
    if config.animals < 0:
        raise UsageError(f"--animals is 0 or more, got {config.animals}")
    wanted = config.categories or CATEGORIES
    found = read_part_models(config.furniture) if any(category in FURNITURE for category in wanted) else {}
    names = [name for kind in KINDS if kind in wanted for name in animal_names(kind, config.animals, config.seed)]
    for done, name in enumerate(names):
        progress("animals", done, len(names))
        found.setdefault(name.partition(":")[0], []).append(animal_model(name))
    return {category: found[category] for category in CATEGORIES if category in wanted and category in found}


Shot = tuple[np.ndarray, Bool[np.ndarray, "h w"], list[float], list[list[float] | None], int, bool, bool]


def shoot(rng: np.random.Generator, model: PartModel, config: MiniSpairConfig) -> Shot | None:
    """Picture, mask, box, keypoints (from the centre of the top-left pixel), azimuth, truncated, occluded.

    A keypoint is None where it is hidden or outside. None for a view that shows too little: draw another.
    """
    w, h = config.width, config.height
    azimuth = rng.uniform(-100, 100)
    radius = float(np.linalg.norm(model.corners.reshape(-1, 3), axis=1).max())
    cut = rng.random() < 0.25
    distance = radius * rng.uniform(1.5, 2.2) if cut else radius * rng.uniform(2.6, 4.4)
    pitch = -np.radians(rng.uniform(8, 35))
    yaw = np.radians(-90 + azimuth)
    pose = look(np.zeros(3), yaw, pitch, rng.normal(0, 0.03))
    aim = pose[:, :2] @ rng.uniform(-0.35, 0.35, 2) * radius
    position = aim - pose[:, 2] * distance
    corners = (model.corners - position) @ pose[:, :3]
    points = (model.points - position) @ pose[:, :3]
    focal = _FOCAL * w
    own = len(corners)
    if rng.random() < 0.3:  # a board in front
        x, y = rng.uniform(-0.5, 0.5, 2) * radius
        z, a, b = distance - 1.05 * radius, *(rng.uniform(0.1, 0.3, 2) * radius)
        p = np.array([[x - a, y - b, z], [x + a, y - b, z], [x + a, y + b, z], [x - a, y + b, z]])
        if z > 0.1 * radius:
            corners = np.concatenate([corners, p[[[0, 1, 2], [0, 2, 3]]]])
    face, weights, depth = first_hits(
        corners, (focal * _RAYS, focal * _RAYS, w * _RAYS / 2, h * _RAYS / 2), w * _RAYS, h * _RAYS
    )
    middle = (slice(_RAYS // 2, None, _RAYS),) * 2
    mask = (face[middle] >= 0) & (face[middle] < own)
    if (points[:, 2] <= 0).any() or (corners[..., 2] <= 0).any() or mask.sum() < 0.02 * w * h:
        return None
    projected = corners[:own].reshape(-1, 3)
    pixels = projected[:, :2] / projected[:, 2:] * focal + (w / 2, h / 2)
    low, high = pixels.min(0), pixels.max(0)
    truncated = bool((low < 0).any() or high[0] > w or high[1] > h)
    box = [*np.clip(low - 0.5, 0, (w - 1, h - 1)).tolist(), *np.clip(high - 0.5, 0, (w - 1, h - 1)).tolist()]
    hidden = 0
    keypoints: list[list[float] | None] = []
    for point in points:
        at = point[:2] / point[2] * focal + (w / 2, h / 2)
        inside = bool((at >= 0).all() and at[0] < w and at[1] < h)
        seen = False
        if inside:
            column, row = (at * _RAYS).astype(int)
            window = (slice(max(row - 2, 0), row + 3), slice(max(column - 2, 0), column + 3))
            near, ours = depth[window], (face[window] >= 0) & (face[window] < own)
            seen = bool((ours & (near >= point[2] - 0.03 * radius)).any())
            hidden += not seen and bool((face[window] >= own).any())
        keypoints.append([float(at[0] - 0.5), float(at[1] - 0.5)] if seen else None)
    if sum(k is not None for k in keypoints) < 2:
        return None
    picture = _paint(rng, model, corners, face, weights, pose, position, own, (w, h))
    return picture, mask, box, keypoints, round(azimuth), truncated, hidden > 0


def _paint(
    rng: np.random.Generator,
    model: PartModel,
    corners: Float64[np.ndarray, "m 3 3"],
    face: np.ndarray,
    weights: np.ndarray,
    pose: Float64[np.ndarray, "3 4"],
    position: Float64[np.ndarray, " 3"],
    own: int,
    size: tuple[int, int],
) -> np.ndarray:
    w, h = size
    count = int(model.material.max()) + 1
    material = np.concatenate([model.material, np.full(len(corners) - own, count)])
    textures = [surface_texture(rng) for _ in range(3)]
    which, tint = rng.integers(3, size=count + 1), rng.uniform(0.45, 1.25, (count + 1, 3))
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    light = rng.normal(size=3)
    shade = 0.45 + 0.6 * np.abs(normal @ (light / np.linalg.norm(light)))
    hit = face >= 0
    f = face[hit]
    full = np.concatenate([weights[hit], 1 - weights[hit].sum(1, keepdims=True)], axis=1)
    world = (full[..., None] * corners[f]).sum(1) @ pose[:, :3].T + position
    axis = np.abs(normal[f] @ pose[:, :3].T).argmax(1)
    flat = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    texel = (np.take_along_axis(world, flat, 1) * 180).astype(np.int64) % 256
    color = np.stack(textures)[which[material[f]], texel[:, 1], texel[:, 0]] * tint[material[f]] * shade[f][:, None]
    back = cv2.resize(surface_texture(rng), (w * _RAYS, h * _RAYS)).astype(np.float64) * rng.uniform(0.4, 1.1)
    back[hit] = color
    fine = back.reshape(h, _RAYS, w, _RAYS, 3).mean((1, 3))
    out: np.ndarray = np.clip(fine + rng.normal(0, 2, fine.shape), 0, 255).astype(np.uint8)
    return out


def _save(
    root: Path, category: str, name: str, model: PartModel, picture: np.ndarray, mask: np.ndarray, box: list[float],
    keypoints: list[list[float] | None], azimuth: int, truncated: bool, occluded: bool,
) -> dict[str, Any]:  # fmt: skip
    height, width = mask.shape
    padded = keypoints + [None] * (_SLOTS - len(keypoints))
    record = {
        "filename": f"{name}.jpg", "database": "synthetic", "mesh_name": model.name, "category": category,
        "image_width": width, "image_height": height, "image_depth": 3, "bndbox": box, "azimuth": azimuth,
        "kps": {str(i): value for i, value in enumerate(padded)}, "truncated": truncated, "occluded": occluded,
    }  # fmt: skip
    for kind in ("ImageAnnotation", "JPEGImages", "Segmentation"):
        (root / kind / category).mkdir(parents=True, exist_ok=True)
    (root / "ImageAnnotation" / category / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    cv2.imwrite(str(root / "JPEGImages" / category / f"{name}.jpg"), np.ascontiguousarray(picture[..., ::-1]))
    cv2.imwrite(str(root / "Segmentation" / category / f"{name}.png"), mask.astype(np.uint8) * 255)
    return record


def _pairs(
    rng: np.random.Generator, root: Path, split: str, category: str, shots: list[dict[str, Any]], most: int, first: int
) -> list[str]:
    """Pairs of pictures of different meshes with at least three common keypoints."""
    folder = root / "PairAnnotation" / split
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    candidates = [(i, j) for i in range(len(shots)) for j in range(len(shots)) if shots[i]["mesh"] != shots[j]["mesh"]]
    for k in rng.permutation(len(candidates)):
        a, b = (shots[i] for i in candidates[k])
        ids = [i for i in a["kps"] if a["kps"][i] is not None and b["kps"][i] is not None]
        if len(ids) < 3 or len(names) == most:
            continue
        turn = abs(a["azimuth"] - b["azimuth"])
        sides = [max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (a["bndbox"], b["bndbox"])]
        ratio = max(sides) / max(min(sides), 1e-6)
        number = first + len(names)
        record = {
            "pair_id": number, "src_imname": a["filename"], "trg_imname": b["filename"],
            "src_imsize": [a["image_width"], a["image_height"], 3],
            "trg_imsize": [b["image_width"], b["image_height"], 3],
            "src_bndbox": a["bndbox"], "trg_bndbox": b["bndbox"], "category": category, "kps_ids": ids, "mirror": 0,
            "src_kps": [a["kps"][i] for i in ids], "trg_kps": [b["kps"][i] for i in ids],
            "viewpoint_variation": int(turn >= 30) + int(turn >= 75),
            "scale_variation": int(ratio >= 1.5) + int(ratio >= 2.2),
            "truncation": a["truncated"] + 2 * b["truncated"], "occlusion": a["occluded"] + 2 * b["occluded"],
        }  # fmt: skip
        name = f"{number:06d}-{a['filename'][:-4]}-{b['filename'][:-4]}:{category}"
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
        names.append(name)
    return names
