"""Training of point features and of the vote network on simulated rooms: samples, losses, a few steps that learn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.core import PointCloud, RigidTransform
from vision3d.errors import UsageError
from vision3d.geometry.rotation import rotation_exp
from vision3d.train.cloud_samples import VoxelPairs, voxel_pair
from vision3d.train.cloud_sources import CloudSourceConfig, StreetPairs, pair_source
from vision3d.train.hough import Hough, HoughConfig
from vision3d.train.kept_pairs import KeptPair, KeptPairs
from vision3d.train.point_features import PointFeatures, PointFeaturesConfig
from vision3d.train.task import Task

ROOMS = CloudSourceConfig(count=2, held_out=1, overlap=(0.5, 0.9))


class Boxes:
    """One pair: a cloud of a box corner with a ball, and itself turned."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> KeptPair:
        random = np.random.default_rng(0)
        points = random.uniform(0, 1.5, (6000, 3))
        points[np.arange(6000), np.arange(6000) % 3] = 0
        ball = random.normal(size=(1500, 3))
        points = torch.from_numpy(
            np.concatenate([points, ball / np.linalg.norm(ball, axis=1, keepdims=True) * 0.3 + 0.6])
        )
        motion = RigidTransform(
            rotation_exp(torch.tensor([0.2, -0.4, 0.9])).double(), torch.tensor([1.0, 2, 3]).double()
        )
        return KeptPair(PointCloud(points.float()), PointCloud(motion.apply(points).float()), motion)


def test_samples_are_pure_and_matches_are_true() -> None:
    samples = VoxelPairs(Boxes(), 0.1, "occupancy", seed=3)
    first, again, later = samples.sample(0, 0), samples.sample(0, 0), samples.sample(0, 1)
    assert torch.equal(first.points0, again.points0) and torch.equal(first.matches, again.matches)
    assert not torch.equal(first.points0[:5], later.points0[:5])
    moved = first.target_from_source.apply(first.points0.double())[first.matches[:, 0]]
    apart = (moved - first.points1.double()[first.matches[:, 1]]).norm(dim=1)
    assert len(apart) > 0.9 * len(first.points0) and float(apart.max()) < 0.1


def test_clouds_are_scaled_and_moved() -> None:
    turned = RigidTransform(rotation_exp(torch.tensor([0, 0, 1.0]).double()), torch.zeros(3).double())
    pair = voxel_pair(Boxes()[0], 0.1, "occupancy", 2.0, (turned, RigidTransform.identity()))
    assert float(pair.points0.norm(dim=1).max()) == pytest.approx(2 * 1.5 * 2**0.5, abs=0.3)
    moved = pair.target_from_source.apply(pair.points0.double())[pair.matches[:, 0]]
    assert float((moved - pair.points1.double()[pair.matches[:, 1]]).norm(dim=1).max()) < 0.1


def test_pairs_are_kept_and_never_mixed_up(tmp_path: Path) -> None:
    kept = KeptPairs(Boxes(), tmp_path / "pairs", 0.02, {"of": "boxes"})
    first = kept[0]
    assert (tmp_path / "pairs" / "00000.npz").is_file()
    assert torch.equal(kept[0].source.points, first.source.points)
    torch.testing.assert_close(kept[0].target_from_source.matrix(), Boxes()[0].target_from_source.matrix())
    with pytest.raises(UsageError, match="other settings"):
        KeptPairs(Boxes(), tmp_path / "pairs", 0.02, {"of": "balls"})
    with pytest.raises(UsageError, match="something else"):
        KeptPairs(Boxes(), tmp_path, 0.02, {"of": "boxes"})


def test_sources_follow_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs root"):
        CloudSourceConfig(data="3dmatch")
    with pytest.raises(ValueError, match="held_out_scenes"):
        CloudSourceConfig(data="3dmatch", root=tmp_path)
    with pytest.raises(ValueError, match="needs keep"):
        CloudSourceConfig(data="kitti-odometry", root=tmp_path)
    with pytest.raises(UsageError):
        pair_source(CloudSourceConfig(data="kitti-odometry", root=tmp_path, keep=tmp_path), True, 0.1)
    streets = pair_source(CloudSourceConfig(data="streets", count=1), training=True, cell=0.1)
    assert isinstance(streets, StreetPairs)
    pair = streets[0]
    assert 6 < float(pair.target_from_source.translation.norm()) < 10
    both = voxel_pair(pair, 0.3, "occupancy", 1.0, (RigidTransform.identity(), RigidTransform.identity()))
    assert len(both.matches) > 0.3 * len(both.points0)


def test_3dmatch_scenes_are_trained_on(test_data: Path) -> None:
    source = CloudSourceConfig(
        data="3dmatch",
        root=test_data / "scans",
        scenes=("7-scenes-redkitchen",),
        held_out_scenes=("7-scenes-redkitchen",),
    )
    pair = pair_source(source, True, 0.0125)[0]
    both = voxel_pair(pair, 0.05, "occupancy", 1.0, (RigidTransform.identity(), RigidTransform.identity()))
    assert len(both.matches) > 0.25 * len(both.points0)


def test_point_features_learn() -> None:
    task = PointFeatures(PointFeaturesConfig(source=ROOMS, voxel=0.15, matches=128, negatives=256))
    assert isinstance(task, Task)
    batch = task.collate([task.dataset.sample(0, 0)])
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    values = []
    for _ in range(12):
        torch.manual_seed(0)
        losses = task.losses(batch)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        values.append(float(losses["loss"].detach()))
    assert values[-1] < 0.8 * values[0]
    task.model.eval()
    with torch.no_grad():
        metrics = task.validate()
    assert set(metrics) == {"inlier_ratio", "matched"} and 0 <= metrics["inlier_ratio"] <= 1


def test_a_pair_without_matches_has_no_loss() -> None:
    task = PointFeatures(PointFeaturesConfig(source=ROOMS, voxel=0.2))
    far = RigidTransform(torch.eye(3).double(), torch.tensor([50.0, 0, 0]).double())
    pair = KeptPair(Boxes()[0].source, Boxes()[0].source, far)
    sample = voxel_pair(pair, 0.2, "fpfh", 1.0, (RigidTransform.identity(), RigidTransform.identity()))
    assert len(sample.matches) == 0
    losses = task.losses(task.collate([sample]))
    losses["loss"].backward()
    assert float(losses["loss"].detach()) == 0


def test_vote_network_learns() -> None:
    task = Hough(HoughConfig(source=ROOMS, voxel=0.1, triplets=2000))
    assert isinstance(task, Task)
    sample = next(s for s in (task.dataset.sample(i, e) for e in range(3) for i in range(2)) if s.row >= 0)
    batch = task.collate([sample])
    optimiser = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    values = []
    for _ in range(10):
        losses = task.losses(batch)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        values.append(float(losses["loss"].detach()))
    assert values[-1] < 0.8 * values[0]
    task.model.eval()
    with torch.no_grad():
        metrics = task.validate()
    assert set(metrics) == {"voted", "found", "plain"} and metrics["found"] <= metrics["voted"]
