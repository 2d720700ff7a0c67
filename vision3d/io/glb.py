"""GLB (binary glTF 2.0) of a scene: coloured points and camera frusta, for viewers and browsers, through trimesh.

glTF is y up and looks along -z; our cameras look along +z with y down, and our world has no set up direction. The
scene is turned so that its cameras are upright (geometry/upright.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from vision3d.core import Scene
from vision3d.geometry.upright import up_direction
from vision3d.io.atomic import atomic_write_bytes

_FRUSTUM_COLOR = (230, 90, 30, 255)


def write_glb(path: str | Path, scene: Scene, frustum_size: float | None = None) -> None:
    """Write the points (those with finite coordinates) and one wire frustum per camera.

    Args:
        frustum_size: depth of the frusta in the scene's unit; by default a tenth of the cameras' spread.

    Raises:
        ValueError: a scene without cameras and points. Vision3DError: it cannot be written.
    """
    if not scene.images and not len(scene.points):
        raise ValueError("the scene has neither cameras nor points to write")
    turn = upright_from_world(scene)
    content = trimesh.Scene()
    finite = torch.isfinite(scene.points).all(1)
    if bool(finite.any()):
        points = scene.points[finite].double() @ turn.mT
        content.add_geometry(_point_cloud(points, scene.colors[finite]), node_name="points", geom_name="points")
    size = _default_size(scene) if frustum_size is None else frustum_size
    for name, posed in scene.images.items():
        camera = scene.camera_of(name)
        (fx, fy), (cx, cy) = camera.focal, camera.center
        corners = torch.tensor(
            [[x, y] for x, y in ((0, 0), (camera.width, 0), (camera.width, camera.height), (0, camera.height))],
            dtype=torch.float64,
        )
        in_cam = torch.cat([(corners - torch.tensor([cx, cy])) / torch.tensor([fx, fy]), torch.ones(4, 1)], dim=1)
        apex = torch.zeros(1, 3, dtype=torch.float64)
        in_world = posed.cam_from_world.inverse().apply(torch.cat([apex, in_cam * size])) @ turn.mT
        content.add_geometry(_frustum(in_world.numpy()), node_name=f"camera {name}", geom_name=f"camera {name}")
    data = content.export(file_type="glb")
    atomic_write_bytes(path, bytes(data))


def upright_from_world(scene: Scene) -> Float[Tensor, "3 3"]:
    """Rotation from the scene's world to glTF's axes (y up), the cameras looking along -z on average."""
    if not scene.images:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    rotations = torch.stack([posed.cam_from_world.rotation.double() for posed in scene.images.values()])
    up = up_direction(rotations)
    ahead = rotations[:, 2].mean(0)
    level = ahead - (ahead @ up) * up
    if float(level.norm()) < 0.1:  # cameras all around
        candidates = torch.cat([rotations[:1, 2], rotations[:1, 0]])
        candidates = candidates - (candidates @ up)[:, None] * up
        level = candidates[int(torch.linalg.vector_norm(candidates, dim=1).argmax())]
    back = -level / level.norm()
    return torch.stack([torch.linalg.cross(up, back), up, back])


def _default_size(scene: Scene) -> float:
    centers = torch.stack([posed.cam_from_world.center() for posed in scene.images.values()] or [torch.zeros(3)])
    spread = float(torch.linalg.vector_norm(centers - centers.mean(0), dim=1).max())
    return spread / 10 if spread > 0 else 0.1


def _point_cloud(points: Float[Tensor, "n 3"], colors: UInt8[Tensor, "n 3"]) -> trimesh.PointCloud:
    alpha = torch.full_like(colors[:, :1], 255)
    return trimesh.PointCloud(points.numpy(), colors=torch.cat([colors, alpha], dim=1).numpy())


def _frustum(vertices: NDArray[np.float64]) -> trimesh.path.Path3D:
    lines = [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [4, 1]]
    path = trimesh.load_path(vertices[np.array(lines)])
    path.colors = np.tile(np.array(_FRUSTUM_COLOR, dtype=np.uint8), (len(path.entities), 1))
    return path
