"""Fragments of a room as a depth camera and fusion give them: noisy depth maps of a short way, merged and thinned out.

A. Zeng et al., "3DMatch: Learning Local Geometric Descriptors from RGB-D Reconstructions", CVPR 2017, section 3.1 (50
frames to a fragment); C. V. Nguyen et al., "Modeling Kinect sensor noise for improved 3D reconstruction and tracking",
3DIMPVT 2012, equation 5: the deviation of a depth z is 1.2 mm + 1.9 mm (z - 0.4)^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vision3d.data.mesh_raster import first_hits
from vision3d.data.simulation.solids import Soup

_FRAMES = 50  # that fusion averages over


@dataclass(frozen=True, kw_only=True)
class DepthCameraConfig:
    """The camera and the fusion. Lengths in metres."""

    width: int = 160
    """Width of the depth maps, px."""
    height: int = 120
    """Height of the depth maps, px."""
    focal: float = 146.0
    """Focal length, px: 57 by 45 degrees."""
    nearest: float = 0.5
    """Least depth."""
    farthest: float = 3.6
    """Greatest depth."""
    views: int = 6
    """Depth maps merged to a fragment."""
    drift: float = 0.004
    """Error of the poses that the maps are merged with, along a fragment."""
    bend: float = 0.003
    """Depth's own error that does not average out, in waves over the picture, at 2 m."""
    noise: float = 1.0
    """Times the noise that is left after fusion."""
    voxel: float = 0.02
    """Points are averaged over cubes of this size."""


def look(position: Float64[np.ndarray, " 3"], yaw: float, pitch: float, roll: float) -> Float64[np.ndarray, "3 4"]:
    """world_from_cam: x right, y down, z forward; world z up; yaw about it, pitch up, roll about the view, rad."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    forward = np.array([cy * cp, sy * cp, sp])
    right = np.array([sy, -cy, 0.0])
    down = np.cross(forward, right)
    return np.stack([cr * right + sr * down, cr * down - sr * right, forward, position], axis=1)


def depth_points(
    corners: Soup, world_from_cam: Float64[np.ndarray, "3 4"], config: DepthCameraConfig, shrink: int = 1
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, " n"]]:
    """What the camera sees, points in its own frame, and the cosines of incidence; without noise.

    corners: of the room's triangles, in the world. shrink: of the picture, by a whole number.
    """
    rotation, position = world_from_cam[:, :3], world_from_cam[:, 3]
    in_cam = (corners - position) @ rotation
    width, height, focal = config.width // shrink, config.height // shrink, config.focal / shrink
    face, _, depth = first_hits(in_cam, (focal, focal, width / 2, height / 2), width, height)
    row, column = np.nonzero((depth >= config.nearest) & (depth <= config.farthest))
    z = depth[row, column]
    points = np.stack([(column + 0.5 - width / 2) / focal * z, (row + 0.5 - height / 2) / focal * z, z], axis=1)
    a, b, c = in_cam[face[row, column]].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    size = np.linalg.norm(normal, axis=1) * np.linalg.norm(points, axis=1)
    return points, np.abs((normal * points).sum(1)) / np.maximum(size, 1e-12)


def fragment(
    rng: np.random.Generator, corners: Soup, way: list[Float64[np.ndarray, "3 4"]], config: DepthCameraConfig
) -> Float64[np.ndarray, "n 3"]:
    """The merged cloud of the views along a way of world_from_cam poses, in the frame of the first."""
    first = way[0]
    clouds = []
    for step, pose in enumerate(way):
        points, cosine = depth_points(corners, pose, config)
        if not len(points):
            continue
        z = points[:, 2]
        spread = (0.0012 + 0.0019 * (z - 0.4) ** 2) * (4 / np.sqrt(_FRAMES)) / np.maximum(cosine, 0.25)
        error = spread * np.clip(rng.normal(size=len(z)), -3, 3) * config.noise
        # The same everywhere in a small patch: what calibration and quantisation leave.
        phase = rng.uniform(0, 2 * np.pi, 2)
        u, v = points[:, 0] / z, points[:, 1] / z
        error += config.bend * config.noise * (z / 2) ** 2 * np.sin(7 * u + phase[0]) * np.sin(6 * v + phase[1])
        # Surfaces seen at a flat angle give no depth.
        kept = rng.random(len(z)) < np.clip((cosine - 0.12) / 0.2, 0, 1)
        measured = (points * (1 + error / z)[:, None])[kept]
        world = measured @ pose[:, :3].T + pose[:, 3]
        off = rng.normal(0, config.drift * config.noise * step / max(len(way) - 1, 1), 3)
        clouds.append((world + off - first[:, 3]) @ first[:, :3])
    merged = np.concatenate(clouds) if clouds else np.zeros((0, 3))
    return thinned(merged, config.voxel)


def thinned(points: Float64[np.ndarray, "n 3"], voxel: float) -> Float64[np.ndarray, "m 3"]:
    """The mean of the points of each cube of this size, in the order of the cubes."""
    if not len(points):
        return points
    cell = np.floor(points / voxel).astype(np.int64)
    cell -= cell.min(0)
    extent = cell.max(0) + 1
    key = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    counts = np.diff(starts, append=len(key))
    out: Float64[np.ndarray, "m 3"] = np.add.reduceat(points[order], starts, axis=0) / counts[:, None]
    return out
