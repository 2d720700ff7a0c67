"""One turn of the simulated LiDAR: the cloud, and how many rays of each object reach it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from vision3d.data.simulation.lidar import LidarConfig, ray_directions, receive
from vision3d.data.simulation.solids import Solid
from vision3d.data.simulation.triangle_tree import build_tree, first_triangles, rays_by_owner


@dataclass(frozen=True, slots=True)
class Scan:
    """points [n 3] in the frame "lidar", m, in the order of the beams; intensity [n]. Per object: visible: rays in the
    field asked about that meet it first, alone: those that would if nothing else were there, returned: its points."""

    points: Float64[np.ndarray, "n 3"]
    intensity: Float64[np.ndarray, " n"]
    visible: Int64[np.ndarray, " k"]
    alone: Int64[np.ndarray, " k"]
    returned: Int64[np.ndarray, " k"]


def scan(
    rng: np.random.Generator,
    config: LidarConfig,
    scenery: Solid,
    objects: list[Solid],
    azimuths: tuple[float, float],
    field: tuple[float, float, float, float],
) -> Scan:
    """Casts the rays with azimuths in [low, high), rad. Everything is in the frame "lidar".

    field: of the camera that labels are for: least and largest y / x and z / x; rays outside do not count for
    `visible` and `alone`.
    """
    solid = Solid.join([scenery, *objects])
    first = len(scenery.corners)
    count = len(objects)
    owners = np.repeat(np.arange(count), [len(o.corners) for o in objects]).astype(np.int32)
    rays = ray_directions(config.columns, *azimuths)
    origins = np.zeros_like(rays)
    reach = config.farthest + 1.0
    distance, triangle = first_triangles(build_tree(solid.corners), origins, rays, reach)
    met = np.flatnonzero(triangle >= 0)
    distance, triangle = distance[met], triangle[met]
    a, b, c = solid.corners[triangle].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    cosine = (normal * rays[met]).sum(1) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
    seen, measured, intensity = receive(
        rng, config, distance, cosine, solid.material[triangle], solid.reflectance[triangle]
    )
    ahead = np.maximum(rays[:, 0], 1e-9)
    y, z = rays[:, 1] / ahead, rays[:, 2] / ahead
    inside = (rays[:, 0] > 0) & (y >= field[0]) & (y <= field[1]) & (z >= field[2]) & (z <= field[3])
    of_object = triangle >= first

    def per_object(which: np.ndarray) -> Int64[np.ndarray, " k"]:
        return np.bincount(owners[triangle[which & of_object] - first], minlength=count).astype(np.int64)

    return Scan(
        rays[met[seen]] * measured[seen, None],
        intensity[seen],
        per_object(inside[met]),
        rays_by_owner(build_tree(solid.corners[first:]), owners, count, origins[inside], rays[inside], reach),
        per_object(seen),
    )
