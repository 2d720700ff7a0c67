"""Refines a motion by surfaces and matches together: point-to-plane distances, and distances of matched points.

Surfaces hold a motion firmly but slide along walls and floors; matches do not slide but are coarse. Either sum of
squares is divided by its own variance at the current motion, so that both speak in the unit of their noise (maximum
likelihood for independent normal errors). Y. Chen and G. Medioni, "Object modelling by registration of multiple range
images", Image and Vision Computing 1992; W. Kabsch, Acta Cryst. 1976.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vision3d.matching.hough.consensus import Pose
from vision3d.matching.hough.surface import Surface, align, paired, rotation_of

ROUNDS = 12
MATCHED = 2.0  # voxels between matched points, from which on they do not count
PLANE = 0.5  # voxels between a point and the surface, from which on it does not count
LOOSE = 0.25  # voxels; directions with a larger standard deviation are left as they are
LEAST_NOISE = 1e-3  # voxels; exact copies have no noise


def refine(
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    target: Surface,
    matched0: Float[np.ndarray, "k 3"],
    matched1: Float[np.ndarray, "k 3"],
    pose: Pose,
    voxel: float,
) -> Pose:
    """`align` from two voxels down to half a voxel, then Gauss-Newton steps on surfaces and matches together.

    points, normals: the source's, thinned to `voxel`. matched0[i] and matched1[i]: matches, wrong ones among them;
    those that the motion leaves further than two voxels apart do not count. Directions that neither fixes stay as they
    are.
    """
    rotation, translation = align(points, normals, target, pose, (2 * voxel, voxel, PLANE * voxel))
    for _ in range(ROUNDS):
        system = paired(points, normals, target, (rotation, translation), PLANE * voxel)
        if system.weight == 0:
            break
        noise = max(system.squares / system.weight, (LEAST_NOISE * voxel) ** 2)
        matrix, right = system.information * system.weight / noise, system.right * system.weight / noise
        moved = matched0 @ rotation.T + translation
        apart = moved - matched1
        squares = (apart**2).sum(1)
        near = squares < (MATCHED * voxel) ** 2
        if near.any():
            weights = (1 - squares[near] / (MATCHED * voxel) ** 2) ** 2
            each = max(float(weights @ squares[near] / weights.sum()) / 3, (LEAST_NOISE * voxel) ** 2)
            jacobian = _jacobian((moved[near] - system.center) / system.radius)
            weighted = (weights[:, None, None] * jacobian).reshape(-1, 6)
            matrix = matrix + weighted.T @ jacobian.reshape(-1, 6) / each
            right = right + weighted.T @ apart[near].reshape(-1) / each
        values, vectors = np.linalg.eigh(matrix)
        firm = values > 1 / (LOOSE * voxel) ** 2
        step = -vectors[:, firm] @ ((vectors[:, firm].T @ right) / values[firm])
        turn = rotation_of(step[:3] / system.radius)
        rotation = turn @ rotation
        translation = turn @ (translation - system.center) + system.center + step[3:]
        if max(np.linalg.norm(step[:3]), np.linalg.norm(step[3:])) < 1e-4 * voxel:
            break
    u, _, vt = np.linalg.svd(rotation)
    return u @ vt, translation


def _jacobian(arms: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k 3 6"]:
    """Of moved points by a rotation vector times the radius (arms: points from the centre, over the radius) and a
    translation."""
    x, y, z = arms.T
    out = np.zeros((len(arms), 3, 6))
    out[:, 0, 1], out[:, 0, 2] = z, -y
    out[:, 1, 0], out[:, 1, 2] = -z, x
    out[:, 2, 0], out[:, 2, 1] = y, -x
    out[:, (0, 1, 2), (3, 4, 5)] = 1
    return out
