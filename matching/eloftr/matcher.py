"""Efficient LoFTR as a matcher of photos: loads the weights at first use, answers in px of the originals."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vision3d.core import Correspondences, Image
from vision3d.errors import UsageError
from vision3d.matching.eloftr.checkpoint import load_eloftr
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.matching.eloftr.precision import to_16_bits
from vision3d.weights import content_of

MIN_SIDE = 32  # px; a smaller photo has no cell that is off its border


class EfficientLoFTRMatcher:
    """Semi-dense matches of two photos of any sizes, which keep their aspect.

    Matches have no shared keypoints: both sides are refined per pair. max_size: longer side in px. compact: the small
    network of this project; `weights` must then name a file that was trained. precision "bf16": see
    `to_16_bits`. threshold: on the confidence, border: cells along the edges that never match (None: the
    configuration's).
    """

    name = "eloftr"

    def __init__(
        self,
        *,
        max_size: int = 832,
        compact: bool = False,
        mode: Literal["full", "optimised"] = "full",
        threshold: float | None = None,
        border: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        device: str = "cpu",
        weights: Path | None = None,
    ) -> None:
        if compact and weights is None:
            raise UsageError("the compact network has no published weights: give the file of a training run as weights")
        if precision not in ("fp32", "bf16"):
            raise UsageError(f"precision must be fp32 or bf16, got {precision!r}")
        config = EfficientLoFTRConfig.compact() if compact else EfficientLoFTRConfig()
        usual = config.threshold if mode == "full" else 25.0
        self.config = replace(
            config,
            mode=mode,
            threshold=usual if threshold is None else threshold,
            border=config.border if border is None else border,
        )
        self.max_size, self.compact, self.precision = max_size, compact, precision
        self.device, self.weights = torch.device(device), weights

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        return {
            "name": self.name,
            "version": 1,
            "max_size": self.max_size,
            "compact": self.compact,
            "mode": self.config.mode,
            "threshold": self.config.threshold,
            "border": self.config.border,
            "precision": self.precision,
            "weights": self._weights_content,
        }

    def match(self, image0: Image, image1: Image) -> Correspondences:
        """Match two photos; empty where one is smaller than 32 px."""
        if min(*image0.size, *image1.size) < MIN_SIDE:
            return Correspondences.empty()
        with torch.inference_mode():
            found = self._network(self._grey(image0), self._grey(image1))
        points0, points1, scores = (t.float().cpu().clone() for t in (found.points0, found.points1, found.scores))
        return Correspondences(image0.to_original(points0), image1.to_original(points1), scores)

    def _grey(self, image: Image) -> Tensor:
        weights = image.rgb.new_tensor([0.299, 0.587, 0.114])  # as OpenCV makes grey photos, which the network was fed
        return torch.einsum("chw,c->hw", image.rgb, weights)[None, None].to(self.device)

    @functools.cached_property
    def _weights_content(self) -> str:
        return content_of(self.weights)

    @functools.cached_property
    def _network(self) -> EfficientLoFTR:
        net = load_eloftr(self.weights, self.config).to(self.device)
        return to_16_bits(net) if self.precision == "bf16" else net
