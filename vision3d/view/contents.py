"""What a result folder or a file holds that can be shown: posed photos, points, surfels, a mesh."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import (
    Camera,
    Mesh,
    PointCloud,
    PosedImage,
    RigidTransform,
    Scene,
    Surfels,
    Tracks,
    UsageError,
    Vision3DError,
)
from vision3d.data.photo_folder import PHOTO_EXTENSIONS, RUN_MARKER
from vision3d.io.cameras_json import KnownCamera, known_cameras
from vision3d.io.colmap import find_model, read_colmap
from vision3d.io.glb import upright_from_world
from vision3d.io.known_cameras import read_known_cameras
from vision3d.io.mesh import MESH_ENDINGS, read_mesh
from vision3d.io.ply import read_ply
from vision3d.io.ply_table import read_header
from vision3d.io.surfels_ply import read_surfels

RENDERS = ("renders/train", "renders/heldout")
UNKNOWN_CAMERA = Camera(1200, 900, (1000.0, 1000.0), (600.0, 450.0))  # for poses that come without intrinsics

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
        if kind in MESH_ENDINGS:
            return Contents(title, mesh=_mesh(path))
        if kind == ".json":
            photos = _posed(read_known_cameras(path), path.parent)
            if not photos:
                raise UsageError(f"{path} holds no camera poses")
            return Contents(title, photos)
        raise UsageError(f"{path}: only .json (cameras) and {', '.join(MESH_ENDINGS)} can be shown, or a result folder")
    if not path.is_dir():
        raise UsageError(f"there is no {path}: name the output folder of `vision3d reconstruct` or a PLY")
    return _folder(path, title)


def upright_from_world_of(photos: tuple[PosedPhoto, ...]) -> Float[Tensor, "3 3"]:
    """Rotation to glTF's axes (y up) by the mean orientation of the cameras; see `vision3d.io.glb`."""
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    images = {photo.name: PosedImage(0, photo.cam_from_world) for photo in photos}
    return upright_from_world(Scene({}, images, nothing, nothing.to(torch.uint8), nothing[:, 0], Tracks.empty()))


def _mesh(path: Path, photos: tuple[PosedPhoto, ...] = ()) -> Mesh:
    """A mesh in the world of the photos: GLB and glTF are y up, as they were written."""
    mesh = read_mesh(path)
    if path.suffix.lower() not in (".glb", ".gltf"):
        return mesh
    turn = upright_from_world_of(photos).float()
    return Mesh(mesh.vertices @ turn, mesh.faces, mesh.colors)


def _ply(path: Path, title: str) -> Contents:
    elements = {element.name: element for element in read_header(path)}
    names = {name for name, _ in elements["vertex"].fields} if "vertex" in elements else set()
    if "f_dc_0" in names or "packed_position" in names:
        surfels = read_surfels(path)
        if not len(surfels):
            raise UsageError(f"{path} holds no surfels")
        return Contents(title, surfels=surfels)
    if "face" in elements and elements["face"].count:
        return Contents(title, mesh=_mesh(path))
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
    cloud = optional("points.ply", lambda file: read_ply(file, drop_invalid=True).cloud)
    known = optional("cameras.json", read_known_cameras) or optional("transforms.json", read_known_cameras)
    model = attempt(lambda: find_model(path)) if known is None or cloud is None else None
    scene = attempt(lambda: read_colmap(model)) if model is not None else None
    if scene is not None:
        known = known if known is not None else known_cameras(scene)
        cloud = cloud if cloud is not None else PointCloud(scene.points, scene.colors.float() / 255)
    photos = _posed(known or {}, path)
    mesh = optional("mesh.ply", _mesh)
    if mesh is None:
        mesh = optional("mesh.glb", lambda file: _mesh(file, photos))
    if cloud is not None and not bool(torch.isfinite(cloud.points).all()):
        finite = torch.isfinite(cloud.points).all(1)
        cloud = PointCloud(cloud.points[finite], None if cloud.features is None else cloud.features[finite])
    contents = Contents(
        title,
        photos,
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
            f"{_advice(path)}"
        )
    return contents


def _advice(path: Path) -> str:
    """What to do about a folder without results: go on with an unfinished run, or make one."""
    if (path / RUN_MARKER).is_file():
        return "; a run began there and did not finish: the same `vision3d reconstruct` command goes on where it was"
    photos = any(entry.suffix.lower() in PHOTO_EXTENSIONS for entry in path.iterdir())
    here = f"vision3d reconstruct {path} --out OUT" if photos else "vision3d reconstruct PHOTOS --out OUT"
    return f"; name the --out folder of `vision3d reconstruct`, or make one: {here}"


def _posed(known: dict[str, KnownCamera], folder: Path) -> tuple[PosedPhoto, ...]:
    originals = _photo_folder(folder)
    photos = []
    for name, entry in known.items():
        if entry.cam_from_world is None:
            continue
        # The renders hold the photo without distortion, as the depth is; they are named after the photo, folders
        # joined by "_", with its ending only where two would be alike.
        stems = ["_".join(parts) for parts in (PurePosixPath(name).with_suffix("").parts, PurePosixPath(name).parts)]
        beside = [folder / renders / stem for stem in stems for renders in RENDERS]
        pictures = [Path(f"{base}_photo.png") for base in beside]
        pictures += [originals / name] if originals is not None else []
        photos.append(
            PosedPhoto(
                name,
                entry.camera or UNKNOWN_CAMERA,
                entry.cam_from_world,
                _first(pictures),
                _first([Path(f"{base}_depth.png") for base in beside]),
                _first([Path(f"{base}_depth.npz") for base in beside]),
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
