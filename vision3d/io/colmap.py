"""COLMAP models (text and binary, with or without rigs and frames) to and from Scene, through pycolmap.

COLMAP's conventions are vision3d's own: pixel (0.5, 0.5), axes x right, y down, z forward, cam_from_world.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import torch

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks, UsageError, Vision3DError
from vision3d.core.camera import CAMERA_MODELS
from vision3d.io.atomic import atomic_directory
from vision3d.io.colmap_check import check_binary_model

_MODEL_FILES = {
    f"{part}.{end}" for part in ("cameras", "images", "points3D", "rigs", "frames") for end in ("bin", "txt")
}


def find_model(folder: str | Path) -> Path | None:
    """The folder of the COLMAP model at or below `folder` (itself, sparse/, sparse/0/, 0/, colmap/sparse/0/), or None.

    Raises:
        UsageError: there are several numbered models; name one of them.
    """
    folder = Path(folder)
    for base in (folder, folder / "sparse", folder / "colmap" / "sparse"):
        if _is_model(base):
            return base
        numbered = sorted(p for p in base.iterdir() if p.name.isdecimal() and _is_model(p)) if base.is_dir() else []
        if len(numbered) > 1:
            raise UsageError(f"{base} holds several models ({', '.join(p.name for p in numbered)}): name one of them")
        if numbered:
            return numbered[0]
    return None


def read_colmap(folder: str | Path) -> Scene:
    """Read a model; binary if both forms are there. See `scene_from_reconstruction` for what is kept.

    Raises:
        UsageError: no model there. Vision3DError: broken files, or a camera model that is not supported.
    """
    folder = Path(folder)
    if not _is_model(folder):
        raise UsageError(f"{folder} holds no COLMAP model (cameras, images and points3D as .bin or .txt)")
    reconstruction = pycolmap.Reconstruction()
    try:
        if (folder / "images.bin").is_file():
            check_binary_model(folder)
        reconstruction.read(folder)
        if not (folder / "images.bin").is_file():
            _restore_names(reconstruction, folder / "images.txt")
        return scene_from_reconstruction(reconstruction)
    except Vision3DError as error:
        message = str(error)
        raise Vision3DError(message if str(folder) in message else f"{folder}: {message}") from None
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError, MemoryError, OSError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise Vision3DError(f"cannot read the COLMAP model {folder}: it is damaged or cut off ({reason})") from None


def write_colmap(folder: str | Path, scene: Scene, text: bool = False) -> None:
    """Write a scene as COLMAP model files (.bin or .txt), replacing a model that is there as a whole.

    COLMAP itself cuts photo names at the first space when it reads the text form; `read_colmap` does not.

    Raises:
        UsageError: the folder holds other files than a model's. Vision3DError: it cannot be written.
    """
    folder = Path(folder)
    others = sorted(p.name for p in folder.iterdir() if p.name not in _MODEL_FILES) if folder.is_dir() else []
    if others:
        raise UsageError(f"{folder} holds other files than a COLMAP model ({others[0]}): choose another folder")
    reconstruction = reconstruction_from_scene(scene)
    with atomic_directory(folder) as temporary:
        try:
            reconstruction.write_text(temporary) if text else reconstruction.write_binary(temporary)
        except (RuntimeError, ValueError) as error:
            raise Vision3DError(f"cannot write the COLMAP model {folder}: {error}") from None
        if not _is_whole(temporary, reconstruction, text):  # pycolmap says nothing when the disk is full
            raise Vision3DError(f"cannot write the COLMAP model {folder}: it came out cut off, is the disk full?")


def scene_from_reconstruction(reconstruction: pycolmap.Reconstruction) -> Scene:
    """The registered photos, all points and their observations, in the order of COLMAP's ids.

    Poses of photos in rigs are composed to cam_from_world. Left out: photos without a pose, keypoints that observe no
    point, rigs and ids of photos and points.

    Raises:
        Vision3DError: a camera model that is not supported.
    """
    cameras = {int(i): camera_from_colmap(c) for i, c in sorted(reconstruction.cameras.items())}
    registered = [image for _, image in sorted(reconstruction.images.items()) if image.has_pose]
    images = {
        image.name: PosedImage(int(image.camera_id), rigid_from_colmap(image.cam_from_world())) for image in registered
    }
    ids = sorted(reconstruction.points3D)
    points3d = [reconstruction.points3D[i] for i in ids]
    row = {point_id: k for k, point_id in enumerate(ids)}
    point: list[int] = []
    index: list[int] = []
    xy: list[np.ndarray] = []
    for k, image in enumerate(registered):
        for observed in image.get_observation_points2D():
            if observed.point3D_id in row:
                point.append(row[observed.point3D_id])
                index.append(k)
                xy.append(observed.xy)
    tracks = Tracks(
        tuple(image.name for image in registered),
        torch.tensor(point, dtype=torch.int64),
        torch.tensor(index, dtype=torch.int64),
        torch.from_numpy(np.array(xy, dtype=np.float64).reshape(-1, 2)),
    )
    return Scene(
        cameras,
        images,
        torch.from_numpy(np.array([p.xyz for p in points3d], dtype=np.float64).reshape(-1, 3)),
        torch.from_numpy(np.array([p.color for p in points3d], dtype=np.uint8).reshape(-1, 3)),
        torch.tensor([p.error for p in points3d], dtype=torch.float64),
        tracks,
    )


def reconstruction_from_scene(scene: Scene) -> pycolmap.Reconstruction:
    """The scene as pycolmap's Reconstruction: photos numbered from 1 in the scene's order, points from 1 in theirs.

    Each camera is a rig of its own. Cameras keep their ids. A photo's keypoints are its observations.

    Raises:
        ValueError: an observation of a photo that the scene does not have.
    """
    reconstruction = pycolmap.Reconstruction()
    for camera_id, camera in scene.cameras.items():
        reconstruction.add_camera_with_trivial_rig(camera_to_colmap(camera, camera_id))
    image_id = {name: k for k, name in enumerate(scene.images, start=1)}
    unknown = sorted({scene.tracks.images[k] for k in set(scene.tracks.image.tolist())} - image_id.keys())
    if unknown:
        raise ValueError(f"the tracks observe {unknown[0]}, which is not among the scene's images")
    xy = scene.tracks.xy.double().numpy()
    points = scene.tracks.point.tolist()
    rows: dict[int, list[int]] = {k: [] for k in image_id.values()}
    tracks: list[list[tuple[int, int]]] = [[] for _ in range(scene.points.shape[0])]
    for row, (point, image) in enumerate(zip(points, scene.tracks.image.tolist(), strict=True)):
        owner = image_id[scene.tracks.images[image]]
        tracks[point].append((owner, len(rows[owner])))
        rows[owner].append(row)
    for name, posed in scene.images.items():
        keypoints = xy[rows[image_id[name]]].reshape(-1, 2)
        image = pycolmap.Image(name=name, keypoints=keypoints, camera_id=posed.camera_id, image_id=image_id[name])
        reconstruction.add_image_with_trivial_frame(image, rigid_to_colmap(posed.cam_from_world))
    xyz, color, errors = scene.points.double().numpy(), scene.colors.numpy(), scene.errors.tolist()
    for k, observations in enumerate(tracks):
        track = pycolmap.Track()
        for image, keypoint in observations:
            track.add_element(image, keypoint)
        reconstruction.add_point3D_with_id(
            k + 1, pycolmap.Point3D(xyz=xyz[k], color=color[k], error=errors[k], track=track)
        )
        for image, keypoint in observations:
            reconstruction.images[image].set_point3D_for_point2D(keypoint, k + 1)
    return reconstruction


def camera_from_colmap(camera: pycolmap.Camera) -> Camera:
    """pycolmap's camera as ours. Vision3DError for camera models that are not supported (fisheye, ...)."""
    model = str(camera.model.name)
    if model not in CAMERA_MODELS:
        raise Vision3DError(
            f"camera model {model} is not supported ({', '.join(CAMERA_MODELS)}): undistort the photos first"
        )
    return Camera.from_colmap(model, int(camera.width), int(camera.height), tuple(float(p) for p in camera.params))


def camera_to_colmap(camera: Camera, camera_id: int) -> pycolmap.Camera:
    """Our camera as pycolmap's."""
    return pycolmap.Camera(
        model=camera.model,
        width=camera.width,
        height=camera.height,
        params=list(camera.colmap_params()),
        camera_id=camera_id,
    )


def rigid_from_colmap(rigid: pycolmap.Rigid3d) -> RigidTransform:
    """pycolmap's Rigid3d as a RigidTransform in float64."""
    matrix = torch.from_numpy(np.array(rigid.matrix(), dtype=np.float64))
    return RigidTransform(matrix[:, :3].contiguous(), matrix[:, 3].contiguous())


def rigid_to_colmap(transform: RigidTransform) -> pycolmap.Rigid3d:
    """A single RigidTransform as pycolmap's Rigid3d."""
    rotation = pycolmap.Rotation3d(transform.rotation.double().numpy())
    return pycolmap.Rigid3d(rotation, transform.translation.double().numpy())


def _is_whole(folder: Path, reconstruction: pycolmap.Reconstruction, text: bool) -> bool:
    if not text:
        try:
            check_binary_model(folder)
        except Vision3DError:
            return False
        return True
    # Comments, one line per camera and point, two per image; the last line of each file is ended.
    counts = {"cameras": reconstruction.num_cameras(), "images": 2 * reconstruction.num_images()}
    counts["points3D"] = reconstruction.num_points3D()
    for name, count in counts.items():
        lines = (folder / f"{name}.txt").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        if lines[-1] or sum(not line.startswith("#") for line in lines[:-1]) != count:
            return False
    return True


def _restore_names(reconstruction: pycolmap.Reconstruction, images_txt: Path) -> None:
    """COLMAP's reader of the text form cuts names at the first space: give them back."""
    lines = iter(images_txt.read_text(encoding="utf-8", errors="surrogateescape").splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        image_id, *_, name = line.strip().split(" ", maxsplit=9)
        reconstruction.images[int(image_id)].name = name
        next(lines, None)  # the keypoints, possibly an empty line


def _is_model(folder: Path) -> bool:
    return any(all((folder / f"{p}.{e}").is_file() for p in ("cameras", "images", "points3D")) for e in ("bin", "txt"))
