"""One Gauss-Newton step of poses and depths towards the shifts that patches ask for (bundle adjustment on pixels).

The model is that of J. Engel, V. Koltun and D. Cremers, "Direct Sparse Odometry", 2018, section 2.2: a point is its
pixel in a reference photo and an inverse depth; depths are eliminated by the Schur complement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SHARPEST_PX = 0.1  # no shift is believed to be more exact than that: planes and shading are not
OUTLIER = 3.0  # standard deviations at which an observation counts half


@dataclass(frozen=True, slots=True)
class Observed:
    """n observations of m points: photo of the reference (one per point) and of the observation (one per point and
    photo), the point, its place in the reference camera's frame (scene's unit), and the shift's information and pull
    in px (see compare.Shifts)."""

    reference: Int[np.ndarray, " n"]
    photo: Int[np.ndarray, " n"]
    point: Int[np.ndarray, " n"]
    place: Float[np.ndarray, "n 3"]
    information: Float[np.ndarray, "n 3"]
    pull: Float[np.ndarray, "n 2"]


def solve_step(
    observed: Observed,
    points: int,
    rotations: Float[np.ndarray, "v 3 3"],
    translations: Float[np.ndarray, "v 3"],
    focals: Float[np.ndarray, "v 2"],
    stiffness: Float[np.ndarray, "v 6"],
    damping: float,
    known: tuple[Float[np.ndarray, "v6 v6"], Float[np.ndarray, " v6"]] | None = None,
) -> tuple[Float[np.ndarray, "v 6"], Float[np.ndarray, " m"]]:
    """The increments of all photos (translation, rotation vector in rad: see geometry.se3_exp; applied from the left
    to cam_from_world) and of the logarithms of all inverse depths.

    stiffness: a quadratic cost of every pose increment, which also settles the choice of frame and scale. known: normal
    equations of what else says how the poses move.
    """
    i, j = observed.reference, observed.photo
    r_ji = rotations[j] @ rotations[i].transpose(0, 2, 1)
    t_ji = translations[j] - np.einsum("nab,nb->na", r_ji, translations[i])
    turned = np.einsum("nab,nb->na", r_ji, observed.place)
    seen = turned + t_ji
    z = np.maximum(seen[:, 2], 1e-9)
    project = np.zeros((len(i), 2, 3))
    project[:, 0, 0], project[:, 1, 1] = focals[j, 0] / z, focals[j, 1] / z
    project[:, 0, 2], project[:, 1, 2] = -focals[j, 0] * seen[:, 0] / z**2, -focals[j, 1] * seen[:, 1] / z**2
    by_photo = project @ _moved(seen)
    by_reference = -project @ r_ji @ _moved(observed.place)
    by_depth = -np.einsum("nab,nb->na", project, turned)

    information, pull = _believed(observed.information, observed.pull)
    photos = len(rotations)
    size = 6 * photos
    both = np.concatenate([by_reference, by_photo], axis=2)  # n 2 12
    weighted = information @ both
    normal, right = np.zeros((photos, photos, 6, 6)), np.zeros((photos, 6))
    order = np.argsort(i * photos + j, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff((i * photos + j)[order])) + 1) if len(order) else []:
        at = [int(i[rows[0]]), int(j[rows[0]])]
        square = np.einsum("nac,nad->cd", both[rows], weighted[rows], optimize=True).reshape(2, 6, 2, 6)
        normal[np.ix_(at, at)] += square.transpose(0, 2, 1, 3)
        right[at] += np.einsum("nac,na->c", both[rows], pull[rows]).reshape(2, 6)
    matrix = normal.transpose(0, 2, 1, 3).reshape(size, size)
    mixed = np.einsum("nac,na->nc", weighted, by_depth)
    shared = np.zeros((points, photos, 6))
    shared[observed.point, j] = mixed[:, 6:]
    reference = np.zeros(points, np.int64)
    reference[observed.point] = i
    own_pose = np.stack([np.bincount(observed.point, mixed[:, k], points) for k in range(6)], axis=1)
    shared[np.arange(points), reference] += own_pose
    cross = shared.reshape(points, size)
    own: np.ndarray = np.bincount(observed.point, np.einsum("na,nab,nb->n", by_depth, information, by_depth), points)
    depth_right = np.bincount(observed.point, (by_depth * pull).sum(axis=1), points)
    own = own * (1 + damping) + 1e-9 * max(float(own.max(initial=0.0)), 1e-300)

    matrix[np.diag_indices(size)] *= 1 + damping
    matrix[np.diag_indices(size)] += stiffness.ravel()
    reduced, wanted = matrix - cross.T @ (cross / own[:, None]), right.ravel() - cross.T @ (depth_right / own)
    if known is not None:
        reduced, wanted = reduced + known[0], wanted + known[1]
    poses = np.linalg.solve(reduced, wanted)
    depths = (depth_right - cross @ poses) / own
    return poses.reshape(photos, 6), depths


def _moved(places: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3 6"]:
    """Derivative of a place by an increment from the left: the identity and -[place]x."""
    x, y, z = places.T
    out = np.zeros((len(places), 3, 6))
    out[:, [0, 1, 2], [0, 1, 2]] = 1
    out[:, 0, 4], out[:, 0, 5] = z, -y
    out[:, 1, 3], out[:, 1, 5] = -z, x
    out[:, 2, 3], out[:, 2, 4] = y, -x
    return out


def _believed(
    information: Float[np.ndarray, "n 3"], pull: Float[np.ndarray, "n 2"]
) -> tuple[Float[np.ndarray, "n 2 2"], Float[np.ndarray, "n 2"]]:
    """With SHARPEST_PX added to the shift's deviation, and outliers weighted down (Cauchy)."""
    full = information[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    soften = np.linalg.inv(np.eye(2) + SHARPEST_PX**2 * full)
    pull = np.einsum("nab,nb->na", soften, pull)
    full = soften @ full
    shift = np.linalg.solve(full + 1e-6 * np.eye(2), pull[..., None])[..., 0]
    weight = 1 / (1 + (shift * pull).sum(axis=1).clip(min=0) / OUTLIER**2)
    return full * weight[:, None, None], pull * weight[:, None]
