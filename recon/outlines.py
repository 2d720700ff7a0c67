"""Poses from outlines: a plane through two cameras that touches an object touches its outline in both photos.

R. Cipolla, K. Astrom and P. Giblin, "Motion from the frontier of curved surfaces", ICCV 1995; K. Wong and R. Cipolla,
"Structure and motion from silhouettes", ICCV 2001. An object without texture holds the poses as well, and nothing has
to be matched: all photos that show it whole say two things of every pair, if its mask cuts out all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from skimage.measure import find_contours

from vision3d.core import Camera, RigidTransform
from vision3d.data.photos import PhotoInfo, load_mask
from vision3d.geometry.rigid import se3_exp
from vision3d.recon.verification import working_scale

SHARPEST_PX = 0.2  # no outline is believed to be more exact than that
SMOOTH_PX = 1.0  # masks are black or white: smoothed by that, their edge lies between pixels
WIDEST_RAD = 0.8 * np.pi  # an object that a camera's baseline all but runs through has no planes that touch it
OUTLIER = 3.0  # standard deviations at which a tangency counts half
TIED = 1.5  # as many tangencies per unknown, or outlines do not show whether they fit
LIMIT_PX = 2.0  # spread of outlines of one rigid thing; masks that hide something else spread further


@dataclass(frozen=True, slots=True)
class Outlines:
    """Of photos whose mask shows a whole object: unit rays to the convex hull of its outline (in the camera), px per
    radian, and the unit of LIMIT_PX, px (see verification.working_scale)."""

    names: tuple[str, ...]
    rays: tuple[Float[np.ndarray, "_ 3"], ...]
    focals: Float[np.ndarray, " v"]
    pixel: float


@dataclass(frozen=True, slots=True)
class Tangencies:
    """Planes that touch the object in two photos i and j (indices into the names of Outlines): how far off the
    two outlines are, px, and the derivatives by increments (translation, rotation vector) of i, then j."""

    i: Int[np.ndarray, " m"]
    j: Int[np.ndarray, " m"]
    off: Float[np.ndarray, " m"]
    slope: Float[np.ndarray, "m 12"]


def find_outlines(photos: Sequence[PhotoInfo], cameras: Mapping[str, Camera]) -> Outlines:
    """Of all photos with a camera and a mask whose white part does not reach the border of the photo."""
    names, rays, focals, pixels = [], [], [], []
    for photo in photos:
        if photo.mask is None or photo.name not in cameras:
            continue
        mask = load_mask(photo.mask, photo.size).numpy()
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        if border.any() or not mask.any():
            continue
        # A border of black keeps contours closed; coordinates count from the centre of the first pixel.
        edge = find_contours(cv2.GaussianBlur(np.pad(mask, 1).astype(np.float32), (0, 0), SMOOTH_PX), 0.5)
        if not edge:
            continue
        hull = cv2.convexHull(np.concatenate(edge)[:, ::-1].astype(np.float32))[:, 0].astype(np.float64) - 0.5
        camera = cameras[photo.name]
        direction = np.concatenate([camera.unproject(torch.from_numpy(hull)).numpy(), np.ones((len(hull), 1))], axis=1)
        if not np.isfinite(direction).all() or len(hull) < 3:
            continue
        names.append(photo.name)
        rays.append(direction / np.linalg.norm(direction, axis=1, keepdims=True))
        focals.append(float(np.mean(camera.focal)))
        pixels.append(working_scale(*photo.size))
    return Outlines(tuple(names), tuple(rays), np.array(focals), float(np.median(pixels)) if pixels else 1.0)


def tangencies(outlines: Outlines, poses: Sequence[RigidTransform]) -> Tangencies:
    """Two for every pair of photos (poses in the order of outlines.names) whose baseline passes the object by."""
    rotations = [pose.rotation.double().numpy() for pose in poses]
    centers = [-r.T @ pose.translation.double().numpy() for r, pose in zip(rotations, poses, strict=True)]
    world = [rays @ rotation for rays, rotation in zip(outlines.rays, rotations, strict=True)]
    rows: list[tuple[int, int, float, np.ndarray]] = []
    for i in range(len(poses)):
        for j in range(i + 1, len(poses)):
            baseline = centers[j] - centers[i]
            length = float(np.linalg.norm(baseline))
            if length < 1e-12:
                continue
            b = baseline / length
            ahead = world[i].mean(axis=0) - (world[i].mean(axis=0) @ b) * b
            if float(np.linalg.norm(ahead)) < 1e-6:
                continue
            u = ahead / np.linalg.norm(ahead)
            v = np.cross(b, u)
            angles = [np.arctan2(world[k] @ v, world[k] @ u) for k in (i, j)]
            if max(float(np.ptp(angle)) for angle in angles) > WIDEST_RAD:
                continue
            focal = float(np.sqrt(outlines.focals[i] * outlines.focals[j]))
            for a, c in zip(*(np.array([angle.argmax(), angle.argmin()]) for angle in angles), strict=True):
                # To first order the touched points move along the plane, so that they are as good as a match.
                w0, w1 = world[i][a], world[j][c]
                normal = np.cross(w0, w1)
                unit = focal / np.sqrt(max(2 - float(w0 @ b) ** 2 - float(w1 @ b) ** 2, 1e-12))
                slope = np.concatenate(
                    [
                        rotations[i] @ normal / length,
                        np.cross(rotations[i] @ np.cross(w1, b), outlines.rays[i][a]),
                        -rotations[j] @ normal / length,
                        np.cross(rotations[j] @ np.cross(b, w0), outlines.rays[j][c]),
                    ]
                )
                rows.append((i, j, unit * float(b @ normal), unit * slope))
    return Tangencies(
        np.array([r[0] for r in rows], np.int64),
        np.array([r[1] for r in rows], np.int64),
        np.array([r[2] for r in rows], np.float64),
        np.array([r[3] for r in rows], np.float64).reshape(-1, 12),
    )


def spread_px(found: Tangencies) -> float:
    """Robust standard deviation of how far outlines are off, given that poses were fitted to them; infinite where they
    hardly outnumber the unknowns."""
    used = np.unique(np.concatenate([found.i, found.j]))
    unknowns = 6 * len(used) - 7
    if len(found.off) < TIED * max(unknowns, 1):
        return float("inf")
    return _deviation(found) * float(np.sqrt(len(found.off) / (len(found.off) - unknowns)))


def scatter_px(found: Tangencies) -> float:
    """How far outlines are off at present, robustly, but no less than SHARPEST_PX."""
    return max(SHARPEST_PX, _deviation(found))


def _deviation(found: Tangencies) -> float:
    """Standard deviation of a normal distribution with the same median of absolute values."""
    return float(1.4826 * np.median(np.abs(found.off)))


def normal_equations(
    found: Tangencies, photos: int, spread: float
) -> tuple[Float[np.ndarray, "p p"], Float[np.ndarray, " p"]]:
    """Matrix and right side for the increments (6 per photo) that take the outlines to each other."""
    matrix, right = np.zeros((6 * photos, 6 * photos)), np.zeros(6 * photos)
    weight = 1 / (1 + (found.off / (OUTLIER * spread)) ** 2) / spread**2
    for i, j, off, slope, w in zip(found.i, found.j, found.off, found.slope, weight, strict=True):
        at = np.concatenate([np.arange(6 * i, 6 * i + 6), np.arange(6 * j, 6 * j + 6)])
        matrix[np.ix_(at, at)] += w * np.outer(slope, slope)
        right[at] -= w * slope * off
    return matrix, right


def align_outlines(
    outlines: Outlines, cam_from_world: Mapping[str, RigidTransform], turn_deg: float = 3.0, move_share: float = 0.03
) -> tuple[dict[str, RigidTransform], float]:
    """Poses (of all photos that have one) whose outlines agree, and their spread in px (see Outlines); the poses as
    they came, and infinity, where outlines are too few or not of one rigid thing.

    turn_deg, move_share: standard deviations of the given poses, the second as a share of the distance between
    cameras and their middle.
    """
    poses = dict(cam_from_world)
    if len(outlines.names) < 3 or any(name not in poses for name in outlines.names):
        return poses, float("inf")
    own = [RigidTransform(poses[n].rotation.double(), poses[n].translation.double()) for n in outlines.names]
    start = RigidTransform.stack(own)
    centers = start.center()
    distance = float(torch.linalg.vector_norm(centers - centers.mean(dim=0), dim=1).median())
    trust = np.tile(
        np.concatenate([np.full(3, (move_share * distance) ** -2.0), np.full(3, np.radians(turn_deg) ** -2.0)]),
        len(own),
    )
    moved = np.zeros(6 * len(own))  # from the start, to first order
    for _ in range(20):
        found = tangencies(outlines, own)
        if not len(found.off):
            return poses, float("inf")
        matrix, right = normal_equations(found, len(own), scatter_px(found))
        step = np.linalg.solve(matrix + np.diag(trust), right - trust * moved)
        moved += step
        increments = se3_exp(torch.from_numpy(step.reshape(-1, 6)))
        own = [RigidTransform(increments.rotation[k], increments.translation[k]) @ pose for k, pose in enumerate(own)]
        if float(np.abs(step.reshape(-1, 6)[:, 3:]).max()) < 1e-6:
            break
    spread = spread_px(tangencies(outlines, own)) / outlines.pixel
    if not spread < LIMIT_PX:
        return poses, float("inf")
    return poses | dict(zip(outlines.names, own, strict=True)), spread
