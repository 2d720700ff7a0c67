"""What is known of each photo's camera before reconstruction (given, EXIF or a guess), and which photos share one."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from vision3d.core import Camera, CameraPrior, RigidTransform, UsageError, Vision3DError
from vision3d.data.photo_folder import PhotoInfo
from vision3d.io.known_cameras import read_known_cameras

Share = Literal["auto", "all", "none"]
GUESSED_FOCAL = 1.2  # times the longer side: COLMAP's default, about a 43 mm lens on 35 mm film

T = TypeVar("T")


def camera_priors(
    infos: Sequence[PhotoInfo], intrinsics: str | Path | None = None, share: Share = "auto"
) -> dict[str, CameraPrior]:
    """Camera of each photo by name, and its group: photos of one group share one camera.

    intrinsics: a cameras.json, a COLMAP model folder or a transforms.json. It must hold every photo (see
    `match_names`); a camera for another size of the same aspect is scaled. Without it, the focal length comes from
    EXIF where it is there, else it is guessed as 1.2 times the longer side; the principal point is the centre and the
    model SIMPLE_RADIAL with no distortion yet.

    share: "auto": same size, make, model and EXIF focal length (and, given intrinsics, the same values); "all": every
    photo of the same size; "none": each photo has its own.

    Raises:
        UsageError: the file lacks some photos (they are listed) or says nothing of intrinsics.
        Vision3DError: the file is broken, or a camera's aspect differs from its photo's.
    """
    if intrinsics is not None:
        return _given(infos, Path(intrinsics), share)
    groups: dict[object, int] = {}
    priors = {}
    for info in infos:
        width, height = info.size
        known = info.focal_px if info.focal_px is not None else GUESSED_FOCAL * max(info.size)
        key: object = info.name
        if share == "all":
            key = info.size
            known = (
                next(i.focal_px for i in infos if i.size == info.size and i.focal_px) if _any(infos, info) else known
            )
        elif share == "auto":
            key = (info.size, info.make, info.model, info.focal_px)
        camera = Camera(width, height, (known, known), (width / 2, height / 2), "SIMPLE_RADIAL", (0.0,))
        exif = info.focal_px is not None or (share == "all" and _any(infos, info))
        priors[info.name] = CameraPrior(camera, "exif" if exif else "guess", groups.setdefault(key, len(groups)))
    return priors


def known_poses(infos: Sequence[PhotoInfo], path: str | Path) -> dict[str, RigidTransform]:
    """cam_from_world of the photos that a cameras.json, COLMAP model or transforms.json has a pose for, by photo name.

    Raises:
        UsageError: it has no pose for any of the photos.
    """
    poses = {n: k.cam_from_world for n, k in read_known_cameras(Path(path)).items() if k.cam_from_world is not None}
    matched = match_names([info.name for info in infos], poses)
    if not matched:
        raise UsageError(f"{path} has no pose for any of the photos: {_listed([info.name for info in infos])}")
    return matched


def match_names(names: Sequence[str], known: Mapping[str, T]) -> dict[str, T]:
    """known's values by photo name: by the whole relative path, else by file name, else by file name without ending.

    The latter two only where they are unique on both sides. Unmatched photos are absent.
    """
    result: dict[str, T] = {}
    left = list(names)
    for key in (_whole, _file, _stem):
        ours = _unique({n: key(n) for n in left})
        theirs = _unique({n: key(n) for n in known})
        result |= {ours[k]: known[theirs[k]] for k in ours.keys() & theirs.keys()}
        left = [n for n in left if n not in result]
    return {n: result[n] for n in names if n in result}


def fit_camera(camera: Camera, info: PhotoInfo, source: str) -> Camera:
    """The given camera at the photo's upright size. Vision3DError if the aspects differ by more than rounding."""
    (width, height), given = info.size, (camera.width, camera.height)
    if given == (width, height):
        return camera
    # Sizes are whole px: each side of the smaller one is off by up to one.
    if abs(camera.width * height - camera.height * width) > max(width, height, *given):
        hint = ""
        if given == (height, width):
            hint = f" (the photo is turned by its EXIF orientation {info.orientation}; give K for the upright photo)"
        raise Vision3DError(
            f"{source}: the camera of {info.name} is for {given[0]}x{given[1]} px, the photo has {width}x{height} px"
            f" upright: only the same aspect can be scaled{hint}"
        )
    return camera.resized(width, height)


def _given(infos: Sequence[PhotoInfo], path: Path, share: Share) -> dict[str, CameraPrior]:
    cameras = {n: k.camera for n, k in read_known_cameras(path).items() if k.camera is not None}
    if not cameras:
        raise UsageError(f"{path} has no intrinsics (K, width and height) for any photo")
    matched = match_names([info.name for info in infos], cameras)
    missing = [info.name for info in infos if info.name not in matched]
    if missing:
        raise UsageError(f"{path} has no intrinsics for {_listed(missing)}; it has {_listed(sorted(cameras))}")
    groups: dict[object, int] = {}
    priors = {}
    for info in infos:
        camera = fit_camera(matched[info.name], info, str(path))
        key = info.name if share == "none" else camera
        priors[info.name] = CameraPrior(camera, "given", groups.setdefault(key, len(groups)))
    return priors


def _any(infos: Sequence[PhotoInfo], info: PhotoInfo) -> bool:
    return any(i.size == info.size and i.focal_px is not None for i in infos)


def _whole(name: str) -> str:
    return unicodedata.normalize("NFC", str(PurePosixPath(name.replace("\\", "/"))))


def _file(name: str) -> str:
    return PurePosixPath(_whole(name)).name


def _stem(name: str) -> str:
    return PurePosixPath(_whole(name)).stem


def _unique(keys: Mapping[str, str]) -> dict[str, str]:
    """key -> name, for keys that only one name has."""
    names: dict[str, list[str]] = {}
    for name, key in keys.items():
        names.setdefault(key, []).append(name)
    return {key: owners[0] for key, owners in names.items() if len(owners) == 1}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
