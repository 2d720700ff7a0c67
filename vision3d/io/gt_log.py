"""Relative poses of fragments in the Redwood and 3DMatch file formats: gt.log, gt.info and gt_overlap.log.

S. Choi, Q.-Y. Zhou and V. Koltun, "Robust reconstruction of indoor scenes", CVPR 2015 (the formats are its web page's).
A block of gt.log is `i j n` (n fragments in all) and a 4x4 matrix that takes points of fragment j to the frame of
fragment i. A block of gt.info is `i j n` and the 6x6 information matrix of that pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vision3d.core import RigidTransform, Vision3DError
from vision3d.geometry.rotation import nearest_rotation
from vision3d.io.ascii_file import read_ascii
from vision3d.io.atomic import atomic_write_text

Fragments = tuple[int, int]
_ROTATION_ERROR = 1e-2  # the published files have rotations that are off by up to a few 1e-4


def read_gt_log(path: str | Path) -> dict[Fragments, RigidTransform]:
    """(i, j) -> i_from_j (float64, metres) of a gt.log, in the file's order. Rotations are made exact.

    Raises:
        Vision3DError: missing, cut off, a line that is not understood, no rotation, or a pair twice.
    """
    path = Path(path)
    poses = {}
    for pair, matrix in _blocks(path, 4).items():
        i_from_j = torch.from_numpy(matrix)
        rotation = nearest_rotation(i_from_j[:3, :3])
        if float((rotation - i_from_j[:3, :3]).abs().max()) > _ROTATION_ERROR or matrix[3].tolist() != [0, 0, 0, 1]:
            raise Vision3DError(f"{path}: the matrix of the pair {pair[0]} {pair[1]} is not a rigid transform")
        poses[pair] = RigidTransform(rotation, i_from_j[:3, 3].clone())
    return poses


def write_gt_log(path: str | Path, poses: Mapping[Fragments, RigidTransform], fragments: int) -> None:
    """Write (i, j) -> i_from_j as the official tools read it, of `fragments` fragments in all."""
    lines = []
    for (i, j), i_from_j in poses.items():
        lines.append(f"{i}\t{j}\t{fragments}")
        lines += ["\t".join(f"{value:.12e}" for value in row) for row in i_from_j.matrix().tolist()]
    atomic_write_text(path, "".join(line + "\n" for line in lines))


def read_gt_info(path: str | Path) -> dict[Fragments, Float64[Tensor, "6 6"]]:
    """(i, j) -> information matrix of a gt.info: of (translation, quaternion xyz) of a small error of the pair's pose.

    Its first number is the count of points that it was summed over.

    Raises:
        Vision3DError: missing, cut off, a line that is not understood, a pair twice, or no points.
    """
    path = Path(path)
    matrices = {}
    for pair, matrix in _blocks(path, 6).items():
        if matrix[0, 0] <= 0:
            raise Vision3DError(f"{path}: the information of the pair {pair[0]} {pair[1]} was summed over no points")
        matrices[pair] = torch.from_numpy(matrix)
    return matrices


def read_gt_overlap(path: str | Path) -> dict[Fragments, float]:
    """(i, j) -> overlap in [0, 1] of a gt_overlap.log (lines `i,j,overlap`; all pairs of the scene, not only the
    benchmark's). Vision3DError as `read_gt_log`."""
    path = Path(path)
    overlaps: dict[Fragments, float] = {}
    for number, line in enumerate(read_ascii(path).splitlines(), 1):
        if not line.strip():
            continue
        words = line.split(",")
        try:
            i, j, overlap = int(words[0]), int(words[1]), float(words[2])
        except (ValueError, IndexError):
            raise Vision3DError(f"{path}:{number}: i,j,overlap are needed, got {line.strip()[:60]!r}") from None
        if not 0 <= overlap <= 1:
            raise Vision3DError(f"{path}:{number}: an overlap lies in [0, 1], got {words[2].strip()}")
        overlaps[i, j] = overlap
    return overlaps


def _blocks(path: Path, size: int) -> dict[Fragments, Float64[np.ndarray, "r c"]]:
    lines = [(number, line.split()) for number, line in enumerate(read_ascii(path).splitlines(), 1) if line.strip()]
    if len(lines) % (size + 1):
        raise Vision3DError(f"{path} is cut off: {len(lines)} lines are no multiple of {size + 1}")
    blocks: dict[Fragments, Float64[np.ndarray, "r c"]] = {}
    for start in range(0, len(lines), size + 1):
        number, head = lines[start]
        try:
            i, j, _ = (int(word) for word in head)
        except ValueError:
            raise Vision3DError(f"{path}:{number}: `i j n` is needed, got {' '.join(head)[:60]!r}") from None
        rows = [_row(path, *line, size) for line in lines[start + 1 : start + 1 + size]]
        if (i, j) in blocks:
            raise Vision3DError(f"{path}:{number}: the pair {i} {j} comes twice")
        blocks[i, j] = np.array(rows, np.float64)
    return blocks


def _row(path: Path, number: int, words: list[str], size: int) -> list[float]:
    try:
        row = [float(word) for word in words]
    except ValueError:
        row = []
    if len(row) != size or not np.isfinite(row).all():
        raise Vision3DError(f"{path}:{number}: {size} finite numbers are needed, got {' '.join(words)[:60]!r}")
    return row
