"""Normal equations of the point-to-plane distances between moved points and the surface points they were paired with.

Y. Chen and G. Medioni, "Object modelling by registration of multiple range images", Image and Vision Computing 1992.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from vision3d.matching.hough.consensus import Pose
from vision3d.sparse.threads import use_torch_threads

CHUNKS = 64  # partial sums, added in order: the same result with any number of threads
LEAST_AGREEMENT = 0.7071  # |cosine| of the angle between two normals
_SUMS = 36  # weight; weight x point (3), x squared length, x squared distance; 21 of the matrix; 6; padding


@dataclass(frozen=True, slots=True, eq=False)
class NormalEquations:
    """information x unknowns = right side; unknowns: rotation about `center` times `radius`, then translation.

    Both sides are divided by `weight`, the sum of weights; `squares` is the weighted sum of squared distances along the
    normals, not divided. Without any pair all is 0 and the radius 1.
    """

    information: Float[np.ndarray, "6 6"]
    right: Float[np.ndarray, " 6"]
    center: Float[np.ndarray, " 3"]
    radius: float
    weight: float
    squares: float


def normal_equations(
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    pose: Pose,
    onto: Float[np.ndarray, "m 3"],
    onto_normals: Float[np.ndarray, "m 3"],
    index: Int[np.ndarray, " n"],
    distance: Float[np.ndarray, " n"],
    threshold: float,
) -> NormalEquations:
    """Of points moved by `pose` and paired with onto[index] (-1: none) at `distance`.

    A pair counts with the square of 1 - (distance / threshold)^2, and not at all from the threshold on or where the
    normals, whatever their signs, are more than 45 degrees apart.
    """
    sums = np.zeros((CHUNKS, _SUMS))
    use_torch_threads()
    _accumulate(points, normals, *pose, onto, onto_normals, index, distance, threshold, sums)
    total = sums.sum(0)
    weight = float(total[0])
    if weight == 0:
        return NormalEquations(np.zeros((6, 6)), np.zeros(6), np.zeros(3), 1.0, 0.0, 0.0)
    center = total[1:4] / weight
    radius = max(float(np.sqrt(max(total[4] / weight - center @ center, 0.0))), 1e-12)
    about_origin = np.zeros((6, 6))
    about_origin[np.triu_indices(6)] = total[6:27]
    about_origin += np.triu(about_origin, 1).T
    x, y, z = center
    move = np.eye(6)  # from rows (p x n, n) to ((p - center) x n / radius, n)
    move[:3, :3] /= radius
    move[:3, 3:] = np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]]) / radius
    information = move @ about_origin @ move.T / weight
    return NormalEquations(information, move @ total[27:33] / weight, center, radius, weight, float(total[5]))


def normal_equations_slow(
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    pose: Pose,
    onto: Float[np.ndarray, "m 3"],
    onto_normals: Float[np.ndarray, "m 3"],
    index: Int[np.ndarray, " n"],
    distance: Float[np.ndarray, " n"],
    threshold: float,
) -> NormalEquations:
    """`normal_equations` in NumPy, about the centre from the start. At least one pair must count."""
    moved, turned = points @ pose[0].T + pose[1], normals @ pose[0].T
    agree = np.abs((turned * onto_normals[index]).sum(1))
    keep = (index >= 0) & (distance < threshold) & (agree > LEAST_AGREEMENT)
    weights = (1 - (distance[keep] / threshold) ** 2) ** 2
    moved, n, q = moved[keep], onto_normals[index[keep]], onto[index[keep]]
    total = weights.sum()
    center = weights @ moved / total
    radius = float(np.sqrt(weights @ ((moved - center) ** 2).sum(1) / total))
    jacobian = np.concatenate([np.cross(moved - center, n) / radius, n], axis=1)
    off = ((moved - q) * n).sum(1)
    weighted = (jacobian * weights[:, None]).T / total
    return NormalEquations(weighted @ jacobian, weighted @ off, center, radius, float(total), float(weights @ off**2))


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _accumulate(
    points, normals, rotation, translation, onto, onto_normals, index, distance, threshold, sums
):  # pragma: no cover (compiled)
    """Sums about the origin; see _SUMS."""
    n = points.shape[0]
    for c in numba.prange(CHUNKS):
        row = np.empty(6)
        for i in range(n * c // CHUNKS, n * (c + 1) // CHUNKS):
            j = index[i]
            if j < 0 or not distance[i] < threshold:
                continue
            px = py = pz = 0.0
            agree = 0.0
            px, py, pz = translation[0], translation[1], translation[2]
            for e in range(3):
                px += rotation[0, e] * points[i, e]
                py += rotation[1, e] * points[i, e]
                pz += rotation[2, e] * points[i, e]
                for d in range(3):
                    agree += rotation[d, e] * normals[i, e] * onto_normals[j, d]
            if not abs(agree) > LEAST_AGREEMENT:
                continue
            ratio = distance[i] / threshold
            weight = (1.0 - ratio * ratio) ** 2
            nx, ny, nz = onto_normals[j, 0], onto_normals[j, 1], onto_normals[j, 2]
            off = (px - onto[j, 0]) * nx + (py - onto[j, 1]) * ny + (pz - onto[j, 2]) * nz
            row[0], row[1], row[2] = py * nz - pz * ny, pz * nx - px * nz, px * ny - py * nx
            row[3], row[4], row[5] = nx, ny, nz
            sums[c, 0] += weight
            sums[c, 1] += weight * px
            sums[c, 2] += weight * py
            sums[c, 3] += weight * pz
            sums[c, 4] += weight * (px * px + py * py + pz * pz)
            sums[c, 5] += weight * off * off
            at = 6
            for d in range(6):
                for e in range(d, 6):
                    sums[c, at] += weight * row[d] * row[e]
                    at += 1
                sums[c, 27 + d] += weight * row[d] * off
