"""Pairs of scans of one simulated street with true transforms, to train and to test registration on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from vision3d.core import PointCloud, RigidTransform, UsageError
from vision3d.data.simulation.lidar import LidarConfig
from vision3d.data.simulation.rooms import CloudPair, overlap
from vision3d.data.simulation.street import StreetConfig
from vision3d.data.simulation.streets import SimulatedStreets, SimulatedStreetsConfig
from vision3d.geometry.rotation import rotation_exp


@dataclass(frozen=True, kw_only=True)
class SimulatedStreetPairsConfig:
    """What to simulate; a pair depends on these settings and its number alone, not on `count`."""

    count: int = 1000
    """Number of pairs."""
    seed: int = 0
    """Other seeds give other streets."""
    gap: tuple[float, float] = (2.0, 12.0)
    """Range of the way between the two scans, m; the sensor drives 10 m/s, and others move meanwhile."""
    turn_deg: float = 0.0
    """The source is turned about z by up to this angle to either side, as other drives through the street would be."""
    radius: float = 0.3
    """Metres within which points count as overlapping."""
    street: StreetConfig = field(default_factory=StreetConfig)
    """How full the streets are."""
    lidar: LidarConfig = field(default_factory=LidarConfig)
    """The sensor."""


class SimulatedStreetPairs(torch.utils.data.Dataset[CloudPair]):
    """Pairs of scans all around, in the frame "lidar", with intensities; the source is ahead of the target.

    Raises:
        UsageError: settings that make no sense.
    """

    def __init__(self, config: SimulatedStreetPairsConfig) -> None:
        low, high = config.gap
        if config.count < 1 or config.seed < 0 or not 0 < low <= high <= 20 or not 0 <= config.turn_deg <= 180:
            raise UsageError(
                "simulated street pairs need a count of at least 1, a seed of at least 0, gaps above 0 and up to 20 m "
                f"and a turn of 0 to 180 degrees, got {config.count}, {config.seed}, {config.gap} and {config.turn_deg}"
            )
        self.config = config

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> CloudPair:
        return self.pair(index)

    def pair(self, index: int) -> CloudPair:
        """The pair of this number. IndexError beyond the count."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        config = self.config
        rng = np.random.default_rng([config.seed, index, 4])
        frames = SimulatedStreets(
            SimulatedStreetsConfig(
                count=2 * index + 2,
                seed=config.seed,
                frames_per_street=2,
                step=float(rng.uniform(*config.gap)),
                in_view=False,
                street=config.street,
                lidar=config.lidar,
            )
        )
        target, source = (frames[2 * index + k].cloud for k in (0, 1))
        street_from_target, street_from_source = (frames.street_from_lidar(2 * index + k) for k in (0, 1))
        angle = np.deg2rad(rng.uniform(-1, 1) * config.turn_deg)
        turned_from_source = RigidTransform(
            rotation_exp(torch.tensor([0.0, 0.0, angle], dtype=torch.float64)), torch.zeros(3, dtype=torch.float64)
        )
        source = PointCloud(turned_from_source.apply(source.points.double()).float(), source.features, source.frame)
        target_from_source = street_from_target.inverse() @ street_from_source @ turned_from_source.inverse()
        moved = target_from_source.apply(source.points.double()).numpy()
        return CloudPair(
            source, target, target_from_source, overlap(moved, target.points.double().numpy(), config.radius)
        )
