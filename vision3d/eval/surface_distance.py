"""Points spread over a surface by area, and the distance of points from a surface.

The closest point of a triangle follows C. Ericson, "Real-Time Collision Detection", 2005, section 5.1.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.spatial import cKDTree

from vision3d.core import Mesh

_NEAREST = 8  # samples and centroids whose triangles are looked at for the closest point


@dataclass(frozen=True, slots=True)
class Samples:
    """Points of a surface with unit normals, and the triangle each lies on."""

    points: Float64[np.ndarray, "n 3"]
    normals: Float64[np.ndarray, "n 3"]
    faces: Int64[np.ndarray, " n"]

    def select(self, keep: np.ndarray) -> Samples:
        """Those at a mask or at indices."""
        return Samples(self.points[keep], self.normals[keep], self.faces[keep])


@dataclass(frozen=True, slots=True)
class Closest:
    """For each point: how far the surface is, where, and on which triangle."""

    distance: Float64[np.ndarray, " n"]
    points: Float64[np.ndarray, "n 3"]
    faces: Int64[np.ndarray, " n"]


class Surface:
    """A mesh prepared for sampling and distances. ValueError if all of its triangles have no area."""

    def __init__(self, mesh: Mesh, samples: int, seed: int) -> None:
        triangles = mesh.vertices.double().numpy()[mesh.faces.numpy()]
        cross = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        area = np.linalg.norm(cross, axis=1)
        if not len(area) or not area.sum() > 0:
            raise ValueError("a surface needs triangles with an area")
        self.triangles = np.ascontiguousarray(triangles)
        self.normals = cross / np.where(area > 0, area, 1)[:, None]
        self.area = float(area.sum() / 2)
        self.samples = self._sample(area, samples, seed)
        # Samples stand for large triangles, centroids for those too small to have one.
        self._tree = cKDTree(np.concatenate([self.samples.points, triangles.mean(1)]))
        self._tree_faces = np.concatenate([self.samples.faces, np.arange(len(triangles))])

    def diagonal(self) -> float:
        """Of the box around the surface."""
        corners = self.triangles.reshape(-1, 3)
        return float(np.linalg.norm(corners.max(0) - corners.min(0)))

    def closest(self, points: Float64[np.ndarray, "n 3"]) -> Closest:
        """The nearest points of the surface.

        Exact but for the choice of triangles: those of the 8 nearest samples and centroids are measured. Where that
        misses the closest one, the distance is too large by less than the spacing of the samples.
        """
        count = min(_NEAREST, len(self._tree_faces))
        _, index = self._tree.query(points, k=count, workers=max(1, torch.get_num_threads()))
        candidates = self._tree_faces[np.asarray(index).reshape(len(points), count)]
        distance, nearest = np.empty(len(points)), np.empty((len(points), 3))
        faces = np.empty(len(points), np.int64)
        numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
        _closest(np.ascontiguousarray(points), candidates, self.triangles, distance, nearest, faces)
        return Closest(distance, nearest, faces)

    def _sample(self, area: Float64[np.ndarray, " m"], count: int, seed: int) -> Samples:
        generator = np.random.default_rng(seed)
        # One in each of `count` equal shares of the area: evener than independent draws.
        at = (np.arange(count) + generator.random(count)) / count * area.sum()
        faces = np.minimum(np.searchsorted(np.cumsum(area), at, side="right"), len(area) - 1)
        root, second = np.sqrt(generator.random(count))[:, None], generator.random(count)[:, None]
        a, b, c = self.triangles[faces].transpose(1, 0, 2)
        points = a * (1 - root) + b * (root * (1 - second)) + c * (root * second)
        return Samples(points, self.normals[faces], faces)


@numba.njit(cache=True, parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the tests' shape checks have wrapped
def _closest(points, candidates, triangles, distance, nearest, faces):  # pragma: no cover (compiled)
    for i in numba.prange(points.shape[0]):
        best = np.inf
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for n in range(candidates.shape[1]):
            face = candidates[i, n]
            repeated = False
            for earlier in range(n):
                repeated = repeated or candidates[i, earlier] == face
            if repeated:
                continue
            s, t = _parameters(x, y, z, triangles[face])
            a, b, c = triangles[face, 0], triangles[face, 1], triangles[face, 2]
            px = a[0] + s * (b[0] - a[0]) + t * (c[0] - a[0])
            py = a[1] + s * (b[1] - a[1]) + t * (c[1] - a[1])
            pz = a[2] + s * (b[2] - a[2]) + t * (c[2] - a[2])
            square = (px - x) ** 2 + (py - y) ** 2 + (pz - z) ** 2
            if square < best:
                best = square
                nearest[i, 0], nearest[i, 1], nearest[i, 2] = px, py, pz
                faces[i] = face
        distance[i] = np.sqrt(best)


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _parameters(x, y, z, triangle):  # pragma: no cover (compiled)
    """(s, t) of the closest point a + s (b - a) + t (c - a)."""
    a, b, c = triangle[0], triangle[1], triangle[2]
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    wx, wy, wz = x - a[0], y - a[1], z - a[2]
    uu, uv, vv = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
    wu, wv = wx * ux + wy * uy + wz * uz, wx * vx + wy * vy + wz * vz
    determinant = uu * vv - uv * uv
    if determinant > 0:
        s, t = (vv * wu - uv * wv) / determinant, (uu * wv - uv * wu) / determinant
        if s >= 0 and t >= 0 and s + t <= 1:
            return s, t
    # Outside, or without area: the best of the three edges.
    s0 = min(max(wu / uu, 0.0), 1.0) if uu > 0 else 0.0
    t1 = min(max(wv / vv, 0.0), 1.0) if vv > 0 else 0.0
    ee = uu - 2 * uv + vv
    r = min(max((wv - wu + uu - uv) / ee, 0.0), 1.0) if ee > 0 else 0.0
    # Squared distances but for |w|^2.
    d0 = s0 * s0 * uu - 2 * s0 * wu
    d1 = t1 * t1 * vv - 2 * t1 * wv
    d2 = (1 - r) ** 2 * uu + 2 * r * (1 - r) * uv + r * r * vv - 2 * (1 - r) * wu - 2 * r * wv
    if d0 <= d1 and d0 <= d2:
        return s0, 0.0
    if d1 <= d2:
        return 0.0, t1
    return 1 - r, r
