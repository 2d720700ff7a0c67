"""Cameras that mapping starts from, and the change between original and working px."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import poselib

from vision3d.core import Camera, CameraPrior, Correspondences
from vision3d.recon.mapping import MappingProblem
from vision3d.recon.tracks import Pair
from vision3d.recon.verification import working_scale

MANY_PHOTOS = 10  # photos of one camera from which lens distortion is estimated while mapping


def start_cameras(priors: Mapping[str, CameraPrior]) -> dict[int, Camera]:
    """Camera per group in working px: as given, or one focal length (with distortion if the group is large)."""
    count: dict[int, int] = {}
    for prior in priors.values():
        count[prior.group] = count.get(prior.group, 0) + 1
    cameras: dict[int, Camera] = {}
    for prior in priors.values():
        camera = working_camera(prior.camera)
        if prior.source != "given":
            focal = math.sqrt(camera.focal[0] * camera.focal[1])
            radial = count[prior.group] >= MANY_PHOTOS
            k = camera.distortion[:1] or (0.0,)
            camera = replace(
                camera,
                focal=(focal, focal),
                model="SIMPLE_RADIAL" if radial else "SIMPLE_PINHOLE",
                distortion=k if radial else (),
            )
        cameras[prior.group] = camera
    return cameras


def working_camera(camera: Camera) -> Camera:
    """The camera in working px."""
    return _scaled(camera, 1 / working_scale(camera.width, camera.height))


def original_camera(camera: Camera, original: Camera) -> Camera:
    """A camera in working px back in px of the original, whose size is that of `original`."""
    scaled = _scaled(camera, working_scale(original.width, original.height))
    return replace(scaled, width=original.width, height=original.height)


def working_pairs(
    priors: Mapping[str, CameraPrior], pairs: Mapping[Pair, Correspondences]
) -> dict[Pair, Correspondences]:
    """Matches in working px."""
    scale = {name: working_scale(p.camera.width, p.camera.height) for name, p in priors.items()}
    return {
        (a, b): Correspondences(m.points0.double() / scale[a], m.points1.double() / scale[b], m.scores)
        for (a, b), m in pairs.items()
    }


def with_focal(problem: MappingProblem, share: float) -> MappingProblem:
    """The problem with cameras of unknown focal length starting from `share` longer sides."""
    cameras = {
        group: camera
        if group in problem.prior_focal
        else replace(camera, focal=(share * max(camera.width, camera.height),) * 2)
        for group, camera in problem.cameras.items()
    }
    return replace(problem, cameras=cameras)


def with_distortion(problem: MappingProblem) -> MappingProblem:
    """The problem with a distortion parameter to estimate in every camera that is not given."""
    cameras = {
        group: replace(camera, model="SIMPLE_RADIAL", distortion=(0.0,))
        if group not in problem.fixed and camera.model == "SIMPLE_PINHOLE"
        else camera
        for group, camera in problem.cameras.items()
    }
    return replace(problem, cameras=cameras)


def focal_starts(
    problem: MappingProblem, matches: Mapping[Pair, Correspondences], fallback: tuple[float, ...]
) -> list[float]:
    """Focal lengths worth starting from, in longer sides: the pairs' own vote where they agree, then `fallback`.

    Each pair of photos of one camera votes with poselib's 6-point solver for a shared focal length; long focal lengths
    leave it undetermined, and then the votes scatter.
    """
    votes: list[float] = []
    weights: list[float] = []
    strongest = sorted(matches, key=lambda p: (-len(matches[p]), p))[:40]
    for a, b in strongest:
        camera = problem.cameras[problem.group_of[a]]
        if problem.group_of[a] != problem.group_of[b] or problem.group_of[a] in problem.prior_focal:
            continue
        m = matches[a, b]
        if len(m) < 50:
            continue
        ransac = {"max_epipolar_error": 2.0, "seed": 0, "max_iterations": 2000, "min_iterations": 100}
        center = np.array(camera.center, dtype=np.float64)
        pair, info = poselib.estimate_shared_focal_relative_pose(
            m.points0.numpy(), m.points1.numpy(), center, ransac, {}
        )
        share = float(pair.camera1.focal()) / max(camera.width, camera.height)
        if int(info["num_inliers"]) >= 50 and 0.2 < share < 15:
            votes.append(math.log(share))
            weights.append(math.sqrt(float(info["num_inliers"])))
    out: list[float] = []
    if len(votes) >= 1:
        center_vote, agreement = _mode(np.array(votes), np.array(weights))
        if agreement > 0.5:
            out.append(math.exp(center_vote))
    guess = [max(c.focal) / max(c.width, c.height) for g, c in problem.cameras.items() if g not in problem.prior_focal]
    taken = [*out, *guess]
    out += [f for f in fallback if all(abs(math.log(f / t)) > 0.15 for t in taken)]
    return out


def _mode(values: np.ndarray, weights: np.ndarray, width: float = 0.15) -> tuple[float, float]:
    """The densest place of weighted values, and the share of weight within `width` of it."""
    density = (np.exp(-0.5 * ((values[:, None] - values[None]) / width) ** 2) * weights[None]).sum(axis=1)
    peak = values[int(density.argmax())]
    near = np.abs(values - peak) < width
    return float(np.average(values[near], weights=weights[near])), float(weights[near].sum() / weights.sum())


def _scaled(camera: Camera, factor: float) -> Camera:
    return replace(
        camera,
        width=max(1, round(camera.width * factor)),
        height=max(1, round(camera.height * factor)),
        focal=(camera.focal[0] * factor, camera.focal[1] * factor),
        center=(camera.center[0] * factor, camera.center[1] * factor),
    )
