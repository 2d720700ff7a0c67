"""A thinned cloud as a surface: nearest points with normals, and point-to-plane alignment to it, in Numba.

Y. Chen and G. Medioni, "Object modelling by registration of multiple range images", Image and Vision Computing 1992:
distances along the normal. S. Rusinkiewicz and M. Levoy, "Efficient variants of the ICP algorithm", 3DIM 2001.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from vision3d.matching.hough.consensus import Pose
from vision3d.matching.hough.grid import PointGrid, cell_key, find_cell, point_grid
from vision3d.matching.hough.point_to_plane import NormalEquations, normal_equations
from vision3d.sparse.threads import use_torch_threads


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Points and unit normals, sorted into cells of twice the largest distance `reach` at which nearest are sought."""

    grid: PointGrid
    normals: Float[np.ndarray, "n 3"]
    reach: float


def surface(points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], reach: float) -> Surface:
    """Sorts points and normals for `nearest` and `align`."""
    grid = point_grid(points, 2 * reach)
    return Surface(grid, np.ascontiguousarray(normals[grid.rows]), reach)


def nearest(
    points: Float[np.ndarray, "n 3"], pose: Pose, target: Surface
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Of the moved points, the nearest point of the surface (its place in the grid) within reach and its distance.

    -1 and infinity where none is within reach.
    """
    index, distance = np.empty(len(points), np.int32), np.empty(len(points))
    use_torch_threads()
    g = target.grid
    _nearest(
        points, *pose, g.points, g.starts, g.origin, 1 / g.cell, g.slot_keys, g.slot_rows, g.shift, target.reach, index,
        distance,
    )  # fmt: skip
    return index, distance


def align(
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    target: Surface,
    pose: Pose,
    thresholds: tuple[float, ...],
    rounds: int = 20,
) -> Pose:
    """Point-to-plane ICP from `pose`: up to `rounds` for each threshold, all at most the surface's reach.

    A point counts with the square of 1 - (distance / threshold)^2, and not at all where its normal and the surface's
    are more than 45 degrees apart (whatever their signs). Directions that the surface leaves free stay as they are.
    """
    rotation, translation = pose
    for threshold in thresholds:
        for _ in range(rounds):
            system = paired(points, normals, target, (rotation, translation), threshold)
            values, vectors = np.linalg.eigh(system.information)
            if values[-1] <= 0:
                return rotation, translation
            firm = values > 1e-4 * values[-1]
            step = -vectors[:, firm] @ ((vectors[:, firm].T @ system.right) / values[firm])
            turn = rotation_of(step[:3] / system.radius)
            rotation = turn @ rotation
            translation = turn @ (translation - system.center) + system.center + step[3:]
            if max(np.linalg.norm(step[:3]), np.linalg.norm(step[3:])) < 1e-4 * threshold:
                break
        u, _, vt = np.linalg.svd(rotation)
        rotation = u @ vt
    return rotation, translation


def constraint(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], target: Surface, pose: Pose, threshold: float
) -> float:
    """Three times the least eigenvalue of the point-to-plane information: 1 in a box, 0 where a motion is free."""
    system = paired(points, normals, target, pose, threshold)
    return max(0.0, 3 * float(np.linalg.eigvalsh(system.information)[0]))


def paired(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], target: Surface, pose: Pose, threshold: float
) -> NormalEquations:
    """The normal equations of the moved points and the nearest points of the surface, see `normal_equations`."""
    index, distance = nearest(points, pose, target)
    return normal_equations(points, normals, pose, target.grid.points, target.normals, index, distance, threshold)


def rotation_of(rotvec: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """The matrix of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(rotvec))
    x, y, z = rotvec
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.sinc(angle / np.pi)
    b = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    out: np.ndarray = np.eye(3) + a * k + b * (k @ k)
    return out


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _nearest(
    source, rotation, translation, points, starts, origin, per_cell, slot_keys, slot_rows, shift, reach, index, distance
):  # pragma: no cover (compiled)
    """Cells are twice the reach: what is within it lies in the eight cells around the nearest corner."""
    for i in numba.prange(source.shape[0]):
        p = np.empty(3)
        low = np.empty(3, np.int64)
        inside = True
        for d in range(3):
            p[d] = translation[d]
            for e in range(3):
                p[d] += rotation[d, e] * source[i, e]
            at = (p[d] - origin[d]) * per_cell - 0.5
            if not (at > -1.0 and at < 2097150.0):
                inside = False
            low[d] = np.int64(np.floor(at)) if inside else 0
        best, best2 = -1, reach * reach
        if inside:
            for corner in range(8):
                x, y, z = low[0] + (corner >> 2), low[1] + ((corner >> 1) & 1), low[2] + (corner & 1)
                if x < 0 or y < 0 or z < 0:
                    continue
                cell = find_cell(cell_key(x, y, z), slot_keys, slot_rows, shift)
                if cell < 0:
                    continue
                for j in range(starts[cell], starts[cell + 1]):
                    u, v, w = points[j, 0] - p[0], points[j, 1] - p[1], points[j, 2] - p[2]
                    d2 = u * u + v * v + w * w
                    if d2 <= best2 and (d2 < best2 or best < 0):
                        best, best2 = j, d2
        index[i] = best
        distance[i] = np.sqrt(best2) if best >= 0 else np.inf
