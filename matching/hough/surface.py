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
from vision3d.sparse.threads import use_torch_threads

CHUNKS = 64  # partial sums of the normal equations, added in order: the same result with any number of threads


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
            moved = points @ rotation.T + translation
            index, distance = nearest(points, (rotation, translation), target)
            system, _, _ = normal_equations(moved, normals @ rotation.T, target, index, distance, threshold)
            values, vectors = np.linalg.eigh(system[:6, :6])
            if values[-1] <= 0:
                return rotation, translation
            firm = values > 1e-4 * values[-1]
            step = -vectors[:, firm] @ ((vectors[:, firm].T @ system[:6, 6]) / values[firm])
            step[:3] *= 1.0 / system[6, 6]  # rotations were scaled by the radius
            center = system[7, :3]
            turn = rotation_of(step[:3])
            rotation = turn @ rotation
            translation = turn @ (translation - center) + center + step[3:6]
            if (
                np.linalg.norm(step[3:6]) < 1e-4 * threshold
                and np.linalg.norm(step[:3]) * system[6, 6] < 1e-4 * threshold
            ):
                break
        u, _, vt = np.linalg.svd(rotation)
        rotation = u @ vt
    return rotation, translation


def constraint(
    points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], target: Surface, pose: Pose, threshold: float
) -> float:
    """Three times the least eigenvalue of the point-to-plane information: 1 in a box, 0 where a motion is free."""
    index, distance = nearest(points, pose, target)
    table, total, _ = normal_equations(
        points @ pose[0].T + pose[1], normals @ pose[0].T, target, index, distance, threshold
    )
    return max(0.0, 3 * float(np.linalg.eigvalsh(table[:6, :6])[0])) if total > 0 else 0.0


def normal_equations(
    moved: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    target: Surface,
    index: Int[np.ndarray, " n"],
    distance: Float[np.ndarray, " n"],
    threshold: float,
) -> tuple[Float[np.ndarray, "8 7"], float, float]:
    """Weighted normal equations of the point-to-plane distances of moved points to their nearest surface points.

    Returns a table, the sum of weights, and the weighted sum of squared distances along the normals. Rows 0-5 of the
    table: [A | b], unknowns rotation (times the points' radius, about their centre) then translation, divided by the
    sum of weights; [6, 6] the radius; row 7 the centre.
    """
    found = (index >= 0) & (distance < threshold)
    at = np.where(found, index, 0)
    agree = np.einsum("ij,ij->i", normals, target.normals[at])
    weights = np.where(found & (np.abs(agree) > 0.7071), np.clip(1 - (distance / threshold) ** 2, 0, None) ** 2, 0.0)
    table = np.zeros((8, 7))
    total = float(weights.sum())
    if total == 0:
        table[6, 6] = 1
        return table, 0.0, 0.0
    n, q = target.normals[at], target.grid.points[at]
    center = weights @ moved / total
    arm = moved - center
    radius = max(float(np.sqrt(weights @ (arm * arm).sum(1) / total)), 1e-12)
    jacobian = np.concatenate([np.cross(arm, n) / radius, n], axis=1)
    off = ((moved - q) * n).sum(1)
    table[:6, :6] = (jacobian * weights[:, None]).T @ jacobian / total
    table[:6, 6] = (jacobian * weights[:, None]).T @ off / total
    table[6, 6] = radius
    table[7, :3] = center
    return table, total, float(weights @ off**2)


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
