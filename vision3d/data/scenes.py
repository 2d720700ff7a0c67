"""Multi-view scenes: a folder of photos with the cameras (and points) that a file beside them gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vision3d.core import Camera, PosedImage, Scene, Tracks, UsageError
from vision3d.data.camera_priors import fit_camera, match_names
from vision3d.data.photo_folder import PhotoInfo, SkippedPhoto, scan_folder
from vision3d.io.cameras_json import KnownCamera
from vision3d.io.colmap import find_model, read_colmap
from vision3d.io.known_cameras import read_known_cameras


@dataclass(frozen=True, slots=True)
class MultiViewScene:
    """Photos of a scene and what is known of them.

    scene.images holds the photos with a known pose, under the photos' names and with cameras for their upright size;
    points and tracks are empty unless a COLMAP model gave them. skipped: files left out, with the reason.
    """

    name: str
    photos: tuple[PhotoInfo, ...]
    scene: Scene
    skipped: tuple[SkippedPhoto, ...] = ()


def read_scene(
    folder: str | Path, cameras: str | Path | None = None, masks: str | Path | None = None
) -> MultiViewScene:
    """Read a scene from a folder of photos, or from a folder that has them in its subfolder `images`.

    Args:
        folder: the photos, or their parent.
        cameras: cameras.json, transforms.json or COLMAP model folder; by default the one found in `folder`.
        masks: folder of masks; by default the subfolder `masks` of `folder` if there is one.

    Raises:
        UsageError: no photos, no cameras, or cameras of other photos. Vision3DError: broken files.
    """
    root = Path(folder)
    photo_folder = root / "images" if (root / "images").is_dir() else root
    if masks is None and (root / "masks").is_dir():
        masks = root / "masks"
    photos, skipped = scan_folder(photo_folder, masks)
    source = _find_cameras(root) if cameras is None else Path(cameras)
    model = find_model(source) if source.is_dir() else None
    given = scene_from_known(read_known_cameras(source)) if model is None else read_colmap(model)
    scene = _rename(given, photos, str(source))
    if not scene.images:
        raise UsageError(f"{source} has a camera and a pose for none of the photos in {photo_folder}")
    return MultiViewScene(root.resolve().name, tuple(photos), scene, tuple(skipped))


def scene_from_known(known: Mapping[str, KnownCamera]) -> Scene:
    """A scene without points from the photos that have both camera and pose; equal cameras become one."""
    ids: dict[Camera, int] = {}
    images = {}
    for name, entry in known.items():
        if entry.camera is not None and entry.cam_from_world is not None:
            camera_id = ids.setdefault(entry.camera, len(ids) + 1)
            images[name] = PosedImage(camera_id, entry.cam_from_world)
    none = torch.zeros(0, 3, dtype=torch.float64)
    return Scene(
        {i: camera for camera, i in ids.items()},
        images,
        none,
        torch.zeros(0, 3, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.float64),
        Tracks.empty(),
    )


def _find_cameras(root: Path) -> Path:
    for name in ("cameras.json", "transforms.json"):
        if (root / name).is_file():
            return root / name
    model = find_model(root)
    if model is None:
        raise UsageError(f"{root} has no cameras.json, transforms.json or COLMAP model (sparse/0): name the cameras")
    return model


def _rename(scene: Scene, photos: list[PhotoInfo], source: str) -> Scene:
    """The scene with the photos' own names and sizes; images that are no photo here are dropped with their tracks."""
    theirs = match_names([photo.name for photo in photos], {name: name for name in scene.images})
    ids: dict[tuple[int, Camera], int] = {}
    images: dict[str, PosedImage] = {}
    new_index: dict[str, tuple[int, float, float]] = {}
    for photo in photos:
        if photo.name not in theirs:
            continue
        posed = scene.images[theirs[photo.name]]
        given = scene.cameras[posed.camera_id]
        camera = fit_camera(given, photo, source)
        key = (posed.camera_id, camera)
        if key not in ids:  # a camera shared by photos of two sizes becomes two
            taken = posed.camera_id in ids.values()
            ids[key] = max(*scene.cameras, *ids.values()) + 1 if taken else posed.camera_id
        new_index[theirs[photo.name]] = (len(images), camera.width / given.width, camera.height / given.height)
        images[photo.name] = replace(posed, camera_id=ids[key])
    tracks = scene.tracks
    table = torch.tensor([new_index.get(name, (-1, 1.0, 1.0)) for name in tracks.images], dtype=torch.float64)
    table = table.reshape(-1, 3)[tracks.image]
    keep = table[:, 0] >= 0
    moved = Tracks(tuple(images), tracks.point[keep], table[keep, 0].long(), (tracks.xy * table[:, 1:])[keep])
    return replace(scene, cameras={i: camera for (_, camera), i in ids.items()}, images=images, tracks=moved)
