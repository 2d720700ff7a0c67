"""Direct solver for few photos: grow from a start pair along trusted relative poses, scale by a one-dimensional search.

COLMAP registers a photo by 2D-3D matches, which three widely spaced photos hardly have. Here a photo gets rotation and
direction from its best relative pose to a registered photo; the missing scale of the translation is the value that most
triangulated points and most matches with the other registered photos agree on (votes in closed form, then counting).
Bundle adjustment follows each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import poselib
import pycolmap

from vision3d.core import Camera
from vision3d.io.colmap import camera_from_colmap, camera_to_colmap
from vision3d.recon.mapping import MappingProblem
from vision3d.recon.refine import RefineConfig, adjust
from vision3d.recon.tracks import Pair
from vision3d.recon.triangulation import Observations, Pose, triangulate_tracks
from vision3d.recon.verification import colmap_dict
from vision3d.recon.view_graph import VerifiedPair


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeConfig:
    """Settings of solve_by_tree; px at verification.REFERENCE_SIZE.

    max_photos: the solver's cost grows with the square of the photos, larger sets are not tried; start: which of the
    best start pairs to take; candidates: relative poses tried per step; votes: scales tried per candidate;
    min_support: matches and points that must agree with a new photo.
    """

    max_photos: int = 24
    start: int = 0
    candidates: int = 8
    votes: int = 96
    max_error_px: float = 3.0
    min_angle_deg: float = 1.0
    min_support: int = 4


@dataclass(slots=True)
class _State:
    """Growing model: poses (R, t) and cameras by photo; points by track with the mask of those triangulated."""

    poses: dict[str, Pose]
    cameras: dict[int, Camera]
    points: np.ndarray
    valid: np.ndarray


def solve_by_tree(
    problem: MappingProblem,
    pairs: Mapping[Pair, VerifiedPair],
    config: TreeConfig,
    seed: int = 0,
) -> pycolmap.Reconstruction | None:
    """A model in working px, or None when no start pair works."""
    if len(problem.names) > config.max_photos:
        return None
    relative = _relative_poses(problem, pairs, seed)
    starts = sorted(relative, key=lambda pair: (-_start_value(problem, relative, pair), pair))
    if len(starts) <= config.start or _start_value(problem, relative, starts[config.start]) <= 0:
        return None
    a, b = starts[config.start]
    rotation, translation, _ = relative[a, b]
    observations = Observations.of(problem)
    state = _State({a: (np.eye(3), np.zeros(3)), b: (rotation, translation)}, dict(problem.cameras), *_none(problem))
    model = _adjusted(problem, observations, state, config)
    while model is not None and len(state.poses) < len(problem.names):
        found = _next(problem, observations, relative, state, config)
        if found is None:
            break
        state.poses[found[0]] = found[1]
        model = _adjusted(problem, observations, state, config)
    return model


def rebuild(
    problem: MappingProblem, model: pycolmap.Reconstruction, config: TreeConfig
) -> pycolmap.Reconstruction | None:
    """The model with its points triangulated anew from the problem's tracks, and adjusted; None if few points fit.

    For a problem whose tracks come from the pairs that the model explains, this drops what wrong pairs bent.
    """
    groups = sorted(problem.cameras)
    poses: dict[str, Pose] = {}
    for image_id in model.reg_image_ids():
        matrix = np.array(model.images[image_id].cam_from_world().matrix())
        poses[model.images[image_id].name] = (matrix[:, :3], matrix[:, 3])
    cameras = {groups[i - 1]: camera_from_colmap(camera) for i, camera in model.cameras.items()}
    state = _State(poses, {**problem.cameras, **cameras}, *_none(problem))
    observations = Observations.of(problem)
    first = _adjusted(problem, observations, state, config)
    return None if first is None else _adjusted(problem, observations, state, config)


def _relative_poses(
    problem: MappingProblem, pairs: Mapping[Pair, VerifiedPair], seed: int
) -> dict[Pair, tuple[np.ndarray, np.ndarray, float]]:
    """R, t (length 1) of cam1_from_cam0 and a confidence per pair, under the cameras that the problem starts from."""
    out: dict[Pair, tuple[np.ndarray, np.ndarray, float]] = {}
    for pair, index in sorted(problem.graph.matches.items()):
        if len(index) < 8:
            continue
        verified = pairs[pair]
        known = verified.geometry.cam1_from_cam0
        share = 1.0
        if known is not None:
            rotation, translation = known.rotation.numpy(), known.translation.numpy()
        else:
            x0, x1 = (problem.graph.points[n].numpy()[index[:, k].numpy()] for k, n in enumerate(pair))
            cameras = [colmap_dict(problem.cameras[problem.group_of[n]]) for n in pair]
            ransac = {"max_epipolar_error": 2.0, "seed": seed, "max_iterations": 5000, "min_iterations": 100}
            pose, info = poselib.estimate_relative_pose(x0, x1, cameras[0], cameras[1], ransac, {})
            share = float(np.mean(info["inliers"]))
            rotation, translation = np.asarray(pose.R), np.asarray(pose.t)
        norm = float(np.linalg.norm(translation))
        if norm < 1e-9:
            continue
        weight = min(len(index), 200) * verified.inlier_ratio**2 * share**2
        out[pair] = (np.array(rotation), np.array(translation) / norm, weight)
    return out


def _start_value(
    problem: MappingProblem, relative: Mapping[Pair, tuple[np.ndarray, np.ndarray, float]], pair: Pair
) -> float:
    """Confidence, damped where rays are nearly parallel: median triangulation angle against 8 degrees."""
    rotation, _, weight = relative[pair]
    index = problem.graph.matches[pair].numpy()
    rays = []
    for k, name in enumerate(pair):
        camera = problem.cameras[problem.group_of[name]]
        xy = camera.unproject(problem.graph.points[name][index[:, k]].double()).numpy()
        ray = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
        rays.append(ray / np.linalg.norm(ray, axis=1, keepdims=True))
    cosine = np.clip(((rays[0] @ rotation.T) * rays[1]).sum(axis=1), -1, 1)
    angle = float(np.degrees(np.median(np.arccos(cosine))))
    return weight * min(1.0, angle / 8.0) ** 2


def _next(
    problem: MappingProblem,
    observations: Observations,
    relative: Mapping[Pair, tuple[np.ndarray, np.ndarray, float]],
    state: _State,
    config: TreeConfig,
) -> tuple[str, Pose] | None:
    """The best supported photo and its pose, among the candidates with the most trusted relative poses."""
    options: list[tuple[float, str, str, np.ndarray, np.ndarray]] = []
    for (a, b), (rotation, translation, weight) in relative.items():
        if a in state.poses and b not in state.poses:
            options.append((weight, b, a, rotation, translation))
        elif b in state.poses and a not in state.poses:
            options.append((weight, a, b, rotation.T, -rotation.T @ translation))
    options.sort(key=lambda o: (-o[0], o[1], o[2]))
    best: tuple[float, str, Pose] | None = None
    for weight, new, old, rotation, direction in options[: config.candidates]:
        pose, support = _place(problem, observations, relative, state, config, new, old, rotation, direction)
        if support >= config.min_support and (best is None or support + weight > best[0]):
            best = (support + weight, new, pose)
    return None if best is None else (best[1], best[2])


def _place(
    problem: MappingProblem,
    observations: Observations,
    relative: Mapping[Pair, tuple[np.ndarray, np.ndarray, float]],
    state: _State,
    config: TreeConfig,
    new: str,
    old: str,
    rotation: np.ndarray,
    direction: np.ndarray,
) -> tuple[Pose, float]:
    """Pose of photo `new` at the scale that most points and matches agree on, and that support."""
    r_old, t_old = state.poses[old]
    r_new, t_zero = rotation @ r_old, rotation @ t_old
    camera = state.cameras[problem.group_of[new]]
    focal = float(np.mean(camera.focal))
    tracks, x = observations.rays(new, camera)
    seen = state.valid[tracks]
    x, q = x[seen], state.points[tracks[seen]] @ r_new.T + t_zero
    # Points: x parallel to q + s d.  Matches: x . ((p + s d) x y) = 0, see the module's first lines.
    xq, xd = np.cross(x, q), np.cross(x, direction[None])
    votes = [-(xq * xd).sum(axis=1) / np.maximum((xd * xd).sum(axis=1), 1e-12)]
    others: list[tuple[np.ndarray, np.ndarray, float]] = []
    for other, (r_other, t_other) in state.poses.items():
        pair = (new, other) if new < other else (other, new)
        if other == old or pair not in relative:
            continue
        index = problem.graph.matches[pair].numpy()
        side = 0 if new < other else 1
        x_new = _unprojected(problem, camera, new, index[:, side])
        x_other = _unprojected(problem, state.cameras[problem.group_of[other]], other, index[:, 1 - side])
        between = r_new @ r_other.T
        y, p = x_other @ between.T, t_zero - between @ t_other
        constant = (x_new * np.cross(p[None], y)).sum(axis=1)
        linear = (x_new * np.cross(direction[None], y)).sum(axis=1)
        # Sampson's normaliser varies slowly with s: |y|-scaled bearing of the line, at the direction itself.
        lines = np.cross(np.broadcast_to(p, y.shape), y), np.cross(np.broadcast_to(direction, y.shape), y)
        weight = relative[pair][2] / max(1, min(len(index), 200))
        others.append((np.stack([constant, linear], axis=1), np.concatenate(lines, axis=1), weight))
        votes.append(-constant / np.where(np.abs(linear) < 1e-9, 1e-9, linear))
    scales = np.concatenate(votes)
    scales = scales[np.isfinite(scales)]
    if len(scales) == 0:
        return (r_new, t_zero), 0.0
    scales = np.sort(scales)[np.linspace(0, len(scales) - 1, min(config.votes, len(scales))).astype(int)]
    support = np.zeros(len(scales))
    for k, s in enumerate(scales):
        z = q + s * direction
        error = np.abs(z[:, :2] / np.maximum(z[:, 2:], 1e-9) - x[:, :2] / x[:, 2:]).max(axis=1, initial=0.0) * focal
        support[k] = float(((z[:, 2] > 0) & (error < 2 * config.max_error_px)).sum())
        for terms, lines_, weight in others:
            residual = np.abs(terms[:, 0] + s * terms[:, 1])
            line = lines_[:, :3] + s * lines_[:, 3:]
            distance = residual / np.maximum(np.hypot(line[:, 0], line[:, 1]), 1e-12) * focal
            support[k] += weight * float((distance < config.max_error_px).sum())
    k = int(support.argmax())
    return (r_new, t_zero + scales[k] * direction), float(support[k])


def _adjusted(
    problem: MappingProblem, observations: Observations, state: _State, config: TreeConfig
) -> pycolmap.Reconstruction | None:
    """Triangulates all tracks, adjusts the model, and takes its poses, cameras and points over into the state."""
    state.points, state.valid = triangulate_tracks(
        observations, problem, state.poses, state.cameras, 2 * config.max_error_px, config.min_angle_deg
    )
    if int(state.valid.sum()) < 8:
        return None
    model = build_model(problem, observations, state.poses, state.cameras, state.points, state.valid)
    given = {i + 1 for i, group in enumerate(sorted(problem.cameras)) if group in problem.fixed}
    fixed = given if len(state.poses) >= 3 else set(model.cameras)  # two photos do not determine a focal length
    adjust(model, fixed, RefineConfig(loss_scale_px=1.0, max_error_px=config.max_error_px, rounds=2))
    for image_id in model.reg_image_ids():
        image = model.images[image_id]
        matrix = np.array(image.cam_from_world().matrix())
        state.poses[image.name] = (matrix[:, :3], matrix[:, 3])
    groups = sorted(problem.cameras)
    for camera_id, camera in model.cameras.items():
        state.cameras[groups[camera_id - 1]] = camera_from_colmap(camera)
    state.points, state.valid = triangulate_tracks(
        observations, problem, state.poses, state.cameras, config.max_error_px, config.min_angle_deg
    )
    return model if model.num_points3D() >= 8 else None


def build_model(
    problem: MappingProblem,
    observations: Observations,
    poses: Mapping[str, Pose],
    cameras: Mapping[int, Camera],
    points: np.ndarray,
    valid: np.ndarray,
) -> pycolmap.Reconstruction:
    """A COLMAP model of the posed photos and the valid points; camera ids count from 1 in the order of groups."""
    model = pycolmap.Reconstruction()
    camera_id = {group: i + 1 for i, group in enumerate(sorted(problem.cameras))}
    for group, number in camera_id.items():
        model.add_camera_with_trivial_rig(camera_to_colmap(cameras[group], number))
    image_id = {name: i + 1 for i, name in enumerate(problem.names)}
    for name, (rotation, translation) in sorted(poses.items()):
        keypoints = problem.graph.points[name].double().numpy()
        image = pycolmap.Image(
            name=name, keypoints=keypoints, camera_id=camera_id[problem.group_of[name]], image_id=image_id[name]
        )
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(_orthonormal(rotation)), translation)
        model.add_image_with_trivial_frame(image, pose)
    for track in np.flatnonzero(valid):
        elements = pycolmap.Track()
        for name, point in observations.of_track(int(track)):
            if name in poses:
                elements.add_element(image_id[name], point)
        model.add_point3D(points[track], elements)
    return model


def _unprojected(problem: MappingProblem, camera: Camera, name: str, index: np.ndarray) -> np.ndarray:
    xy = camera.unproject(problem.graph.points[name][index].double()).numpy()
    return np.concatenate([xy, np.ones((len(xy), 1))], axis=1)


def _orthonormal(rotation: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(rotation)
    out: np.ndarray = u @ vt
    return out


def _none(problem: MappingProblem) -> tuple[np.ndarray, np.ndarray]:
    n = problem.graph.num_tracks
    return np.zeros((n, 3)), np.zeros(n, dtype=bool)
