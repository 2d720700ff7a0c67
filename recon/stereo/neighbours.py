"""Which views to match with which, and between which depths, from poses and, where there are any, sparse points.

Score over shared points with a preferred triangulation angle as in Yao et al., "MVSNet", ECCV 2018, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vision3d.core import Scene, View

GOOD_ANGLE_DEG = 12.0  # triangulation angle of the highest score
BELOW_DEG, ABOVE_DEG = 5.0, 12.0  # standard deviations of the score under and over it
MIN_ANGLE_DEG = 0.5  # below it depth is hardly determined
MAX_ANGLE_DEG = 60.0
MIN_SHARED = 12  # points that a view and a pair must have for points, rather than the poses alone, to decide
MIN_SCORE = 5e-4  # per point; a twentieth of the points at a poor angle
GRID = 12  # rays per side that stand for a view where there are no points


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Per view: the views to match it with (indices, best first), and its lowest and highest inverse depth.

    unit: median distance of a view to its best neighbour (1 where no view has one).
    """

    sources: tuple[tuple[int, ...], ...]
    inverse_depths: Float[np.ndarray, "n 2"]
    unit: float


def choose_neighbours(views: Sequence[View], scene: Scene, count: int) -> Neighbourhood:
    """The best `count` neighbours of every view and the range of depth to search; none where nothing is shared."""
    n = len(views)
    geometry = _Geometry.of(views)
    seen = _seen_points(views, scene)
    samples = [_samples(views, geometry, scene, seen, i) for i in range(n)]
    sources: list[tuple[int, ...]] = []
    for i in range(n):
        scores = [(-_score(views, geometry, scene, seen, samples, i, j), j) for j in range(n) if j != i]
        sources.append(tuple(j for score, j in sorted(scores)[:count] if score < 0))
    best = [np.linalg.norm(geometry.centers[i] - geometry.centers[s[0]]) for i, s in enumerate(sources) if s]
    unit = float(np.median(best)) if best else 1.0
    ranges = np.array([_inverse_range(views, geometry, samples[i], i, sources[i], len(seen[i])) for i in range(n)])
    return Neighbourhood(tuple(sources), ranges, unit)


@dataclass(frozen=True, slots=True)
class _Geometry:
    rotations: Float[np.ndarray, "n 3 3"]
    translations: Float[np.ndarray, "n 3"]
    centers: Float[np.ndarray, "n 3"]

    @classmethod
    def of(cls, views: Sequence[View]) -> _Geometry:
        rotations = np.stack([v.cam_from_world.rotation.double().numpy() for v in views])
        translations = np.stack([v.cam_from_world.translation.double().numpy() for v in views])
        return cls(rotations, translations, -np.einsum("nji,nj->ni", rotations, translations))


def _seen_points(views: Sequence[View], scene: Scene) -> list[np.ndarray]:
    """Per view the indices of the points observed in it, or of those that project into it where there are no tracks."""
    tracks = scene.tracks
    names = {name: k for k, name in enumerate(tracks.images)}
    image, point = tracks.image.numpy(), tracks.point.numpy()
    out = []
    for view in views:
        index = names.get(view.name)
        out.append(np.unique(point[image == index]) if index is not None else np.zeros(0, np.int64))
    if len(scene.points) and not any(len(s) for s in out):
        points = scene.points.double().numpy()
        for k, view in enumerate(views):
            out[k] = np.flatnonzero(_inside(view, points))
    return out


def _inside(view: View, points: Float[np.ndarray, "m 3"]) -> np.ndarray:
    rotation = view.cam_from_world.rotation.double().numpy()
    in_cam = points @ rotation.T + view.cam_from_world.translation.double().numpy()
    z = in_cam[:, 2]
    safe = np.where(z > 0, z, 1.0)
    camera = view.camera
    x = in_cam[:, 0] / safe * camera.focal[0] + camera.center[0]
    y = in_cam[:, 1] / safe * camera.focal[1] + camera.center[1]
    inside: np.ndarray = (z > 0) & (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
    return inside


def _samples(
    views: Sequence[View], geometry: _Geometry, scene: Scene, seen: Sequence[np.ndarray], i: int
) -> Float[np.ndarray, "m 3"]:
    """World points that stand for what view i shows: its sparse points, or its rays at the depth where axes meet."""
    if len(seen[i]) >= MIN_SHARED:
        return np.asarray(scene.points.double().numpy()[seen[i]])
    return np.asarray(_rays(views[i]) * _meeting_depth(geometry, i) @ geometry.rotations[i] + geometry.centers[i])


def _rays(view: View) -> Float[np.ndarray, "m 3"]:
    """Rays (x, y, 1) of a grid of pixels in the camera frame."""
    camera = view.camera
    x = ((np.arange(GRID) + 0.5) / GRID * camera.width - camera.center[0]) / camera.focal[0]
    y = ((np.arange(GRID) + 0.5) / GRID * camera.height - camera.center[1]) / camera.focal[1]
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return np.concatenate([grid, np.ones((len(grid), 1))], axis=1)


def _meeting_depth(geometry: _Geometry, i: int) -> float:
    """Median depth along the axis of view i at which other axes pass nearest; of parallel ones 8 times the baseline."""
    axis_i = geometry.rotations[i][2]
    depths = []
    for j in range(len(geometry.centers)):
        if j == i:
            continue
        axis_j = geometry.rotations[j][2]
        offset = geometry.centers[j] - geometry.centers[i]
        baseline = float(np.linalg.norm(offset))
        cosine = float(axis_i @ axis_j)
        sine2 = 1 - cosine * cosine
        if baseline == 0:
            continue
        if sine2 > np.sin(np.radians(3)) ** 2:
            s = float(offset @ axis_i - cosine * (offset @ axis_j)) / sine2
            t = float(cosine * (offset @ axis_i) - offset @ axis_j) / sine2
            if s > 0 and t > 0:
                depths.append(s)
                continue
        if cosine > 0.9:
            depths.append(8 * baseline)
    return float(np.median(depths)) if depths else 1.0


def _score(
    views: Sequence[View],
    geometry: _Geometry,
    scene: Scene,
    seen: Sequence[np.ndarray],
    samples: Sequence[np.ndarray],
    i: int,
    j: int,
) -> float:
    """How well view j serves as a source for view i, 0 not at all."""
    points = samples[i]
    share = _inside(views[j], points).astype(np.float64)
    if len(seen[i]) >= MIN_SHARED:
        # Points observed in both count in full; those that only project into the other view may be hidden there.
        share *= np.where(np.isin(seen[i], seen[j], assume_unique=True), 1.0, 0.1)
    to_i, to_j = geometry.centers[i] - points, geometry.centers[j] - points
    distance_i, distance_j = np.linalg.norm(to_i, axis=1), np.linalg.norm(to_j, axis=1)
    across = np.linalg.norm(np.cross(to_i, to_j), axis=1)
    angle = np.degrees(np.arctan2(across, (to_i * to_j).sum(axis=1)))
    width = np.where(angle < GOOD_ANGLE_DEG, BELOW_DEG, ABOVE_DEG)
    weight = np.exp(-((angle - GOOD_ANGLE_DEG) ** 2) / (2 * width**2)) + 0.01
    weight[(angle < MIN_ANGLE_DEG) | (angle > MAX_ANGLE_DEG)] = 0
    ratio = np.minimum(distance_i, distance_j) / np.maximum(np.maximum(distance_i, distance_j), 1e-300)
    total = float((share * weight * np.minimum(1, 1.5 * ratio)).sum())
    return total if total > MIN_SCORE * len(points) else 0.0


def _inverse_range(
    views: Sequence[View],
    geometry: _Geometry,
    points: Float[np.ndarray, "m 3"],
    i: int,
    sources: Sequence[int],
    seen: int,
) -> tuple[float, float]:
    """Lowest and highest inverse depth to search in view i (1 / scene unit)."""
    axis = geometry.rotations[i][2]
    if seen >= MIN_SHARED:
        z = (points - geometry.centers[i]) @ axis
        z = z[z > 0]
        if len(z) >= MIN_SHARED:
            near, far = np.percentile(z, (1, 99))
            return 0.5 / float(far), 1.6 / float(near)
    if not sources:
        return 0.1, 1.0
    # Depths at which some source sees a tenth of the view under a useful angle.
    middle = float(np.median((points - geometry.centers[i]) @ axis))
    rays = _rays(views[i])
    baselines = [float(np.linalg.norm(geometry.centers[j] - geometry.centers[i])) for j in sources]
    useful = []
    for depth in middle * np.geomspace(0.1, 10, 41):
        world = rays * depth @ geometry.rotations[i] + geometry.centers[i]
        shares = [
            _inside(views[j], world).mean()
            for j, b in zip(sources, baselines, strict=True)
            if MIN_ANGLE_DEG < np.degrees(np.arctan2(b, depth)) < MAX_ANGLE_DEG
        ]
        if shares and max(shares) > 0.1:
            useful.append(depth)
    if not useful:
        return 0.3 / middle, 3 / middle
    return 0.8 / max(useful), 1.25 / min(useful)
