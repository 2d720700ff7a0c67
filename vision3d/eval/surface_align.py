"""Brings a reconstructed surface into the frame of the true one: by the cameras of both, then by closest points.

Iterated closest points: P. Besl and N. McKay, PAMI 1992, here with a similarity (Umeyama 1991) and the farthest pairs
left out (trimmed, D. Chetverikov et al., ICPR 2002).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from vision3d.core import Mesh, RigidTransform, Vision3DError
from vision3d.data.photos import match_names
from vision3d.eval.surface_distance import Surface
from vision3d.geometry.similarity import Similarity, align_poses, fit_similarity
from vision3d.io.cameras_json import KnownCamera

_KEPT = 0.9  # share of the closest pairs that a step of ICP fits
_STEPS = 50


def align_by_cameras(result: Mapping[str, KnownCamera], truth: Mapping[str, KnownCamera]) -> tuple[Similarity, int]:
    """truth_from_result from the poses of the photos that both have, and how many these are.

    Raises:
        Vision3DError: fewer than two photos in common.
    """
    posed = {name: c.cam_from_world for name, c in truth.items() if c.cam_from_world is not None}
    found = match_names(list(posed), dict(result))
    pairs = [(c.cam_from_world, posed[name]) for name, c in found.items() if c.cam_from_world is not None]
    if len(pairs) < 2:
        raise Vision3DError(f"aligning by cameras needs two photos with a pose in both, found {len(pairs)}")
    stacked = [RigidTransform.stack(poses) for poses in zip(*pairs, strict=True)]
    try:
        return align_poses(stacked[0], stacked[1]), len(pairs)
    except ValueError as error:
        raise Vision3DError(f"aligning by cameras failed: {error}") from None


def align_by_points(result: Surface, truth: Surface, points: int = 20_000) -> Similarity:
    """The similarity that moves the result onto the truth, to be applied after the alignment they have.

    Each step fits the 90 % of the result's points that lie nearest to the truth, until the mean of their distances
    changes by less than a millionth of the truth's diagonal.

    Raises:
        Vision3DError: the points do not determine a similarity.
    """
    step = max(1, len(result.samples.points) // points)
    start = torch.from_numpy(result.samples.points[::step].copy())
    found = Similarity(torch.tensor(1.0).double(), torch.eye(3).double(), torch.zeros(3).double())
    before = np.inf
    for _ in range(_STEPS):
        closest = truth.closest(found.apply(start).numpy())
        keep = closest.distance <= np.quantile(closest.distance, _KEPT)
        now = float(closest.distance[keep].mean())
        if before - now < 1e-6 * truth.diagonal():
            break
        before = now
        kept = torch.from_numpy(keep)
        try:
            found = fit_similarity(start[kept], torch.from_numpy(closest.points[keep]))
        except ValueError as error:
            raise Vision3DError(f"aligning by closest points failed: {error}") from None
    return found


def moved(mesh: Mesh, to_from_mesh: Similarity) -> Mesh:
    """The mesh in another frame."""
    return Mesh(to_from_mesh.apply(mesh.vertices.double()), mesh.faces, mesh.colors)
