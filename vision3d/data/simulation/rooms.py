"""Pairs of fragments of simulated rooms with true transforms, to train and to test registration on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.spatial import cKDTree

from vision3d.core import PointCloud, RigidTransform, UsageError
from vision3d.data.simulation.depth_camera import DepthCameraConfig, depth_points, fragment, look
from vision3d.data.simulation.furniture_files import read_models
from vision3d.data.simulation.room import Room, sample_room

_ATTEMPTS = 4  # rooms to try until the overlap is in the range asked for
_TRIES = 12  # second views to choose from
_ASKED = 4000  # points of the source by which overlap is measured
_LEAST = 80  # coarse cubes in a view
_FLAT = 0.22  # m: deviation of a view's cubes from their plane, at least
_COARSE = 0.15  # m: cubes by which overlap is foreseen


@dataclass(frozen=True, slots=True)
class CloudPair:
    """overlap: share of the source's points that have one of the target within the radius asked about."""

    source: PointCloud
    target: PointCloud
    target_from_source: RigidTransform
    overlap: float


@dataclass(frozen=True, kw_only=True)
class SimulatedRoomsConfig:
    """What to simulate; a pair depends on these settings and its number alone, not on `count`."""

    count: int = 1000
    """Number of pairs."""
    seed: int = 0
    """Other seeds give other rooms."""
    overlap: tuple[float, float] = (0.1, 0.9)
    """Overlaps are spread over this range, as far as the rooms allow."""
    radius: float = 0.05
    """Metres within which points count as overlapping."""
    furniture: Path | None = None
    """Folder of Sweet Home 3D's catalogues (.sh3f) whose models join the own furniture."""
    camera: DepthCameraConfig = field(default_factory=DepthCameraConfig)
    """The depth camera."""


class SimulatedRooms(torch.utils.data.Dataset[CloudPair]):
    """Pairs of fragments, points float32 in metres, each in the frame of its first camera (x right, y down, z forward).

    Pair i of equal settings is always the same, in any order of access and with any number of threads.

    Raises:
        UsageError: settings that make no sense.
    """

    def __init__(self, config: SimulatedRoomsConfig) -> None:
        low, high = config.overlap
        if config.count < 1 or config.seed < 0 or not 0 <= low <= high <= 1:
            raise UsageError(
                "simulated rooms need a count of at least 1, a seed of at least 0 and overlaps from 0 to 1, got "
                f"{config.count}, {config.seed} and {config.overlap}"
            )
        self.config = config
        self._models = [] if config.furniture is None else [m.corners for m in read_models(config.furniture)]

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> CloudPair:
        return self.pair(index)

    def pair(self, index: int) -> CloudPair:
        """The pair of this number. IndexError beyond the count."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        config = self.config
        low, high = config.overlap
        best, missed = None, np.inf
        for attempt in range(_ATTEMPTS):
            found = self._draw(np.random.default_rng([config.seed, index, attempt]))
            miss = max(low - found.overlap, found.overlap - high, 0.0)
            if miss < missed:
                best, missed = found, miss
            if miss == 0:
                break
        assert best is not None  # the first attempt misses by a finite amount
        return best

    def _draw(self, rng: np.random.Generator) -> CloudPair:
        config = self.config
        room = sample_room(rng, self._models)
        wish = float(rng.uniform(*config.overlap))
        ways = _ways(rng, room, config.camera, wish)
        source, target = (fragment(rng, room.corners, way, config.camera) for way in ways)
        target_from_source = _transform(ways[1][0]).inverse() @ _transform(ways[0][0])
        clouds = [PointCloud(torch.from_numpy(c.astype(np.float32)), None, "camera") for c in (source, target)]
        moved = target_from_source.apply(torch.from_numpy(source)).numpy()
        return CloudPair(clouds[0], clouds[1], target_from_source, overlap(moved, target, config.radius))


def overlap(source: Float64[np.ndarray, "n 3"], target: Float64[np.ndarray, "m 3"], radius: float) -> float:
    """Share of the source's points with a point of the target within the radius, both in one frame.

    Of many points of the source every k-th is asked.
    """
    if not len(source) or not len(target):
        return 0.0
    asked = source[:: max(1, len(source) // _ASKED)]
    distance, _ = cKDTree(target, balanced_tree=False).query(asked, distance_upper_bound=radius)
    return float(np.isfinite(distance).mean())


def _ways(
    rng: np.random.Generator, room: Room, camera: DepthCameraConfig, wish: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two ways of the camera whose views share about `wish` of the first's, and neither of which sees a mere wall."""
    for _ in range(20):
        first = _way(rng, room, camera, None)
        seen = _cubes(room, first, camera)
        if _is_varied(seen):
            break
    numbers = _numbers(seen)
    best, ways = np.inf, (first, first)
    for _ in range(_TRIES):
        second = _way(rng, room, camera, (first, 1.0 - wish))
        other = _cubes(room, second, camera)
        share = len(np.intersect1d(numbers, _numbers(other), assume_unique=True)) / max(len(numbers), 1)
        if _is_varied(other) and abs(share - wish) < best:
            best, ways = abs(share - wish), (first, second)
        if best < 0.05:
            break
    return ways


def _way(
    rng: np.random.Generator, room: Room, camera: DepthCameraConfig, near: tuple[list[np.ndarray], float] | None
) -> list[Float64[np.ndarray, "3 4"]]:
    """A short handheld way through the room; near: by another way, as far from it as the number from 0 to 1 says."""
    half = np.array(room.size) / 2
    if near is None:
        position = np.array([*(rng.uniform(-0.75, 0.75, 2) * half[:2]), rng.uniform(0.9, 1.7)])
        toward = rng.uniform(-0.6, 0.6, 2) * half[:2] - position[:2]
        yaw, pitch = np.arctan2(toward[1], toward[0]) + rng.normal(0, 0.5), rng.uniform(-0.6, 0.1)
    else:
        start, apart = near[0][0], near[1]
        position = start[:, 3] + rng.normal(0, 0.15 + 0.8 * apart, 3) * (1, 1, 0.3)
        ahead = start[:, 2]
        yaw = np.arctan2(ahead[1], ahead[0]) + rng.normal(0, 0.1 + 1.0 * apart)
        pitch = np.arcsin(np.clip(ahead[2], -1, 1)) + rng.normal(0, 0.05 + 0.3 * apart)
    pitch = float(np.clip(pitch, -0.9, 0.3))
    roll = float(rng.normal(0, 0.08))
    step = rng.normal(0, 0.25, 3) * (1, 1, 0.4)
    turn, nod = rng.normal(0, 0.35), rng.normal(0, 0.12)
    poses = []
    for share in np.linspace(0, 1, camera.views):
        at = np.clip(
            position + share * step, (-half[0] + 0.3, -half[1] + 0.3, 0.6), (half[0] - 0.3, half[1] - 0.3, 2.0)
        )
        poses.append(look(at, float(yaw + share * turn), pitch + float(share * nod), roll))
    return poses


def _cubes(room: Room, way: list[np.ndarray], camera: DepthCameraConfig) -> Int64[np.ndarray, "n 3"]:
    """Coarse cubes that the first and last view see."""
    seen = [
        depth_points(room.corners, pose, camera, shrink=4)[0] @ pose[:, :3].T + pose[:, 3] for pose in (way[0], way[-1])
    ]
    return np.unique(np.floor(np.concatenate(seen) / _COARSE).astype(np.int64), axis=0)


def _numbers(cubes: Int64[np.ndarray, "n 3"]) -> Int64[np.ndarray, " n"]:
    shifted = cubes + 512
    out: Int64[np.ndarray, " n"] = (shifted[:, 0] * 1024 + shifted[:, 1]) * 1024 + shifted[:, 2]
    return out


def _is_varied(cubes: Int64[np.ndarray, "n 3"]) -> bool:
    """Whether a view shows enough, and more than a plane: what does not cannot be registered."""
    if len(cubes) < _LEAST:
        return False
    return float(np.linalg.eigvalsh(np.cov(cubes.T * _COARSE))[0]) > _FLAT**2


def _transform(pose: Float64[np.ndarray, "3 4"]) -> RigidTransform:
    return RigidTransform(torch.from_numpy(pose[:, :3].copy()), torch.from_numpy(pose[:, 3].copy()))
