"""Pairs of a photo with itself under a random homography, of any folder of photos, disturbed in light and sharpness.

D. DeTone et al., "SuperPoint", CVPRW 2018, section 5.2: translation, scale, rotation in the plane and perspective.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float64

from vision3d.data.dense_pairs import DensePair, overlap, warp_by_homography
from vision3d.data.photos import load_photo, scan_folder
from vision3d.data.rendered.photometry import disturb

_ATTEMPTS = 20


class HomographyPairs:
    """Training set: sample i shows photo i, cut and warped as the epoch draws.

    size: width and height px of both pictures. least_overlap: share of the pixels that both show.

    Raises:
        UsageError: no such folder, or no photos in it that can be read.
    """

    def __init__(
        self, folder: str | Path, size: tuple[int, int], *, least_overlap: float = 0.25, seed: int = 0
    ) -> None:
        self.paths = [photo.path for photo in scan_folder(folder)[0]]
        self.size, self.least_overlap, self.seed = size, least_overlap, seed

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int, epoch: int) -> DensePair:
        """Pure in (seed, epoch, index). The more an attempt fails to overlap, the milder the next."""
        rng = np.random.default_rng((self.seed, epoch, index))
        width, height = self.size
        photo = load_photo(self.paths[index], 2 * max(width, height)).rgb.permute(1, 2, 0).numpy()
        grey = np.ascontiguousarray(photo @ np.array([0.299, 0.587, 0.114], np.float32))
        cut = _cut(rng, grey.shape, self.size)
        for attempt in range(_ATTEMPTS + 1):
            strength = 1 - attempt / _ATTEMPTS
            moved = random_homography(rng, self.size, strength)
            to1 = warp_by_homography(torch.from_numpy(moved), (height, width), (height, width))
            to0 = warp_by_homography(torch.from_numpy(np.linalg.inv(moved)), (height, width), (height, width))
            # What lies beyond the photo is black, and no part of a match.
            to1 = _within(to1, cut, np.eye(3), grey.shape)
            to0 = _within(to0, cut, np.linalg.inv(moved), grey.shape)
            if overlap(to1, to0) >= self.least_overlap:
                break
        pictures = [disturb(rng, _warped(grey, m @ cut, self.size)) for m in (np.eye(3), moved)]
        greys = [torch.from_numpy(p)[None] for p in pictures]
        none = torch.zeros(3, 3)
        whole = torch.tensor([height, width])
        return DensePair(greys[0], greys[1], to1, to0, none, none, torch.zeros(4, 4), whole, whole)


def random_homography(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Float64[np.ndarray, "3 3"]:
    """H_1_from_0 in px of a picture of this size; strength 0: the identity, 1: up to 45 degrees, twice or half."""
    width, height = size
    angle = np.clip(rng.normal(0, 0.35), -0.8, 0.8) * strength
    scale = np.exp(np.clip(rng.normal(0, 0.3), -0.7, 0.7) * strength)
    shift = rng.normal(0, 0.15, 2) * strength * (width, height)
    tilt = rng.normal(0, 0.2, 2) * strength / max(width, height)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    to_middle = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    turn = np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]])
    perspective = np.array([[1, 0, 0], [0, 1, 0], [tilt[0], tilt[1], 1]])
    out: Float64[np.ndarray, "3 3"] = np.linalg.inv(to_middle) @ turn @ perspective @ to_middle
    return out


def _cut(rng: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int]) -> Float64[np.ndarray, "3 3"]:
    """From px of the photo to px of photo 0: a part of its aspect, at least two thirds of what fits."""
    width, height = size
    scale = max(width / shape[1], height / shape[0])
    scale *= float(rng.uniform(1.0, 1.5))
    room = np.array([shape[1] - width / scale, shape[0] - height / scale])
    corner = rng.uniform(0, 1, 2) * np.maximum(room, 0)
    return np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]], [0, 0, 1]])


def _warped(grey: np.ndarray, moved: Float64[np.ndarray, "3 3"], size: tuple[int, int]) -> np.ndarray:
    """The picture under a homography of px whose first pixel's centre is at 0.5; OpenCV counts from 0."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    integer = np.linalg.inv(half) @ moved @ half
    out: np.ndarray = cv2.warpPerspective(grey, integer, size, flags=cv2.INTER_LINEAR).astype(np.float32)
    return out


def _within(to: torch.Tensor, cut: np.ndarray, picture0_from_own: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
    """NaN for pixels that show nothing of the photo."""
    height, width = to.shape[:2]
    inverse = torch.from_numpy(np.linalg.inv(cut) @ picture0_from_own)
    return torch.where(
        torch.isfinite(warp_by_homography(inverse, (height, width), (shape[0], shape[1]))), to, torch.nan
    )
