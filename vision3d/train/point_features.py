"""Trains point features (FCGF) with the hardest-contrastive loss on pairs of point clouds.

C. Choy et al., "Fully Convolutional Geometric Features", ICCV 2019, sections 3.2 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.data.collate import Batch, collate
from vision3d.matching.hough.fcgf import COMPACT, KITTI, THREEDMATCH, Fcgf
from vision3d.matching.hough.feature_loss import hardest_contrastive
from vision3d.matching.hough.feature_matches import mutual_matches
from vision3d.matching.hough.isotropy import keep_isotropic
from vision3d.matching.hough.voxels import voxel_tensor
from vision3d.train.cloud_samples import VoxelPair, VoxelPairs
from vision3d.train.cloud_sources import CloudSourceConfig, pair_source

NETWORKS = {"compact": COMPACT, "3dmatch": THREEDMATCH, "kitti": KITTI}
INLIER = 2.0  # voxels between matched points that are right (10 cm at 5 cm, as for 3DMatch's FMR)
LEAST_RATIO = 0.05  # of inliers among the matches, for a pair to count as matched


@dataclass(frozen=True, kw_only=True)
class PointFeaturesConfig:
    """What is trained, on what, and how the loss is sampled."""

    source: CloudSourceConfig = field(default_factory=CloudSourceConfig)
    network: Literal["compact", "3dmatch", "kitti"] = "compact"
    """compact: under a million weights, on top of FPFH, with kernels that look alike in all directions"""
    voxel: float = 0.05
    """metres"""
    matches: int = 512
    """matches of a pair that enter the loss"""
    negatives: int = 2048
    """voxels of a cloud among which the hardest negative is sought"""
    safe_radius: float = 3.0
    """voxels around a match that are no negatives"""
    upright: bool = False
    """turn clouds about z alone (LiDAR scans)"""
    seed: int = 0
    """of the augmentation"""


class PointFeatures:
    """The task: hardest-contrastive on pairs; validation by mutual matches of held-out pairs."""

    main_metric = "inlier_ratio"
    collate = staticmethod(collate)

    def __init__(self, config: PointFeaturesConfig) -> None:
        self.config = config
        network = NETWORKS[config.network]
        self.model = Fcgf(network)
        if config.network == "compact":
            keep_isotropic(self.model)

        def samples(training: bool) -> VoxelPairs:
            pairs = pair_source(config.source, training, config.voxel / 4)
            scale = 1.15 if training else 1.0
            return VoxelPairs(pairs, config.voxel, network.inputs, config.seed, scale, config.upright)

        self.dataset, self.held_out = samples(True), samples(False)

    def losses(self, batch: Batch[VoxelPair]) -> dict[str, Tensor]:
        """The mean over pairs with matches of the positive and the negative term."""
        pairs = [batch[i] for i in range(len(batch))]
        features = self._features(pairs)
        terms = []
        for pair, (features0, features1) in zip(pairs, features, strict=True):
            if len(pair.matches) == 0:
                continue
            chosen = pair.matches[torch.randperm(len(pair.matches))[: self.config.matches].to(pair.matches.device)]
            few0, few1 = (torch.randperm(len(f))[: self.config.negatives].to(f.device) for f in (features0, features1))
            radius = self.config.safe_radius * self.config.voxel
            terms.append(
                torch.stack(
                    hardest_contrastive(
                        features0, features1, pair.points0, pair.points1, chosen, few0, few1, safe_radius=radius
                    )
                )
            )
        if not terms:
            nothing = features[0][0].sum() * 0
            return {"loss": nothing, "positive": nothing.detach(), "negative": nothing.detach()}
        positive, negative = torch.stack(terms).mean(dim=0)
        return {"loss": positive + negative, "positive": positive.detach(), "negative": negative.detach()}

    def validate(self) -> dict[str, float]:
        """Of held-out pairs: right ones among the mutual matches (mean), and pairs with more than 5 % of them."""
        ratios = []
        for index in range(min(len(self.held_out), self.config.source.held_out)):
            pair = self.held_out.sample(index, 0)
            features = self._features([pair])[0]
            found, _ = mutual_matches(features[0].cpu().numpy(), features[1].cpu().numpy())
            matches = torch.from_numpy(found)
            moved = pair.target_from_source.apply(pair.points0.double())[matches[:, 0]]
            apart = (moved - pair.points1.double()[matches[:, 1]]).norm(dim=1)
            ratios.append(float((apart < INLIER * self.config.voxel).double().mean()) if len(matches) else 0.0)
        return {
            "inlier_ratio": sum(ratios) / len(ratios),
            "matched": sum(ratio > LEAST_RATIO for ratio in ratios) / len(ratios),
        }

    def _features(self, pairs: list[VoxelPair]) -> list[tuple[Float[Tensor, "n c"], Float[Tensor, "m c"]]]:
        device = next(self.model.parameters()).device
        indices = [rows.to(device) for pair in pairs for rows in (pair.indices0, pair.indices1)]
        inputs = [rows.to(device) for pair in pairs for rows in (pair.inputs0, pair.inputs1)]
        features = self.model(voxel_tensor(indices, inputs)).split([len(rows) for rows in indices])
        return list(zip(features[::2], features[1::2], strict=True))


def build(config: PointFeaturesConfig) -> PointFeatures:
    """The task of these settings. UsageError for data that is not there."""
    return PointFeatures(config)
