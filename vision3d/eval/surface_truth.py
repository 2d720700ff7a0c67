"""What of a true surface is known: a surface from true depth maps, and which parts of surfaces cameras see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64

from vision3d.core import Camera, DepthView, Mesh, RigidTransform, UsageError, Vision3DError
from vision3d.data.mesh_raster import first_hits
from vision3d.io.cameras_json import KnownCamera

_STEEPEST = 10.0  # depth step over a pixel's width that still is a surface (84 degrees)


def read_depth_views(folder: Path, cameras: Mapping[str, KnownCamera]) -> list[DepthView]:
    """True depth maps `folder/STEM.npy` (z in the camera, 0 or not finite where unknown), by their photos' cameras.

    Raises:
        UsageError: no map has a camera with a pose. Vision3DError: a broken file, or one of another size.
    """
    views = []
    stems = {str(Path(name).with_suffix("")): name for name in cameras}
    for path in sorted(folder.glob("*.npy")):
        known = cameras.get(stems.get(path.stem, ""))
        if known is None or known.camera is None or known.cam_from_world is None:
            continue
        try:
            depth = torch.from_numpy(np.load(path).astype(np.float32))
        except (OSError, ValueError) as error:
            raise Vision3DError(f"cannot read the depth map {path}: {error}") from None
        camera = known.camera
        if tuple(depth.shape) != (camera.height, camera.width) or any(camera.distortion):
            raise Vision3DError(
                f"{path}: a depth map of {camera.width}x{camera.height} px without distortion is expected, "
                f"got {tuple(depth.shape)}"
            )
        depth = torch.where(torch.isfinite(depth) & (depth > 0), depth, torch.zeros_like(depth))
        grey = torch.full((3, *depth.shape), 0.5)
        views.append(DepthView(path.stem, camera, known.cam_from_world, depth, grey, torch.ones_like(depth)))
    if not views:
        raise UsageError(f"{folder} has no depth map STEM.npy whose photo has a camera and a pose")
    return views


def mesh_of_depths(views: Sequence[DepthView]) -> Mesh:
    """Triangles between neighbouring pixels of each map, but not across depth steps; the maps are not merged.

    Raises:
        Vision3DError: no two neighbouring pixels are known.
    """
    vertices: list[torch.Tensor] = []
    faces: list[Int64[np.ndarray, "m 3"]] = []
    count = 0
    for view in views:
        points = _points(view)
        vertices.append(points.reshape(-1, 3))
        faces.append(_grid_faces(view) + count)
        count += points.shape[0] * points.shape[1]
    every = np.concatenate(faces)
    if not len(every):
        raise Vision3DError("the true depth maps show no surface")
    used, numbered = np.unique(every, return_inverse=True)
    return Mesh(torch.cat(vertices)[torch.from_numpy(used)], torch.from_numpy(numbered.reshape(-1, 3)))


def known_to(points: Float64[np.ndarray, "n 3"], views: Sequence[DepthView], behind: float) -> Bool[np.ndarray, " n"]:
    """Which points fall on a pixel with known depth in some view and lie at most `behind` farther away than that (scene
    unit); of the others the truth says nothing."""
    out = np.zeros(len(points), np.bool_)
    for view in views:
        inside, x, y, z = _pixels(points, view.camera, view.cam_from_world)
        depth = view.depth.numpy()[y, x]
        out |= inside & (depth > 0) & (z <= depth + behind)
    return out


def visible_in(
    points: Float64[np.ndarray, "n 3"], mesh: Mesh, cameras: Sequence[tuple[Camera, RigidTransform]]
) -> Bool[np.ndarray, " n"]:
    """Which points of the surface of `mesh` some camera sees: in its picture and not behind the mesh by 3 px or more.

    Cameras larger than 1024 px are taken at that size; distortion is left out.
    """
    out = np.zeros(len(points), np.bool_)
    for given, pose in cameras:
        factor = min(1.0, 1024 / max(given.width, given.height))
        camera = given.resized(max(1, round(given.width * factor)), max(1, round(given.height * factor)))
        corners = pose.apply(mesh.vertices.double()).numpy()[mesh.faces.numpy()]
        _, _, depth = first_hits(corners, (*camera.focal, *camera.center), camera.width, camera.height)
        inside, x, y, z = _pixels(points, camera, pose)
        near = depth[y, x]
        out |= inside & ((near == 0) | (z <= near * (1 + 3 / min(camera.focal))))
    return out


def _pixels(
    points: Float64[np.ndarray, "n 3"], camera: Camera, pose: RigidTransform
) -> tuple[Bool[np.ndarray, " n"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Whether points are in the picture, their column and row (0 if not), and z."""
    p = pose.apply(torch.from_numpy(points)).numpy()
    z = np.where(p[:, 2] > 0, p[:, 2], 1)
    u, v = (p[:, k] / z * camera.focal[k] + camera.center[k] for k in range(2))
    inside = (p[:, 2] > 0) & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    return inside, np.where(inside, u, 0).astype(np.int64), np.where(inside, v, 0).astype(np.int64), p[:, 2]


def _points(view: DepthView) -> Float[torch.Tensor, "h w 3"]:
    camera = view.camera
    y, x = torch.meshgrid(
        torch.arange(camera.height, dtype=torch.float64) + 0.5,
        torch.arange(camera.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    rays = torch.cat([camera.unproject(torch.stack([x, y], dim=-1)), torch.ones_like(x)[..., None]], dim=-1)
    points = (rays * view.depth.double()[..., None]).reshape(-1, 3)
    return view.cam_from_world.inverse().apply(points).reshape(camera.height, camera.width, 3)


def _grid_faces(view: DepthView) -> Int64[np.ndarray, "m 3"]:
    """Two triangles per square of four known pixels without a step, counter-clockwise for the camera."""
    z = view.depth.double().numpy()
    h, w = z.shape
    number = np.arange(h * w).reshape(h, w)
    corners = [z[:-1, :-1], z[:-1, 1:], z[1:, :-1], z[1:, 1:]]
    near, far = np.minimum.reduce(corners), np.maximum.reduce(corners)
    keep = (near > 0) & (far - near <= _STEEPEST * near / min(view.camera.focal))
    a, b, c, d = number[:-1, :-1][keep], number[:-1, 1:][keep], number[1:, :-1][keep], number[1:, 1:][keep]
    return np.concatenate([np.stack([a, c, b], axis=1), np.stack([b, c, d], axis=1)])
