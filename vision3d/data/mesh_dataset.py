"""A folder of photos rendered around a mesh, with cameras, masks and exact depth: a reconstruction with its truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Camera, RigidTransform
from vision3d.data.mesh_views import MeshView, TexturedMesh, render_mesh
from vision3d.io.atomic import atomic_directory
from vision3d.io.cameras_json import KnownCamera, write_cameras_json


def look_at(center: Float[Tensor, " 3"], target: Float[Tensor, " 3"], up: Float[Tensor, " 3"]) -> RigidTransform:
    """cam_from_world of a camera at `center` that looks at `target`, `up` pointing upwards in its picture.

    Raises:
        ValueError: it looks along `up`, or stands at the target.
    """
    forward = (target - center).double()
    right = torch.linalg.cross(forward, up.double())
    if not float(right.norm()) > 1e-9 * float(forward.norm() * up.norm()):
        raise ValueError("a camera at its target or looking along `up` has no defined orientation")
    forward, right = forward / forward.norm(), right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    return RigidTransform(rotation, -(rotation @ center.double()))


def orbit(
    vertices: Float[Tensor, "n 3"],
    count: int,
    *,
    size: int = 512,
    field_deg: float = 40.0,
    elevations_deg: Sequence[float] = (-10.0, 20.0, 50.0),
    up: tuple[float, float, float] = (0.0, 1.0, 0.0),
    margin: float = 1.05,
) -> list[tuple[Camera, RigidTransform]]:
    """`count` square cameras around an object, at one distance from the middle of its box, all of it in every picture.

    The azimuths are even; the elevations take turns, so that neighbours differ. field_deg: field of view. margin: how
    much farther away than needed.
    """
    if count < 1 or size < 1 or not 0 < field_deg < 170 or not len(elevations_deg):
        raise ValueError(f"cannot place {count} cameras of {size} px and {field_deg} degrees")
    points = vertices.double()
    low, high = points.min(0).values, points.max(0).values
    middle = (low + high) / 2
    tangent = math.tan(math.radians(field_deg) / 2)
    focal = size / 2 / tangent
    camera = Camera(size, size, (focal, focal), (size / 2, size / 2))
    axis = torch.tensor(up, dtype=torch.float64)
    axis = axis / axis.norm()
    across = torch.linalg.cross(axis, torch.eye(3, dtype=torch.float64)[int(axis.abs().argmin())])
    across = across / across.norm()
    along = torch.linalg.cross(axis, across)
    directions, distance = [], 0.0
    for i in range(count):
        azimuth, elevation = 2 * math.pi * i / count, math.radians(elevations_deg[i % len(elevations_deg)])
        flat = math.cos(azimuth) * across + math.sin(azimuth) * along
        direction = math.cos(elevation) * flat + math.sin(elevation) * axis
        directions.append(direction)
        # At distance d the point (x, y, z) of the object, seen from its middle, has depth d + z.
        x, y, z = ((points - middle) @ look_at(direction, 0 * direction, axis).rotation.T).unbind(1)
        distance = max(distance, margin * float((torch.maximum(x.abs(), y.abs()) / tangent - z).max()))
    return [(camera, look_at(middle + distance * direction, middle, axis)) for direction in directions]


def write_mesh_dataset(
    folder: str | Path,
    mesh: TexturedMesh,
    cameras: Sequence[tuple[Camera, RigidTransform]],
    *,
    supersampling: int = 3,
    background: tuple[float, float, float] = (0.5, 0.5, 0.5),
    light: tuple[float, float, float] | None = None,
    sky: tuple[float, float, float] | None = None,
) -> list[MeshView]:
    """Render and write `images/000.png`..., `masks/000.png` (white: the mesh), `depth/000.npy` (z, float32, scene unit,
    0 where nothing is) and `cameras.json`. Returns the views. Options as in `render_mesh`.

    Raises:
        Vision3DError: it cannot be written; an existing folder is as it was.
    """
    views = []
    with atomic_directory(folder) as target:
        for name in ("images", "masks", "depth"):
            (target / name).mkdir()
        known = {}
        for i, (camera, pose) in enumerate(cameras):
            view = render_mesh(
                mesh, camera, pose, supersampling=supersampling, background=background, light=light, sky=sky
            )
            pixels = (view.rgb * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            PIL.Image.fromarray(pixels).save(target / "images" / f"{i:03d}.png")
            PIL.Image.fromarray(view.mask.numpy().astype(np.uint8) * 255).save(target / "masks" / f"{i:03d}.png")
            np.save(target / "depth" / f"{i:03d}.npy", view.depth.numpy())
            known[f"{i:03d}.png"] = KnownCamera(camera, pose)
            views.append(view)
        write_cameras_json(target / "cameras.json", known, note="rendered from a mesh")
    return views
