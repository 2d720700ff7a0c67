"""Trains Efficient LoFTR on rendered rooms, homographies of photos, MegaDepth or ScanNet (CVPR 2024, section 3.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vision3d.core import RigidTransform
from vision3d.data.collate import Batch, collate
from vision3d.data.dense_pairs import DensePair
from vision3d.eval.auc import auc_exact
from vision3d.eval.estimators import ESTIMATORS
from vision3d.eval.two_view import two_view_pose_error_deg
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.loss import MatchingLossConfig, matching_losses
from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.train.photo_pair_sources import PhotoPairSourceConfig, held_out_pairs, training_pairs

ESTIMATOR, THRESHOLD_PX = "opencv-ransac", 1.0  # px of the photos as they are matched


@dataclass(frozen=True, kw_only=True)
class EloftrTaskConfig:
    """What is trained, on what, and how the loss weighs."""

    source: PhotoPairSourceConfig = field(default_factory=PhotoPairSourceConfig)
    network: Literal["compact", "paper"] = "compact"
    """compact: a million weights, for a CPU"""
    loss: MatchingLossConfig = field(default_factory=MatchingLossConfig)


class EloftrTask:
    """The task: the paper's losses; validation by the pose that RANSAC makes of the matches of held-out pairs."""

    main_metric = "auc10"
    collate = staticmethod(collate)

    def __init__(self, config: EloftrTaskConfig) -> None:
        self.config = config
        self.model = EfficientLoFTR(
            EfficientLoFTRConfig.compact() if config.network == "compact" else EfficientLoFTRConfig()
        )
        self.dataset = training_pairs(config.source)
        self.held_out = held_out_pairs(config.source)

    def losses(self, batch: Batch[DensePair]) -> dict[str, Tensor]:
        """See `matching_losses`. ValueError if the photos of a batch differ in size."""
        if not all(isinstance(t, Tensor) for t in (batch.grey0, batch.grey1)):
            raise ValueError("photos of a batch must have one size; set train.batch_size to 1 or give one size")
        terms = matching_losses(
            self.model,
            batch.grey0,
            batch.grey1,
            batch.to1,
            batch.to0,
            self.config.loss,
            (batch.size0, batch.size1),
        )
        return {name: value if name == "loss" else value.detach() for name, value in terms.items()}

    def validate(self) -> dict[str, float]:
        """Pose AUC in percent at 5, 10 and 20 degrees, matches per pair, and the share of those with a true match
        that are within 1 and 3 px of it; without poses the last ones alone, and auc10 is the share within 3 px."""
        device = next(self.model.parameters()).device
        errors, counts, distances = [], [], []
        for pair in self.held_out:
            found = self.model(*(t[None].to(device) for t in (pair.grey0, pair.grey1, pair.size0, pair.size1)))
            points0, points1 = found.points0.float().cpu(), found.points1.float().cpu()
            counts.append(len(points0))
            distances.append(match_errors(pair, points0, points1))
            if pair.cam1_from_cam0.any():
                errors.append(pose_error_deg(pair, points0, points1))
        if not counts:
            return {}
        away = torch.cat(distances)
        shares = {f"within{t}": float((away < t).float().mean() * 100) if len(away) else 0.0 for t in (1, 3)}
        aucs = {f"auc{t}": auc_exact(errors, t) for t in (5, 10, 20)} if errors else {"auc10": shares["within3"]}
        return {**aucs, **shares, "matches": sum(counts) / len(counts)}


def match_errors(pair: DensePair, points0: Tensor, points1: Tensor) -> Tensor:
    """px from the true match of the pixel that a match starts in, moved along with it; those without truth left out."""
    if len(points0) == 0:
        return torch.zeros(0)
    h, w = pair.to1.shape[:2]
    column, row = points0.floor().long().unbind(1)
    column, row = column.clamp(0, w - 1), row.clamp(0, h - 1)
    away = points1 - (pair.to1[row, column] + points0 - points0.floor() - 0.5)
    distance: Tensor = away.norm(dim=1)
    return distance[torch.isfinite(distance)]


def pose_error_deg(pair: DensePair, points0: Tensor, points1: Tensor) -> float:
    """max(rotation, direction) error in degrees of OpenCV's RANSAC at 1 px, inf without an estimate."""
    k0, k1 = pair.k0.double(), pair.k1.double()
    estimate = ESTIMATORS[ESTIMATOR].relative_pose(points0.double(), points1.double(), k0, k1, THRESHOLD_PX, 0)
    truth = RigidTransform.from_matrix(pair.cam1_from_cam0.double())
    return float("inf") if estimate is None else two_view_pose_error_deg(estimate, truth)


def build(config: EloftrTaskConfig) -> EloftrTask:
    """The task of these settings. UsageError for data that is not there."""
    return EloftrTask(config)
