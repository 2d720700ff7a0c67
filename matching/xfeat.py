"""XFeat (Potje et al., CVPR 2024): sparse keypoints with LighterGlue, and semi-dense matches (XFeat*), by kornia.

Photos are resized to multiples of 32 before the network, and that resize is undone exactly.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from kornia.feature import XFeat
from kornia.feature.lightglue import LightGlue
from torch import Tensor

from vision3d.core import Correspondences, Image
from vision3d.matching.learned_features import Detection, LearnedMatcher
from vision3d.matching.lightglue import build_lightglue, load_strictly
from vision3d.matching.nearest import mutual_nearest
from vision3d.weights import load_weights

CELL = 8  # px of a cell of XFeat's feature map
# Where in a pixel the published weights see a sparse keypoint (0.5 is the centre), measured as below: 0.3 to 1.0.
KEYPOINT_CENTRE = 0.7
# Where the published weights see a cell's point, and the refinement's label that means "no shift". Measured on real
# photos against themselves, halved and doubled (the published code takes 0 and 4: 1 px off, 4 px under a change of
# scale); every photo tried gave 3.4 to 3.6 and 2.8 to 3.0.
ANCHOR = 3.5
STILL = 2.95


def load_xfeat(path: Path | None, device: torch.device) -> XFeat:
    """The network with its published weights, in evaluation mode."""
    model: XFeat = XFeat()
    load_strictly(model.net, load_weights("xfeat", path), "xfeat")
    model.eval().to(device)
    return model


def resize_to_multiple(rgb: Float[Tensor, "b 3 h w"], step: int = 32) -> tuple[Tensor, tuple[float, float]]:
    """Photos with sides rounded down to multiples of `step`, and the factors (x, y) from their px back to rgb's."""
    height, width = rgb.shape[-2:]
    size = (max(step, height // step * step), max(step, width // step * step))
    if size == (height, width):
        return rgb, (1.0, 1.0)
    return F.interpolate(rgb, size, mode="bilinear", align_corners=False), (width / size[1], height / size[0])


class XFeatLighterGlue(LearnedMatcher):
    """XFeat keypoints with LighterGlue: the cheapest learned features on a CPU."""

    name = "xfeat-lighterglue"
    _descriptor_dim = 64

    def __init__(
        self,
        *,
        max_size: int = 1024,
        max_keypoints: int = 2048,
        threshold: float = 0.05,
        min_keypoints: int = 512,
        depth_confidence: float = -1.0,
        width_confidence: float = 0.95,
        **options: object,
    ) -> None:
        super().__init__(
            max_size=max_size,
            max_keypoints=max_keypoints,
            threshold=threshold,
            min_keypoints=min_keypoints,
            depth_confidence=depth_confidence,
            width_confidence=width_confidence,
            **options,  # type: ignore[arg-type]
        )

    @functools.cached_property
    def _network(self) -> XFeat:
        return load_xfeat(self.detector_weights, self.device)

    @functools.cached_property
    def _lightglue(self) -> LightGlue:
        state = load_weights("xfeat-lighterglue", self.matcher_weights)  # it holds a copy of the extractor, too
        return build_lightglue(
            {k: v for k, v in state.items() if k.startswith("matcher.")},
            source="xfeat-lighterglue",
            input_dim=64,
            descriptor_dim=96,
            n_layers=6,
            num_heads=1,
            filter_threshold=self.filter_threshold,
            depth_confidence=self.depth_confidence,
            width_confidence=self.width_confidence,
        ).to(self.device)

    def _detect(self, rgb: Tensor, max_keypoints: int, threshold: float) -> list[Detection]:
        resized, (sx, sy) = resize_to_multiple(rgb)
        found = self._network.detectAndCompute(resized, top_k=max_keypoints, detection_threshold=threshold)
        factor = rgb.new_tensor([sx, sy])
        return [((f["keypoints"] + KEYPOINT_CENTRE) * factor, f["descriptors"], f["scores"]) for f in found]


@dataclass(frozen=True, slots=True)
class _Cells:
    """Described cells of one photo: anchor in px of the photo, descriptor, px of the photo per px of a refinement."""

    anchors: Float[Tensor, "n 2"]
    descriptors: Float[Tensor, "n 64"]
    steps: Float[Tensor, "n 2"]


class XFeatSemiDense:
    """XFeat*: cells of 8 px at two scales, mutual nearest neighbours, sub-cell refinement in photo 0 by a small MLP.

    Matches have no shared keypoints: photo 0's side is refined per pair. max_cells: cells described per photo.
    min_similarity: cosine below which cells do not match. min_confidence: of the refinement (the paper's 0.25).
    """

    name = "xfeat-semidense"
    min_side = 64  # px; 0.6 of it still gives a network input of 32 px

    def __init__(
        self,
        *,
        max_size: int = 1024,
        max_cells: int = 8192,
        min_similarity: float = 0.0,
        min_confidence: float = 0.25,
        device: str = "cpu",
        detector_weights: Path | None = None,
    ) -> None:
        self.max_size = max_size
        self.max_cells = max_cells
        self.min_similarity = min_similarity
        self.min_confidence = min_confidence
        self.device = torch.device(device)
        self.detector_weights = detector_weights
        # photos of the last pairs, so that matching one photo with many describes it once; the key holds the photo
        self._recent: OrderedDict[int, tuple[Image, _Cells]] = OrderedDict()

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        return {
            "name": self.name,
            "version": 1,
            "max_size": self.max_size,
            "max_cells": self.max_cells,
            "min_similarity": self.min_similarity,
            "min_confidence": self.min_confidence,
            "detector_weights": str(self.detector_weights or ""),
        }

    def match(self, image0: Image, image1: Image) -> Correspondences:
        """Match two photos of any sizes; scores are the refinement's confidence."""
        if min(*image0.size, *image1.size) < self.min_side:
            return Correspondences.empty()
        cells0, cells1 = self._cells(image0), self._cells(image1)
        with torch.inference_mode():
            # the published matcher compares raw descriptors, whose norm favours distinctive cells
            pairs, similarity = mutual_nearest(cells0.descriptors, cells1.descriptors)
            d0, d1 = cells0.descriptors[pairs[:, 0]], cells1.descriptors[pairs[:, 1]]
            if self.min_similarity > 0:
                cosine = similarity / (d0.norm(dim=1) * d1.norm(dim=1)).clamp(min=1e-9)
                keep = cosine > self.min_similarity
                pairs, d0, d1 = pairs[keep], d0[keep], d1[keep]
            logits = self._network.net.fine_matcher(torch.cat([d0, d1], dim=1)) if len(pairs) else d0.new_zeros(0, 64)
            probability = torch.softmax(3 * logits, dim=1)
            confidence = probability.amax(dim=1) if len(pairs) else logits.new_zeros(0)
            step = torch.arange(CELL, device=self.device) - STILL
            dy, dx = torch.meshgrid(step, step, indexing="ij")
            shift = probability @ torch.stack([dx.flatten(), dy.flatten()], dim=1)
            points0 = cells0.anchors[pairs[:, 0]] + shift * cells0.steps[pairs[:, 0]]
            points1 = cells1.anchors[pairs[:, 1]]
            keep = confidence > self.min_confidence
        points0, points1, confidence = (t[keep].cpu().clone() for t in (points0, points1, confidence))
        return Correspondences(image0.to_original(points0), image1.to_original(points1), confidence)

    @functools.cached_property
    def _network(self) -> XFeat:
        return load_xfeat(self.detector_weights, self.device)

    def _cells(self, image: Image) -> _Cells:
        known = self._recent.get(id(image))
        if known is not None:
            self._recent.move_to_end(id(image))
            return known[1]
        rgb = image.rgb.to(self.device, torch.float32)[None]
        parts = []
        with torch.inference_mode():
            for factor, count in ((0.6, self.max_cells // 5), (1.3, self.max_cells - self.max_cells // 5)):
                size = [max(32, int(side * factor) // 32 * 32) for side in rgb.shape[-2:]]
                scaled = F.interpolate(rgb, size, mode="bilinear", align_corners=False)
                parts.append(self._describe(scaled, (rgb.shape[-1] / size[1], rgb.shape[-2] / size[0]), count))
        cells = _Cells(*(torch.cat(t) for t in zip(*parts, strict=True)))
        self._recent[id(image)] = (image, cells)
        while len(self._recent) > 8:
            self._recent.popitem(last=False)
        return cells

    def _describe(self, rgb: Tensor, step: tuple[float, float], count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The `count` most reliable cells of a resized photo; step: px of the photo per px of `rgb`."""
        features, _, reliability = self._network.net(rgb)
        width = features.shape[-1]
        index = reliability.flatten().topk(min(count, reliability.numel())).indices
        corner = torch.stack([index % width, index // width], dim=1) * CELL
        factor = rgb.new_tensor(step)
        anchors = (corner + ANCHOR) * factor
        return anchors, features[0].flatten(1).T[index], factor.expand(len(index), 2)
