"""Votes of rigid motions in a sparse six-dimensional grid, their smoothing over neighbouring bins, and its peaks.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, section 3.3: the axes are the rotation
vector and the translation. Where the paper refines the grid with a network, votes are summed over the 3^6 bins around
each. A rotation vector near the length pi stands for the same rotation as the one 2 pi further back: such votes are
entered at both places, so that neighbours across the wrap are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int

from vision3d.matching.hough.grid import find_cell
from vision3d.sparse.hash_table import capacity, fill, shift_of
from vision3d.sparse.threads import use_torch_threads

_MIDDLE = 1 << 20  # of the 21 bits of an axis


@dataclass(frozen=True, slots=True, eq=False)
class HoughSpace:
    """Occupied bins, sorted: rotation [m 3] and translation [m 3] numbers of bins; votes summed in each; `smooth`: over
    the 3^6 around; `mean`: mean (rotation vector rad, translation) of the votes in these."""

    bins: Int[np.ndarray, "m 6"]
    votes: Float[np.ndarray, " m"]
    smooth: Float[np.ndarray, " m"]
    mean: Float[np.ndarray, "m 6"]


def vote(
    rotvecs: Float[np.ndarray, "t 3"],
    translations: Float[np.ndarray, "t 3"],
    weights: Float[np.ndarray, " t"],
    rotation_bin: float,
    translation_bin: float,
) -> HoughSpace:
    """Enters votes (rotation vectors in rad, at most pi long) into bins of `rotation_bin` rad and `translation_bin`."""
    poses, weights = _both_ends(rotvecs, translations, weights, rotation_bin)
    bins = np.floor(poses / np.array([rotation_bin] * 3 + [translation_bin] * 3)).astype(np.int64)
    if len(bins) and np.abs(bins).max() >= _MIDDLE - 2:
        raise ValueError(f"votes span too many bins of {translation_bin:g}: use larger voxels")
    shifted = bins + _MIDDLE
    rotation_key = (shifted[:, 0] << 42) | (shifted[:, 1] << 21) | shifted[:, 2]
    translation_key = (shifted[:, 3] << 42) | (shifted[:, 4] << 21) | shifted[:, 5]
    order = np.lexsort((translation_key, rotation_key))
    rotation_key, translation_key = rotation_key[order], translation_key[order]
    turned = np.flatnonzero(np.diff(rotation_key, prepend=-1))
    fresh = np.flatnonzero((np.diff(rotation_key, prepend=-1) != 0) | (np.diff(translation_key, prepend=-1) != 0))
    weights, poses = weights[order], poses[order]
    if not len(order):
        return HoughSpace(np.zeros((0, 6), np.int64), np.zeros(0), np.zeros(0), np.zeros((0, 6)))
    votes = np.add.reduceat(weights, fresh)
    sums = np.add.reduceat(poses * weights[:, None], fresh, axis=0)
    unique = bins[order][fresh]
    groups = np.append(np.searchsorted(fresh, turned), len(fresh)).astype(np.int64)
    keys = rotation_key[turned].astype(np.uint64)
    slots = capacity(len(keys))
    slot_keys, slot_rows = np.empty(slots, np.uint64), np.full(slots, -1, np.int32)
    fill(keys, slot_keys, slot_rows, shift_of(slots))
    smooth, mean = np.empty(len(unique)), np.empty((len(unique), 6))
    use_torch_threads()
    _smooth(unique, votes, sums, groups, keys, slot_keys, slot_rows, shift_of(slots), smooth, mean)
    return HoughSpace(unique, votes, smooth, mean)


def smooth_slow(bins: Int[np.ndarray, "m 6"], votes: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """The sums over the 3^6 bins around each occupied bin, all pairs."""
    near = (np.abs(bins[:, None] - bins[None]) <= 1).all(-1)
    out: np.ndarray = near @ votes
    return out


def peaks(
    space: HoughSpace, most: int, rotation_apart: float, translation_apart: float
) -> tuple[Float[np.ndarray, "p 6"], Float[np.ndarray, " p"]]:
    """The highest smoothed bins, highest first, as (rotation vector, translation) and their votes.

    No two are nearer than both `rotation_apart` (rad) and `translation_apart`.
    """
    order = np.argsort(-space.smooth, kind="stable")
    found = np.empty((most, 6))
    heights = np.empty(most)
    count = _peaks(space.mean, space.smooth, order, rotation_apart, translation_apart, found, heights)
    return found[:count], heights[:count]


def _both_ends(
    rotvecs: np.ndarray, translations: np.ndarray, weights: np.ndarray, rotation_bin: float
) -> tuple[np.ndarray, np.ndarray]:
    """The votes, and once more those within four bins of the wrap, at the other end."""
    poses = np.concatenate([rotvecs, translations], axis=1)
    angle = np.linalg.norm(rotvecs, axis=1)
    near = angle > np.pi - 4 * rotation_bin
    if not near.any():
        return poses, weights
    other = poses[near].copy()
    other[:, :3] *= (1 - 2 * np.pi / np.maximum(angle[near], 1e-9))[:, None]
    return np.concatenate([poses, other]), np.concatenate([weights, weights[near]])


@numba.njit(cache=True, nogil=True, parallel=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _smooth(bins, votes, sums, groups, keys, slot_keys, slot_rows, shift, smooth, mean):  # pragma: no cover (compiled)
    """Bins of one rotation stand together: neighbours are sought by rotation and compared by translation."""
    for g in numba.prange(keys.shape[0]):
        around = np.empty(27, np.int32)
        count = 0
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                for dz in range(-1, 2):
                    key = np.uint64(np.int64(keys[g]) + (np.int64(dx) << 42) + (np.int64(dy) << 21) + dz)
                    other = find_cell(key, slot_keys, slot_rows, shift)
                    if other >= 0:
                        around[count] = other
                        count += 1
        for i in range(groups[g], groups[g + 1]):
            total = 0.0
            for d in range(6):
                mean[i, d] = 0.0
            for k in range(count):
                for j in range(groups[around[k]], groups[around[k] + 1]):
                    if (
                        abs(bins[i, 3] - bins[j, 3]) <= 1
                        and abs(bins[i, 4] - bins[j, 4]) <= 1
                        and abs(bins[i, 5] - bins[j, 5]) <= 1
                    ):
                        total += votes[j]
                        for d in range(6):
                            mean[i, d] += sums[j, d]
            smooth[i] = total
            for d in range(6):
                mean[i, d] /= total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _quaternion(v, out):  # pragma: no cover (compiled)
    angle = np.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    half = 0.5 * angle
    factor = np.sin(half) / angle if angle > 1e-12 else 0.5
    out[0] = np.cos(half)
    for d in range(3):
        out[1 + d] = factor * v[d]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check
def _peaks(mean, smooth, order, rotation_apart, translation_apart, found, heights):  # pragma: no cover (compiled)
    """Greedy, highest first; angles between rotations come from quaternions, which know no wrap."""
    quaternions = np.empty((found.shape[0], 4))
    q = np.empty(4)
    least = np.cos(min(0.5 * rotation_apart, 0.5 * np.pi))
    count = 0
    for o in range(order.shape[0]):
        if count == found.shape[0]:
            break
        i = order[o]
        _quaternion(mean[i], q)
        apart = True
        for k in range(count):
            dot = 0.0
            for d in range(4):
                dot += q[d] * quaternions[k, d]
            distance = 0.0
            for d in range(3, 6):
                distance += (mean[i, d] - found[k, d]) ** 2
            if abs(dot) > least and distance < translation_apart * translation_apart:
                apart = False
                break
        if apart:
            quaternions[count] = q
            found[count] = mean[i]
            heights[count] = smooth[i]
            count += 1
    return count
