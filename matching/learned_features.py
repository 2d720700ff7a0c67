"""ALIKED and DISK features matched by LightGlue (Zhao 2023; Tyszkiewicz, NeurIPS 2020; Lindenberger, ICCV 2023)."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from kornia.feature import DISK
from kornia.feature.lightglue import LightGlue
from torch import Tensor

from vision3d.core import Correspondences, Image
from vision3d.matching.aliked import LeanAliked
from vision3d.matching.base import Features, Matches
from vision3d.matching.classical import enhance
from vision3d.matching.lightglue import build_lightglue, load_strictly, match_lightglue
from vision3d.weights import load_weights

# Where in a pixel the published DISK weights see a keypoint (0.5 is the centre): measured on nine pairs of real photos
# against themselves at 1/2, 1/3 and 2/3 of their size, 0.0 to 0.3.
DISK_CENTRE = 0.13

# Keypoints (px of the photo as given, pixel centres at +0.5), descriptors, scores; strongest first.
Detection = tuple[Tensor, Tensor, Tensor]


class LearnedMatcher(ABC):
    """Features from a network, matched by LightGlue: batching, photos with little texture, coordinates.

    max_size: longer side in px that photos should be loaded at. Photos with fewer than `min_keypoints` above
    `threshold` are searched again with local contrast enhanced (CLAHE), and their strongest `sparse_keypoints` local
    maxima are taken whatever their score. batch_pixels bounds memory: photos of one size run together up to it.
    Networks are loaded at first use (MissingWeightsError says what to install).
    """

    name: str
    min_side = 32  # px; smaller photos have no features

    def __init__(
        self,
        *,
        max_size: int,
        max_keypoints: int,
        threshold: float,
        min_keypoints: int,
        sparse_keypoints: int = 1024,
        filter_threshold: float = 0.1,
        depth_confidence: float = 0.95,
        width_confidence: float = 0.99,
        batch_pixels: int = 2_000_000,
        device: str = "cpu",
        detector_weights: Path | None = None,
        matcher_weights: Path | None = None,
    ) -> None:
        self.max_size = max_size
        self.max_keypoints = max_keypoints
        self.threshold = threshold
        self.min_keypoints = min_keypoints
        self.sparse_keypoints = sparse_keypoints
        self.filter_threshold = filter_threshold
        self.depth_confidence = depth_confidence
        self.width_confidence = width_confidence
        self.batch_pixels = batch_pixels
        self.device = torch.device(device)
        self.detector_weights = detector_weights
        self.matcher_weights = matcher_weights

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        return {
            "name": self.name,
            "version": 1,
            "max_size": self.max_size,
            "max_keypoints": self.max_keypoints,
            "threshold": self.threshold,
            "min_keypoints": self.min_keypoints,
            "sparse_keypoints": self.sparse_keypoints,
            "filter_threshold": self.filter_threshold,
            "depth_confidence": self.depth_confidence,
            "width_confidence": self.width_confidence,
            "detector_weights": str(self.detector_weights or ""),
            "matcher_weights": str(self.matcher_weights or ""),
        }

    @abstractmethod
    def _detect(self, rgb: Tensor, max_keypoints: int, threshold: float) -> list[Detection]:
        """Detections in each photo of a batch [b 3 h w] on the device."""

    @functools.cached_property
    @abstractmethod
    def _lightglue(self) -> LightGlue: ...

    @property
    @abstractmethod
    def _descriptor_dim(self) -> int: ...

    def extract(self, images: Sequence[Image]) -> list[Features]:
        """Features of each photo, strongest first; photos may differ in size."""
        out: dict[int, Features] = {}
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            by_size.setdefault(image.size, []).append(i)
        for (width, height), indices in by_size.items():
            step = max(1, self.batch_pixels // (width * height))
            for start in range(0, len(indices), step):
                batch = indices[start : start + step]
                out.update(zip(batch, self._extract([images[i] for i in batch]), strict=True))
        return [out[i] for i in range(len(images))]

    def match_features(self, features0: Features, features1: Features) -> Matches:
        """Match the features of two photos by LightGlue; scores are its confidences."""
        return match_lightglue(self._lightglue, features0, features1, self.device)

    def match(self, image0: Image, image1: Image) -> Correspondences:
        """Match two photos of any sizes."""
        features0, features1 = self.extract([image0, image1])
        return self.match_features(features0, features1).correspondences(features0, features1)

    def _extract(self, images: Sequence[Image]) -> list[Features]:
        if min(images[0].size) < self.min_side:
            none = torch.zeros(0, 2), torch.zeros(0, self._descriptor_dim), torch.zeros(0)
            return [self._features(image, none) for image in images]
        with torch.inference_mode():
            rgb = torch.stack([image.rgb for image in images]).to(self.device, torch.float32)
            detections = self._detect(rgb, self.max_keypoints, self.threshold)
            for i, image in enumerate(images):
                if len(detections[i][0]) < self.min_keypoints:
                    enhanced = enhance_rgb(image.rgb).to(self.device)[None]
                    budget = min(self.max_keypoints, self.sparse_keypoints)
                    detections[i] = self._detect(enhanced, budget, 0.0)[0]
        return [self._features(image, d) for image, d in zip(images, detections, strict=True)]

    def _features(self, image: Image, detection: Detection) -> Features:
        # clone: tensors made under inference_mode cannot be used in autograd later
        keypoints, descriptors, scores = (t.float().cpu().clone() for t in detection)
        return Features(
            keypoints=image.to_original(keypoints),
            descriptors=descriptors.half().float(),  # what the store keeps: a resumed run sees the same numbers
            scores=scores,
            scales=torch.full((len(keypoints),), float((image.scale[0] * image.scale[1]) ** 0.5)),
            angles=torch.zeros(len(keypoints)),
            image_size=image.original_size,
        )


class AlikedLightGlue(LearnedMatcher):
    """ALIKED-n16 with LightGlue: the best of the sparse matchers on wide baselines."""

    name = "aliked-lightglue"
    _descriptor_dim = 128

    def __init__(
        self,
        *,
        max_size: int = 1024,
        max_keypoints: int = 2048,
        threshold: float = 0.2,
        min_keypoints: int = 512,
        **options: object,
    ) -> None:
        super().__init__(
            max_size=max_size,
            max_keypoints=max_keypoints,
            threshold=threshold,
            min_keypoints=min_keypoints,
            **options,  # type: ignore[arg-type]
        )

    @functools.cached_property
    def _network(self) -> LeanAliked:
        net = LeanAliked.from_state("aliked-n16", load_weights("aliked-n16", self.detector_weights))
        net.to(self.device)
        return net

    @functools.cached_property
    def _lightglue(self) -> LightGlue:
        return build_lightglue(
            load_weights("aliked-lightglue", self.matcher_weights),
            source="aliked-lightglue",
            input_dim=128,
            filter_threshold=self.filter_threshold,
            depth_confidence=self.depth_confidence,
            width_confidence=self.width_confidence,
        ).to(self.device)

    def _detect(self, rgb: Tensor, max_keypoints: int, threshold: float) -> list[Detection]:
        return self._network.detect(rgb, max_keypoints=max_keypoints, threshold=threshold)


class DiskLightGlue(LearnedMatcher):
    """DISK (depth weights) with LightGlue: many well-spread keypoints, slower to extract."""

    name = "disk-lightglue"
    _descriptor_dim = 128

    def __init__(
        self,
        *,
        max_size: int = 1024,
        max_keypoints: int = 2048,
        threshold: float = 0.0,
        min_keypoints: int = 512,
        **options: object,
    ) -> None:
        super().__init__(
            max_size=max_size,
            max_keypoints=max_keypoints,
            threshold=threshold,
            min_keypoints=min_keypoints,
            **options,  # type: ignore[arg-type]
        )

    @functools.cached_property
    def _network(self) -> DISK:
        net = DISK()
        state = load_weights("disk-depth", self.detector_weights)
        state = {k.removeprefix("extractor."): v for k, v in state.items() if k.startswith("extractor.")}
        load_strictly(net, state, "disk-depth")
        return net.eval().to(self.device)

    @functools.cached_property
    def _lightglue(self) -> LightGlue:
        return build_lightglue(
            load_weights("disk-lightglue", self.matcher_weights),
            source="disk-lightglue",
            input_dim=128,
            filter_threshold=self.filter_threshold,
            depth_confidence=self.depth_confidence,
            width_confidence=self.width_confidence,
        ).to(self.device)

    def _detect(self, rgb: Tensor, max_keypoints: int, threshold: float) -> list[Detection]:
        out = []
        for photo in torch.split(rgb, 1):  # one at a time: 129 channels at full resolution take 360 MB for 1024 x 683
            height, width = photo.shape[-2:]
            photo = F.pad(photo, (0, -width % 16, 0, -height % 16), mode="replicate")
            heatmap, dense = self._network.heatmap_and_dense_descriptors(photo)
            heatmap, dense = heatmap[0, 0, :height, :width], dense[0, :, :height, :width]
            highest = F.max_pool2d(heatmap[None, None], 5, stride=1, padding=2)[0, 0]
            y, x = ((heatmap == highest) & (heatmap > threshold)).nonzero().unbind(dim=1)
            scores, order = heatmap[y, x].sort(descending=True, stable=True)
            order = order[:max_keypoints]
            x, y = x[order], y[order]
            descriptors = F.normalize(dense[:, y, x].T, dim=1)
            out.append((torch.stack([x, y], dim=1) + DISK_CENTRE, descriptors, scores[:max_keypoints]))
        return out


def enhance_rgb(rgb: Tensor) -> Tensor:
    """A photo [3 h w] in [0, 1] with the local contrast of its lightness enhanced (CLAHE on CIELAB's L)."""
    pixels = (rgb.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    lab = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2LAB)
    lab = np.dstack([enhance(np.ascontiguousarray(lab[..., 0])), lab[..., 1:]])
    return torch.from_numpy(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)).permute(2, 0, 1).float() / 255
