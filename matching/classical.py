"""SIFT with RootSIFT descriptors, ratio test and mutual check (Lowe, IJCV 2004; Arandjelovic and Zisserman, CVPR 2012).

Detection by OpenCV, several photos at once in threads; matching by an int8 product, see nearest.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vision3d.core import Correspondences, Image
from vision3d.matching.base import Features, Matches
from vision3d.matching.nearest import match_ratio, quantise

MIN_SIDE = 8  # px; OpenCV finds nothing in less


class Sift:
    """SIFT keypoints (up to `max_keypoints` by contrast), RootSIFT descriptors, ratio test and mutual check.

    max_size: longer side in px that photos should be loaded at. contrast_threshold: OpenCV's; 0.02 corresponds to
    COLMAP's default peak threshold. ratio, max_distance: see `match_ratio`. Photos with fewer than `min_keypoints`
    (little texture) are searched again with local contrast enhanced (CLAHE) and a quarter of the threshold.
    """

    name = "sift"

    def __init__(
        self,
        *,
        max_size: int = 1024,
        max_keypoints: int = 8192,
        contrast_threshold: float = 0.02,
        min_keypoints: int = 1000,
        ratio: float = 0.8,
        max_distance: float = 0.7,
    ) -> None:
        self.max_size = max_size
        self.max_keypoints = max_keypoints
        self.contrast_threshold = contrast_threshold
        self.min_keypoints = min_keypoints
        self.ratio = ratio
        self.max_distance = max_distance

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        return {
            "name": self.name,
            "version": 1,
            "max_size": self.max_size,
            "max_keypoints": self.max_keypoints,
            "contrast_threshold": self.contrast_threshold,
            "min_keypoints": self.min_keypoints,
            "ratio": self.ratio,
            "max_distance": self.max_distance,
        }

    def extract(self, images: Sequence[Image]) -> list[Features]:
        """Features of each photo (strongest first); photos are worked on in parallel, results do not depend on it."""
        workers = max(1, min(torch.get_num_threads(), len(images)))
        if workers == 1:
            return [self._extract(image) for image in images]
        with ThreadPoolExecutor(workers) as pool:  # OpenCV releases the interpreter lock
            return list(pool.map(self._extract, images))

    def match_features(self, features0: Features, features1: Features) -> Matches:
        """Mutual nearest neighbours that pass the ratio test."""
        return match_ratio(
            features0.descriptors, features1.descriptors, ratio=self.ratio, max_distance=self.max_distance
        )

    def match(self, image0: Image, image1: Image) -> Correspondences:
        """Match two photos of any sizes."""
        features0, features1 = self.extract([image0, image1])
        return self.match_features(features0, features1).correspondences(features0, features1)

    def _extract(self, image: Image) -> Features:
        if min(image.size) < MIN_SIDE:
            return empty_features(image, 128)
        grey = grey_uint8(image)
        keypoints, descriptors = self._detect(grey, self.contrast_threshold)
        if len(keypoints) < self.min_keypoints:
            keypoints, descriptors = self._detect(enhance(grey), self.contrast_threshold / 4)
        if not keypoints or descriptors is None:
            return empty_features(image, 128)
        order = np.argsort([-k.response for k in keypoints], kind="stable")[: self.max_keypoints]
        points = torch.from_numpy(np.asarray(cv2.KeyPoint.convert(keypoints))[order]) + 0.5  # OpenCV: centres at 0
        sizes = torch.tensor([keypoints[i].size for i in order])
        angles = torch.tensor([keypoints[i].angle for i in order]).deg2rad()
        return Features(
            keypoints=image.to_original(points),
            descriptors=root_sift(torch.from_numpy(descriptors[order])),
            scores=torch.tensor([keypoints[i].response for i in order]),
            scales=sizes * (image.scale[0] * image.scale[1]) ** 0.5,
            angles=angles,
            image_size=image.original_size,
        )

    def _detect(
        self, grey: UInt8[np.ndarray, "h w"], threshold: float
    ) -> tuple[Sequence[cv2.KeyPoint], Float[np.ndarray, "n 128"] | None]:
        # Without precise upscaling OpenCV's keypoints lie a quarter of a pixel off.
        detector = cv2.SIFT.create(
            nfeatures=self.max_keypoints, contrastThreshold=threshold, enable_precise_upscale=True
        )
        keypoints, descriptors = detector.detectAndCompute(grey, None)
        return keypoints, descriptors


def root_sift(descriptors: Float[Tensor, "n 128"]) -> Float[Tensor, "n 128"]:
    """RootSIFT: square root of the L1-normalised histogram, quantised (see nearest.py)."""
    total = descriptors.sum(dim=1, keepdim=True).clamp(min=1e-9)
    return quantise((descriptors / total).sqrt())


def grey_uint8(image: Image) -> UInt8[np.ndarray, "h w"]:
    """Luma (ITU-R BT.601) of a photo, 0..255."""
    luma = (image.rgb * image.rgb.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    grey: np.ndarray = (luma * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return np.ascontiguousarray(grey)


def enhance(grey: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Local contrast enhanced by CLAHE (Zuiderveld 1994), for surfaces with little texture."""
    return np.asarray(cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(grey))


def empty_features(image: Image, dim: int) -> Features:
    """No features, for a photo in which there is nothing to find."""
    none = torch.zeros(0)
    return Features(torch.zeros(0, 2), torch.zeros(0, dim), none, none, none, image.original_size)
