"""What a result folder or a file holds that can be shown: posed photos, points, surfels, a mesh."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import trimesh

from vision3d.core import Camera, Mesh, PointCloud, RigidTransform, Surfels, UsageError, Vision3DError
from vision3d.io.cameras_json import KnownCamera, known_cameras
from vision3d.io.colmap import find_model, read_colmap
from vision3d.io.known_cameras import read_known_cameras
from vision3d.io.ply import read_ply
from vision3d.io.ply_table import read_header
from vision3d.io.surfels_ply import read_surfels

RENDERS = ("renders/train", "renders/heldout")
UNKNOWN_CAMERA = Camera(1200, 900, (1000.0, 1000.0), (600.0, 450.0))  # for poses that come without intrinsics

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PosedPhoto:
    """A photo with its camera, and the files that belong to it: the photo, its depth as a picture and as numbers.

    depth_file is an npz with "depth", z in the camera (scene's unit), 0 where unknown; any size, of the photo without
    distortion. Files are None where there are none.
    """

    name: str
    camera: Camera
    cam_from_world: RigidTransform
    photo_file: Path | None = None
    depth_picture: Path | None = None
    depth_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What there is to show; all in one world frame. left_out: one line per file that could not be read."""

    title: str
    photos: tuple[PosedPhoto, ...] = ()
    cloud: PointCloud | None = None
    surfels: Surfels | None = None
    mesh: Mesh | None = None
    left_out: tuple[str, ...] = ()


def load_contents(path: Path) -> Contents:
    """What is at `path`: a result folder (any part of it), a COLMAP model's folder, or one file.

    A PLY is taken for surfels, a mesh or points by what its header says. In a folder a damaged file is left out and
    named; a damaged file that was asked for by name is an error.

    Raises:
        UsageError: nothing is there, or nothing that can be shown. Vision3DError: the file is damaged.
    """
    title = path.resolve().name
    if path.is_file():
        kind = path.suffix.lower()
        if kind == ".ply":
            return _ply(path, title)
        if kind in (".glb", ".obj"):
            return Contents(title, mesh=read_mesh(path))
        if kind == ".json":
            return Contents(title, photos=_posed(read_known_cameras(path), path.parent))
        raise UsageError(f"{path}: only .ply, .glb, .obj and camera files (.json) can be shown, or a result folder")
    if not path.is_dir():
        raise UsageError(f"there is no {path}: name the output folder of `vision3d reconstruct` or a PLY")
    return _folder(path, title)


def read_mesh(path: Path) -> Mesh:
    """Triangles, with colours where the file has any. Vision3DError: damaged, or no triangles."""
    try:
        loaded = trimesh.load(path, force="mesh", process=False)
        vertices, faces = np.asarray(loaded.vertices, np.float32), np.asarray(loaded.faces, np.int64)
        visual = loaded.visual if loaded.visual.kind == "vertex" else None
        if loaded.visual.kind == "texture" and loaded.visual.uv is not None:
            visual = loaded.visual.to_color()
        colors = np.zeros((0, 3)) if visual is None else np.asarray(visual.vertex_colors)[:, :3]
    except Exception as error:  # trimesh raises nearly anything on a damaged file
        raise Vision3DError(f"{path} cannot be read as a mesh: {str(error)[:200] or type(error).__name__}") from None
    if not len(faces) or not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise Vision3DError(f"{path} holds no mesh (no triangles, or its vertices are not finite)")
    rgb = torch.from_numpy(colors.astype(np.float32) / 255) if len(colors) == len(vertices) else None
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces), rgb)


def _ply(path: Path, title: str) -> Contents:
    elements = {element.name: element for element in read_header(path)}
    names = {name for name, _ in elements["vertex"].fields} if "vertex" in elements else set()
    if "f_dc_0" in names or "packed_position" in names:
        return Contents(title, surfels=read_surfels(path))
    if "face" in elements and elements["face"].count:
        return Contents(title, mesh=read_mesh(path))
    cloud = read_ply(path, drop_invalid=True).cloud
    if not len(cloud.points):
        raise UsageError(f"{path} holds no points")
    return Contents(title, cloud=cloud)


def _folder(path: Path, title: str) -> Contents:
    left_out: list[str] = []

    def attempt(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except Vision3DError as error:
            left_out.append(str(error))
            return None

    def optional(name: str, read: Callable[[Path], T]) -> T | None:
        return attempt(lambda: read(path / name)) if (path / name).is_file() else None

    surfels = optional("surfels.ply", read_surfels)
    mesh = optional("mesh.ply", read_mesh)
    if mesh is None:
        mesh = optional("mesh.glb", read_mesh)
    cloud = optional("points.ply", lambda file: read_ply(file, drop_invalid=True).cloud)
    known = optional("cameras.json", read_known_cameras) or optional("transforms.json", read_known_cameras)
    model = attempt(lambda: find_model(path)) if known is None or cloud is None else None
    if model is not None:
        scene = attempt(lambda: read_colmap(model))
        if scene is not None:
            known = known if known is not None else known_cameras(scene)
            cloud = cloud if cloud is not None else PointCloud(scene.points, scene.colors.float() / 255)
    if cloud is not None and not bool(torch.isfinite(cloud.points).all()):
        finite = torch.isfinite(cloud.points).all(1)
        cloud = PointCloud(cloud.points[finite], None if cloud.features is None else cloud.features[finite])
    contents = Contents(
        title,
        _posed(known or {}, path),
        cloud if cloud is not None and len(cloud.points) else None,
        surfels if surfels is not None and len(surfels) else None,
        mesh,
        tuple(left_out),
    )
    if not (contents.photos or contents.cloud or contents.surfels or contents.mesh):
        if left_out:
            raise Vision3DError(f"nothing in {path} can be shown: {left_out[0]}")
        raise UsageError(
            f"{path} holds nothing to show: no cameras.json, points.ply, surfels.ply, mesh.ply or COLMAP model"
        )
    return contents


def _posed(known: dict[str, KnownCamera], folder: Path) -> tuple[PosedPhoto, ...]:
    originals = _photo_folder(folder)
    photos = []
    for name, entry in known.items():
        if entry.cam_from_world is None:
            continue
        stem = Path(name).stem
        # The rendered folders hold the photo without distortion, as the depth is.
        pictures = [folder / renders / f"{stem}_photo.png" for renders in RENDERS]
        pictures += [originals / name] if originals is not None else []
        photos.append(
            PosedPhoto(
                name,
                entry.camera or UNKNOWN_CAMERA,
                entry.cam_from_world,
                _first(pictures),
                _first([folder / renders / f"{stem}_depth.png" for renders in RENDERS]),
                _first([folder / renders / f"{stem}_depth.npz" for renders in RENDERS]),
            )
        )
    return tuple(photos)


def _photo_folder(folder: Path) -> Path | None:
    """Where the run took its photos from, if it says so and they are still there; else images/ at hand."""
    try:
        named = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]["photos"]
        candidates = [Path(named)]
    except (OSError, ValueError, LookupError, TypeError):
        candidates = []
    candidates += [folder / "images", folder.parent / "images"]
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def _first(files: list[Path]) -> Path | None:
    return next((file for file in files if file.is_file()), None)
