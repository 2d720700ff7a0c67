"""Triangulates all tracks at once: linear least squares over all views (Hartley and Zisserman, section 12.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from vision3d.core import Camera
from vision3d.recon.mapping import MappingProblem

Pose = tuple[np.ndarray, np.ndarray]
"""cam_from_world as rotation [3, 3] and translation [3]."""


@dataclass(frozen=True, slots=True)
class Observations:
    """Every observation of every track: track number, photo (index into names), point of that photo, px [m, 2]."""

    names: tuple[str, ...]
    track: np.ndarray
    photo: np.ndarray
    point: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, problem: MappingProblem) -> Observations:
        """Those of a problem, sorted by track."""
        names = problem.names
        columns: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        for number, name in enumerate(names):
            track = problem.graph.track[name].numpy()
            point = np.flatnonzero(track >= 0)
            xy = problem.graph.points[name].double().numpy()[point]
            columns.append((track[point], np.full(len(point), number), point, xy))
        track, photo, point, xy = (np.concatenate(c) for c in zip(*columns, strict=True))
        order = np.lexsort((photo, track))
        return cls(names, track[order], photo[order], point[order], xy[order])

    def of_track(self, track: int) -> list[tuple[str, int]]:
        """(photo, point) of one track."""
        a, b = np.searchsorted(self.track, [track, track + 1])
        return [(self.names[self.photo[k]], int(self.point[k])) for k in range(a, b)]

    def rays(self, name: str, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Tracks seen in a photo, and their rays (x, y, 1) in its camera frame."""
        rows = np.flatnonzero(self.photo == self.names.index(name))
        return self.track[rows], unproject(camera, self.xy[rows])


def unproject(camera: Camera, xy: np.ndarray) -> np.ndarray:
    """px to (x, y, 1) in the camera frame, without distortion."""
    normalised = camera.unproject(torch.from_numpy(np.ascontiguousarray(xy, dtype=np.float64))).numpy()
    normalised = np.where(np.isfinite(normalised) & (abs(normalised) < 1e6), normalised, 1e6)
    return np.concatenate([normalised, np.ones((len(xy), 1))], axis=1)


def triangulate_tracks(
    observations: Observations,
    problem: MappingProblem,
    poses: Mapping[str, Pose],
    cameras: Mapping[int, Camera],
    max_error_px: float,
    min_angle_deg: float,
) -> tuple[np.ndarray, np.ndarray]:
    """World points [tracks, 3] and a mask: seen in two posed photos or more, in front of them, within the error
    in each, and under an angle of at least min_angle_deg between the first ray and another."""
    n = problem.graph.num_tracks
    normal = np.zeros((n, 4, 4))
    count = np.zeros(n, dtype=np.int64)
    rows_of: dict[str, np.ndarray] = {}
    rays_of: dict[str, np.ndarray] = {}
    first = np.full((n, 3), np.nan)
    widest = np.ones(n)
    for number, name in enumerate(observations.names):
        if name not in poses:
            continue
        rotation, translation = poses[name]
        rows = np.flatnonzero(observations.photo == number)
        ray = unproject(cameras[problem.group_of[name]], observations.xy[rows])
        rows_of[name], rays_of[name] = rows, ray
        track = observations.track[rows]
        matrix = np.concatenate([rotation, translation[:, None]], axis=1)
        equations = ray[:, :2, None] * matrix[2] - matrix[None, :2]
        normal[track] += np.einsum("nij,nik->njk", equations, equations)
        count[track] += 1
        world = ray @ rotation
        world /= np.linalg.norm(world, axis=1, keepdims=True)
        new = np.isnan(first[track, 0])
        first[track[new]] = world[new]
        widest[track] = np.minimum(widest[track], (first[track] * world).sum(axis=1))
    points = np.zeros((n, 3))
    valid = (count >= 2) & (widest < np.cos(np.radians(min_angle_deg)))
    if valid.any():
        scale = np.trace(normal[valid], axis1=1, axis2=2)
        valid[valid] = np.isfinite(scale) & (scale > 0)
        _, vectors = np.linalg.eigh(normal[valid] / np.trace(normal[valid], axis1=1, axis2=2)[:, None, None])
        smallest = vectors[:, :, 0]
        w = smallest[:, 3]
        points[valid] = smallest[:, :3] / np.where(np.abs(w) < 1e-12, 1e-12, w)[:, None]
    for name, rows in rows_of.items():
        rotation, translation = poses[name]
        track = observations.track[rows]
        inside = points[track] @ rotation.T + translation
        focal = float(np.mean(cameras[problem.group_of[name]].focal))
        depth = inside[:, 2]
        error = np.abs(inside[:, :2] / np.where(depth > 0, depth, 1.0)[:, None] - rays_of[name][:, :2]).max(axis=1)
        valid[track] &= (depth > 0) & (error * focal < max_error_px)
    return points, valid
