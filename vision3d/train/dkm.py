"""Trains DKM v3 on rendered rooms, homographies of photos, MegaDepth or ScanNet (CVPR 2023, sections 3.4 and 4.1).

On purpose unlike the authors' training: photos are grey, keep their aspect and are disturbed in light and sharpness
(theirs: coloured, squashed to the size, moved by up to 32 px); pairs are drawn evenly from the listed overlaps (theirs:
scenes by size to the power 0.25, pairs that overlap by more than 0.35 twice); one data set a run (their indoor
weights: a step on MegaDepth, a step on ScanNet).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vision3d.data.collate import Batch, collate
from vision3d.data.dense_pairs import DensePair
from vision3d.eval.auc import auc_exact
from vision3d.matching.dkm.checkpoint import build_dkm
from vision3d.matching.dkm.config import DKMConfig
from vision3d.matching.dkm.gaussian_process import pixel_grid
from vision3d.matching.dkm.loss import WarpLossConfig, warp_losses
from vision3d.matching.dkm.model import DKM
from vision3d.matching.dkm.sampling import balanced_sample
from vision3d.train.eloftr import pose_error_deg
from vision3d.train.photo_pair_sources import PhotoPairSourceConfig, held_out_pairs, training_pairs
from vision3d.train.task import ParameterGroup
from vision3d.weights import read_state_dict

POSE_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class DKMTaskConfig:
    """What is trained, on what, and how the loss weighs."""

    source: PhotoPairSourceConfig = field(default_factory=PhotoPairSourceConfig)
    start: Path | None = None
    """weights to begin with, in the published layout; null: drawn at random"""
    imagenet: Path | None = None
    """torchvision's ResNet-50 to begin the encoder with, as the authors do; not together with start"""
    encoder_lr: float = 0.05
    """the encoder's learning rate as a share of the decoder's"""
    loss: WarpLossConfig = field(default_factory=WarpLossConfig)

    def __post_init__(self) -> None:
        if self.start is not None and self.imagenet is not None:
            raise ValueError("give start or imagenet: start holds the encoder's weights, too")
        if self.encoder_lr < 0:
            raise ValueError(f"encoder_lr must not be negative, got {self.encoder_lr}")


class DKMTask:
    """The task: the paper's losses in float32; photos are grey, thrice. Validation by the warps of held-out pairs."""

    main_metric = "within3"
    collate = staticmethod(collate)

    def __init__(self, config: DKMTaskConfig) -> None:
        self.config = config
        network = DKMConfig()
        self.model = (
            DKM(network)
            if config.start is None
            else build_dkm(read_state_dict(config.start), str(config.start), network)
        )
        if config.imagenet is not None:
            self.model.encoder.load_imagenet(read_state_dict(config.imagenet), str(config.imagenet))
        self.dataset = training_pairs(config.source)
        self.held_out = held_out_pairs(config.source)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The encoder learns slower than the rest."""
        return [
            ParameterGroup(list(self.model.encoder.parameters()), self.config.encoder_lr),
            ParameterGroup(list(self.model.decoder.parameters())),
        ]

    def losses(self, batch: Batch[DensePair]) -> dict[str, Tensor]:
        """See `warp_losses`. ValueError if the photos of a batch differ in size."""
        grey0, grey1 = batch.grey0, batch.grey1
        if not (isinstance(grey0, Tensor) and isinstance(grey1, Tensor) and grey0.shape == grey1.shape):
            raise ValueError("photos of a batch must have one size; give one size")
        with torch.autocast(grey0.device.type, enabled=False):  # the Gaussian process needs float32
            made = self.model(_coloured(grey0), _coloured(grey1))
            terms = warp_losses(made, batch.to1, (grey1.shape[2], grey1.shape[3]), self.config.loss)
        return {name: value if name == "loss" else value.detach() for name, value in terms.items()}

    def validate(self) -> dict[str, float]:
        """Mean px between warp and truth ("epe"), percent within 1, 3 and 5 px; with poses, their AUC in percent."""
        device = next(self.model.parameters()).device
        distances, errors = [], []
        for pair in self.held_out:
            rgb = _coloured(torch.stack([pair.grey0, pair.grey1]).to(device))
            warps, certainty = (t.cpu() for t in self.model.match(rgb))
            h, w = certainty.shape[1:]
            half = warps.new_tensor([w / 2, h / 2])
            away = ((warps[0] + 1) * half - pair.to1).norm(dim=-1)
            distances.append(away[torch.isfinite(away)])
            if pair.cam1_from_cam0.any():
                matches = torch.cat([pixel_grid(h, w, warps), warps[0]], -1).reshape(-1, 4)
                generator = torch.Generator().manual_seed(0)
                chosen = balanced_sample(matches, certainty[0].flatten(), POSE_SAMPLES, self.model.config, generator)
                points = (matches[chosen].reshape(-1, 2, 2) + 1) * half
                errors.append(pose_error_deg(pair, points[:, 0], points[:, 1]))
        if not distances:
            return {}
        away = torch.cat(distances)
        shares = {f"within{t}": float((away < t).float().mean() * 100) if len(away) else 0.0 for t in (1, 3, 5)}
        aucs = {f"auc{t}": auc_exact(errors, t) for t in (5, 10, 20)} if errors else {}
        return {**shares, **aucs, "epe": float(away.mean()) if len(away) else 0.0}


def _coloured(grey: Tensor) -> Tensor:
    return grey.expand(-1, 3, -1, -1)


def build(config: DKMTaskConfig) -> DKMTask:
    """The task of these settings. UsageError for data that is not there."""
    return DKMTask(config)
