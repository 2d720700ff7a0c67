"""cameras.json: intrinsics and poses by photo name, in vision3d's own conventions.

```
{"images": {"a.jpg": {"width": 800, "height": 600, "K": [[f, 0, x], [0, f, y], [0, 0, 1]],
                      "cam_from_world": [[r, r, r, t], [r, r, r, t], [r, r, r, t]]}}}
```
K is in px of the upright photo, the centre of the top-left pixel being (0.5, 0.5); camera axes x right, y down, z
forward; x_cam = R x_world + t. K (with width and height) and cam_from_world may each be absent. "model" and
"distortion" (COLMAP's names and order) are there where the camera has distortion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vision3d.core import Camera, RigidTransform, Scene, Vision3DError
from vision3d.core.camera import CAMERA_MODELS
from vision3d.io.atomic import atomic_write_json

CONVENTION = (
    "K maps camera coordinates (x right, y down, z forward) to pixels, the centre of the top-left pixel being "
    "(0.5, 0.5); cam_from_world is 3x4 [R|t]: x_cam = R x_world + t"
)


@dataclass(frozen=True, slots=True)
class KnownCamera:
    """What a file says of one photo's camera; None where it says nothing."""

    camera: Camera | None
    cam_from_world: RigidTransform | None


def read_cameras_json(path: str | Path) -> dict[str, KnownCamera]:
    """Read a cameras.json: photo name -> camera and pose.

    Rotations may be off by rounding (1e-3) and are made exact (nearest rotation).

    Raises:
        Vision3DError: missing or malformed file, wrong shapes, not a rotation; the message names the entry.
    """
    path = Path(path)
    return parse_cameras_json(path, read_json(path))


def parse_cameras_json(path: Path, content: dict[str, Any]) -> dict[str, KnownCamera]:
    """`read_cameras_json` for a file that was parsed already; path is for messages."""
    images = content.get("images")
    if not isinstance(images, dict):
        raise Vision3DError(f'{path}: "images" must be an object with photo names as keys')
    result = {}
    for name, entry in images.items():
        where = f"{path}, {name}"
        if not isinstance(entry, dict):
            raise Vision3DError(f"{where}: an object with K and/or cam_from_world is expected, got {_short(entry)}")
        camera = _read_camera(where, entry) if "K" in entry else None
        pose = entry.get("cam_from_world")
        result[name] = KnownCamera(camera, None if pose is None else read_pose(f"{where}, cam_from_world", pose))
    return result


def write_cameras_json(path: str | Path, cameras: Mapping[str, KnownCamera], note: str = "") -> None:
    """Write cameras and poses so that `read_cameras_json` gives them back. Vision3DError if it cannot be written."""
    images: dict[str, dict[str, object]] = {}
    for name, known in cameras.items():
        entry: dict[str, object] = {}
        if known.camera is not None:
            camera = known.camera
            entry |= {"width": camera.width, "height": camera.height, "K": camera.matrix().tolist()}
            if camera.model != "PINHOLE":
                entry |= {"model": camera.model, "distortion": list(camera.distortion)}
        if known.cam_from_world is not None:
            entry["cam_from_world"] = known.cam_from_world.matrix()[:3].tolist()
        images[name] = entry
    atomic_write_json(path, {**({"note": note} if note else {}), "convention": CONVENTION, "images": images})


def known_cameras(scene: Scene) -> dict[str, KnownCamera]:
    """Camera and pose of each photo of a scene."""
    return {name: KnownCamera(scene.camera_of(name), posed.cam_from_world) for name, posed in scene.images.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Vision3DError says where it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise Vision3DError(f"{path} is not a JSON file (not UTF-8 text)") from None
    except json.JSONDecodeError as error:
        raise Vision3DError(f"{path} is not valid JSON: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise Vision3DError(f"{path} is not valid JSON: nested too deeply") from None
    if not isinstance(content, dict):
        raise Vision3DError(f"{path}: a JSON object is expected at the top, got {_short(content)}")
    return content


def read_matrix(where: str, value: object, shapes: tuple[tuple[int, int], ...]) -> Float64[Tensor, "r c"]:
    """A matrix of one of the shapes from nested lists of finite numbers. Vision3DError otherwise."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape not in shapes or not np.isfinite(array).all():
        expected = " or ".join(f"{r}x{c}" for r, c in shapes)
        raise Vision3DError(f"{where}: a {expected} matrix of finite numbers is expected, got {_short(value)}")
    return torch.from_numpy(array)


def read_pose(where: str, value: object) -> RigidTransform:
    """A rigid transform from 3x4 or 4x4 nested lists, its rotation made exact. Vision3DError if it has none."""
    matrix = read_matrix(where, value, ((3, 4), (4, 4)))
    try:
        rough = RigidTransform.from_matrix(matrix)
    except ValueError as error:
        raise Vision3DError(f"{where}: {error}") from None
    u, _, vt = torch.linalg.svd(rough.rotation)
    exact = u @ vt
    # A rotation that is exact already stays as written, so that files round-trip bit by bit.
    rotation = rough.rotation if float((exact - rough.rotation).abs().max()) < 1e-12 else exact
    return RigidTransform(rotation, rough.translation)


def _read_camera(where: str, entry: Mapping[str, Any]) -> Camera:
    k = read_matrix(f"{where}, K", entry["K"], ((3, 3),))
    width, height = entry.get("width", 0), entry.get("height", 0)
    if not _is_size(width) or not _is_size(height):
        raise Vision3DError(f'{where}: K needs "width" and "height" in px, got {_short(width)} and {_short(height)}')
    if k[1, 0] != 0 or bool((k[2] != torch.tensor([0, 0, 1], dtype=k.dtype)).any()):
        raise Vision3DError(f"{where}: K must have the form [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    model = entry.get("model", "PINHOLE")
    distortion = entry.get("distortion", [])
    if model not in CAMERA_MODELS:
        raise Vision3DError(f"{where}: camera model {_short(model)} is not supported, use {', '.join(CAMERA_MODELS)}")
    try:
        pinhole = Camera.from_matrix(int(width), int(height), k)
        return Camera(
            pinhole.width, pinhole.height, pinhole.focal, pinhole.center, model, tuple(float(d) for d in distortion)
        )
    except (TypeError, ValueError) as error:
        raise Vision3DError(f"{where}: {error}") from None


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1e9 and value == int(value)


def _short(value: object) -> str:
    shown = json.dumps(value, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "..."
