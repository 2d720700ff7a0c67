"""nerfstudio's transforms.json: poses with OpenGL camera axes (x right, y up, z back), to and from our conventions.

Pixels need no conversion: nerfstudio's rays go through pixel + 0.5, as ours. The world frame is the file's own; an
"applied_transform" (how ns-process-data turned COLMAP's world) is not undone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from vision3d.core import Camera, RigidTransform, Scene, Vision3DError
from vision3d.core.camera import CAMERA_MODELS
from vision3d.io.atomic import atomic_write_json
from vision3d.io.cameras_json import KnownCamera, read_json, read_pose

_OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
_DISTORTION = ("k1", "k2", "p1", "p2")


def read_transforms(path: str | Path) -> dict[str, KnownCamera]:
    """Read a transforms.json: file_path of each frame (without a leading ./) -> camera and cam_from_world.

    Intrinsics are taken from the frame, else from the top of the file; a frame without any has camera None.

    Raises:
        Vision3DError: missing or malformed file, wrong shapes, not a rotation, a camera model that is not supported.
    """
    path = Path(path)
    return parse_transforms(path, read_json(path))


def parse_transforms(path: Path, content: dict[str, Any]) -> dict[str, KnownCamera]:
    """`read_transforms` for a file that was parsed already; path is for messages."""
    frames = content.get("frames")
    if not isinstance(frames, list):
        raise Vision3DError(f'{path}: "frames" must be a list')
    result: dict[str, KnownCamera] = {}
    for k, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise Vision3DError(f'{path}: frame {k} must be an object with a "file_path"')
        name = str(PurePosixPath(frame["file_path"].replace("\\", "/")))
        where = f"{path}, {name}"
        pose = None
        if "transform_matrix" in frame:
            world_from_gl = read_pose(f"{where}, transform_matrix", frame["transform_matrix"])
            world_from_cam = replace(world_from_gl, rotation=world_from_gl.rotation @ _OPENCV_FROM_OPENGL)
            pose = world_from_cam.inverse()
        if name in result:
            raise Vision3DError(f"{path}: two frames have the file_path {name}")
        result[name] = KnownCamera(_read_camera(where, {**content, **frame}), pose)
    return result


def write_transforms(path: str | Path, scene: Scene, image_folder: str = "images", ply_path: str | None = None) -> None:
    """Write the registered photos of a scene for nerfstudio, with intrinsics per frame.

    Args:
        path: the transforms.json.
        scene: its world frame is kept as it is.
        image_folder: what stands before each photo's name in file_path; relative to the folder of `path`, or absolute.
        ply_path: points to start splats from, relative to the folder of `path` ("ply_file_path").
    """
    frames = []
    for name, posed in scene.images.items():
        world_from_cam = posed.cam_from_world.inverse()
        world_from_gl = RigidTransform(world_from_cam.rotation @ _OPENCV_FROM_OPENGL, world_from_cam.translation)
        file_path = str(PurePosixPath(image_folder) / name)
        frames.append(
            {
                "file_path": file_path,
                **_camera_fields(scene.camera_of(name)),
                "transform_matrix": world_from_gl.matrix().tolist(),
            }
        )
    points = {} if ply_path is None else {"ply_file_path": ply_path}
    atomic_write_json(path, {"camera_model": "OPENCV", **points, "frames": frames})


def _camera_fields(camera: Camera) -> dict[str, int | float]:
    k = dict.fromkeys(_DISTORTION, 0.0) | dict(zip(_DISTORTION, camera.distortion, strict=False))
    (fx, fy), (cx, cy) = camera.focal, camera.center
    return {"w": camera.width, "h": camera.height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, **k}


def _read_camera(where: str, fields: Mapping[str, Any]) -> Camera | None:
    if "fl_x" not in fields and "camera_angle_x" not in fields:
        return None
    model = fields.get("camera_model", "OPENCV")
    if model not in CAMERA_MODELS:
        raise Vision3DError(f"{where}: camera_model {model!r} is not supported, use one of {', '.join(CAMERA_MODELS)}")
    if "w" not in fields or "h" not in fields:
        raise Vision3DError(f'{where}: intrinsics need the size of the photo, "w" and "h" in px')
    width, height = round(_number(where, fields, "w")), round(_number(where, fields, "h"))
    if "fl_x" in fields:
        fx = _number(where, fields, "fl_x")
    else:
        fx = width / 2 / math.tan(_number(where, fields, "camera_angle_x") / 2)
    fy = _number(where, fields, "fl_y", fx)
    center = (_number(where, fields, "cx", width / 2), _number(where, fields, "cy", height / 2))
    distortion = tuple(_number(where, fields, key, 0.0) for key in _DISTORTION)
    if any(_number(where, fields, key, 0.0) for key in ("k3", "k4")):
        raise Vision3DError(f"{where}: distortion by k3 and k4 is not supported: undistort the photos first")
    try:
        if any(distortion):
            return Camera(width, height, (fx, fy), center, "OPENCV", distortion)
        return Camera(width, height, (fx, fy), center)
    except ValueError as error:
        raise Vision3DError(f"{where}: {error}") from None


def _number(where: str, fields: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = fields.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Vision3DError(f"{where}: {key} must be a number, got {value!r}")
    return float(value)
