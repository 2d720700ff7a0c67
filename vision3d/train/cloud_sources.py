"""Where training pairs of point clouds come from: simulated rooms and streets, 3DMatch's and KITTI's layouts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vision3d.data.cloud_pairs import CloudPair
from vision3d.data.kitti_registration import KittiRegistrationDataset
from vision3d.data.simulation.rooms import SimulatedRooms, SimulatedRoomsConfig
from vision3d.data.simulation.streets import SimulatedStreets, SimulatedStreetsConfig
from vision3d.data.threedmatch import ThreeDMatchDataset
from vision3d.errors import UsageError
from vision3d.train.cloud_samples import PairSource
from vision3d.train.kept_pairs import KeptPairs


@dataclass(frozen=True, kw_only=True)
class CloudSourceConfig:
    """Which pairs to train and validate on."""

    data: Literal["rooms", "streets", "3dmatch", "kitti-odometry"] = "rooms"
    """rooms and streets are simulated; the others need `root`"""
    root: Path | None = None
    """folder in 3DMatch's or KITTI odometry's layout"""
    keep: Path | None = None
    """folder that keeps simulated pairs and KITTI's refined poses; null: simulate anew every time"""
    scenes: tuple[str, ...] = ()
    """3dmatch: scenes to train on"""
    held_out_scenes: tuple[str, ...] = ()
    """3dmatch: scenes to validate on"""
    count: int = 1000
    """simulated pairs to train on"""
    held_out: int = 24
    """pairs to validate on (simulated ones with another seed)"""
    overlap: tuple[float, float] = (0.25, 0.9)
    """of simulated rooms"""
    apart: float = 8.0
    """metres between the two scans of a simulated street"""
    seed: int = 0
    """of the simulation"""

    def __post_init__(self) -> None:
        if self.data in ("3dmatch", "kitti-odometry") and self.root is None:
            raise ValueError(f"data: {self.data} needs root, the folder of the data set")
        if self.data == "3dmatch" and not (self.scenes and self.held_out_scenes):
            raise ValueError("data: 3dmatch needs scenes and held_out_scenes")
        if self.data == "kitti-odometry" and self.keep is None:
            raise ValueError("data: kitti-odometry needs keep, a folder for its refined poses")
        if min(self.count, self.held_out) < 1:
            raise ValueError(f"count and held_out must be at least 1, got {self.count} and {self.held_out}")


class StreetPairs:
    """Two turns of the LiDAR in the same simulated street, the later one as source."""

    def __init__(self, streets: SimulatedStreets) -> None:
        if streets.config.frames_per_street != 2:
            raise ValueError(f"pairs need two frames a street, got {streets.config.frames_per_street}")
        self.streets = streets

    def __len__(self) -> int:
        return len(self.streets) // 2

    def __getitem__(self, index: int) -> CloudPair:
        first, second = self.streets[2 * index], self.streets[2 * index + 1]
        street_from_target = self.streets.street_from_lidar(2 * index)
        street_from_source = self.streets.street_from_lidar(2 * index + 1)
        return CloudPair(
            name=f"street/{index:06d}",
            scene="street",
            source=second.cloud,
            target=first.cloud,
            target_from_source=street_from_target.inverse() @ street_from_source,
        )


def pair_source(config: CloudSourceConfig, training: bool, cell: float) -> PairSource:
    """The pairs to train or to validate on. cell: simulated pairs that are kept are thinned to it, metres.

    UsageError for folders that are not what they should be.
    """
    if config.data == "3dmatch":
        assert config.root is not None
        return ThreeDMatchDataset(config.root, scenes=config.scenes if training else config.held_out_scenes)
    if config.data == "kitti-odometry":
        assert config.root is not None and config.keep is not None
        return KittiRegistrationDataset(config.root, config.keep, "train" if training else "val")
    count, seed = (config.count, 2 * config.seed) if training else (config.held_out, 2 * config.seed + 1)
    source: PairSource
    if config.data == "rooms":
        rooms = SimulatedRoomsConfig(count=count, seed=seed, overlap=config.overlap)
        source, description = SimulatedRooms(rooms), dataclasses.asdict(rooms)
    else:
        streets = SimulatedStreetsConfig(
            count=2 * count, seed=seed, frames_per_street=2, step=config.apart, in_view=False
        )
        source, description = StreetPairs(SimulatedStreets(streets)), dataclasses.asdict(streets)
    if config.keep is None:
        return source
    del description["count"]
    folder = config.keep / f"{config.data}-{'train' if training else 'held-out'}"
    try:
        return KeptPairs(source, folder, cell, description)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; give another folder to keep pairs in") from None
