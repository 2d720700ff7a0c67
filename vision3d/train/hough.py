"""Trains the network that ranks the bins of a Hough space, on pairs of point clouds matched by FPFH.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, sections 3.3, 3.4 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.data.collate import Batch, collate
from vision3d.geometry.rotation import rotation_log
from vision3d.matching.hough.candidates import Votes, cast_votes
from vision3d.matching.hough.feature_matches import mutual_matches
from vision3d.matching.hough.features import describe
from vision3d.matching.hough.vote_loss import true_bin, vote_loss
from vision3d.matching.hough.vote_network import COMPACT, PAPER, VoteNetwork, vote_inputs, vote_tensor
from vision3d.train.cloud_samples import PairSource, random_motion
from vision3d.train.cloud_sources import CloudSourceConfig, pair_source

NETWORKS = {"compact": COMPACT, "paper": PAPER}
NEAR = 3  # bins along each axis from the true one that count as found


@dataclass(frozen=True, kw_only=True)
class HoughConfig:
    """What is trained, and on what."""

    source: CloudSourceConfig = field(default_factory=CloudSourceConfig)
    network: Literal["compact", "paper"] = "compact"
    voxel: float = 0.05
    """metres"""
    triplets: int = 20_000
    """triplets of matches that vote"""
    upright: bool = False
    """turn clouds about z alone (LiDAR scans)"""
    seed: int = 0
    """of turns and triplets"""


@dataclass(frozen=True, slots=True)
class VoteSample:
    """Bins with votes, the network's inputs, and the row of the true motion's bin: -1 where the votes missed it."""

    bins: Int[Tensor, "m 6"]
    inputs: Float[Tensor, "m c"]
    row: int


@dataclass(frozen=True)
class VoteSamples:
    """Training set: the votes of pairs whose clouds are turned at random; the order of a pair's clouds as well."""

    pairs: PairSource
    config: HoughConfig

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, epoch: int) -> VoteSample:
        """Pure in (seed, epoch, index)."""
        config = self.config
        random = np.random.default_rng((config.seed, epoch, index))
        pair = self.pairs[index]
        clouds, target_from_source = [pair.source, pair.target], pair.target_from_source
        if random.random() < 0.5:
            clouds, target_from_source = clouds[::-1], target_from_source.inverse()
        motions = [random_motion(random, 20 * config.voxel, config.upright) for _ in range(2)]
        sides = [
            describe(motion.apply(cloud.points.double()).numpy(), config.voxel)
            for cloud, motion in zip(clouds, motions, strict=True)
        ]
        moved = motions[1] @ target_from_source @ motions[0].inverse()
        rows, _ = mutual_matches(sides[0].features, sides[1].features)
        points0, points1 = (np.ascontiguousarray(s.points[rows[:, k]]) for k, s in enumerate(sides))
        votes = cast_votes(points0, points1, config.voxel, triplets=config.triplets, seed=int(random.integers(2**31)))
        if votes is None:
            return VoteSample(torch.zeros(0, 6, dtype=torch.int64), torch.zeros(0, 1), -1)
        shift = moved.rotation @ torch.from_numpy(sides[0].center) + moved.translation
        pose = torch.cat([rotation_log(moved.rotation), shift - torch.from_numpy(sides[1].center)])
        return vote_sample(votes, pose, NETWORKS[config.network].inputs)


def vote_sample(votes: Votes, pose: Float[Tensor, " 6"], inputs: Literal["votes", "smoothed"]) -> VoteSample:
    """pose: the true motion between the centred clouds, as rotation vector (rad) and translation."""
    bins = torch.from_numpy(votes.space.bins)
    sizes = torch.tensor([votes.rotation_bin] * 3 + [votes.translation_bin] * 3, dtype=torch.float64)
    row = true_bin(bins, pose.double(), sizes)
    return VoteSample(bins, vote_inputs(votes.space, inputs), -1 if row is None else row)


class Hough:
    """The task: the true motion's bin among all with votes; validation by the highest bin of held-out pairs."""

    main_metric = "found"
    collate = staticmethod(collate)

    def __init__(self, config: HoughConfig) -> None:
        self.config = config
        self.model = VoteNetwork(NETWORKS[config.network])
        self.dataset, self.held_out = (
            VoteSamples(pair_source(config.source, training, config.voxel / 4), config) for training in (True, False)
        )

    def losses(self, batch: Batch[VoteSample]) -> dict[str, Tensor]:
        """The mean over samples whose votes came near the true motion."""
        terms = []
        for bins, inputs, row in zip(batch.bins, batch.inputs, batch.row.tolist(), strict=True):
            sample = VoteSample(bins, inputs, row)
            if sample.row >= 0:
                terms.append(vote_loss(self._logits(sample), sample.row))
        if terms:
            return {"loss": torch.stack(terms).mean()}
        return {"loss": torch.stack([p.sum() for p in self.model.parameters()]).sum() * 0}

    def validate(self) -> dict[str, float]:
        """Of held-out pairs: those with votes near the true motion (`voted`), those whose highest bin is within three
        bins of it (`found`), and the same for the votes alone (`plain`; smoothed if the network sees them smoothed).
        """
        voted = found = plain = 0
        count = min(len(self.held_out), self.config.source.held_out)
        for index in range(count):
            sample = self.held_out.sample(index, 0)
            if sample.row < 0:
                continue
            voted += 1
            true = sample.bins[sample.row]
            for heights, learned in ((self._logits(sample), True), (sample.inputs[:, -1], False)):
                near = bool(((sample.bins[int(heights.argmax())] - true).abs() <= NEAR).all())
                found, plain = found + (near and learned), plain + (near and not learned)
        return {"voted": voted / count, "found": found / count, "plain": plain / count}

    def _logits(self, sample: VoteSample) -> Float[Tensor, " m"]:
        device = next(self.model.parameters()).device
        logits: Tensor = self.model(vote_tensor(sample.bins.cpu().numpy(), sample.inputs.cpu()).to(device))
        return logits


def build(config: HoughConfig) -> Hough:
    """The task of these settings. UsageError for data that is not there."""
    return Hough(config)
