"""Photos turned by quarter turns in the image plane, for matchers that are not invariant to rotation.

Turn k means `np.rot90(photo, k)`: k quarter turns counter-clockwise as displayed. Features of a turned photo are kept
in px of the upright original; matching turns the keypoints again, because LightGlue looks at where they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Correspondences, Image
from vision3d.matching.base import FeatureMatcher, Features, Matcher, Matches


def turn_points(points: Float[Tensor, "n 2"], size: tuple[int, int], k: int) -> Float[Tensor, "n 2"]:
    """px of a photo of `size` (width, height) to px of the same photo turned by k; its inverse is unturn_points."""
    width, height = size
    x, y = points[:, 0], points[:, 1]
    k %= 4
    if k == 0:
        return points
    if k == 1:
        return torch.stack([y, width - x], dim=1)
    if k == 2:
        return torch.stack([width - x, height - y], dim=1)
    return torch.stack([height - y, x], dim=1)


def unturn_points(points: Float[Tensor, "n 2"], size: tuple[int, int], k: int) -> Float[Tensor, "n 2"]:
    """px of the turned photo back to px of the upright one; `size` is that of the upright photo."""
    return turn_points(points, turned_size(size, k), -k)


def turned_size(size: tuple[int, int], k: int) -> tuple[int, int]:
    """(width, height) after k quarter turns."""
    return (size[1], size[0]) if k % 2 else size


def turn_image(image: Image, k: int) -> Image:
    """The photo turned by k; its "original" is the turned original, so `to_original` gives px of that."""
    k %= 4
    for _ in range(k):
        (sx, sy), (ox, oy), (width, height) = image.scale, image.offset, image.original_size
        image = Image(
            rgb=torch.rot90(image.rgb, 1, (1, 2)),
            name=image.name,
            original_size=(height, width),
            scale=(sy, sx),
            offset=(oy, width - image.size[0] * sx - ox),
        )
    return image


def turn_features(features: Features, k: int) -> Features:
    """Features in the frame of the photo turned by k (turn_features(..., -k) goes back); descriptors stay."""
    if k % 4 == 0:
        return features
    return Features(
        keypoints=turn_points(features.keypoints, features.image_size, k),
        descriptors=features.descriptors,
        scores=features.scores,
        scales=features.scales,
        angles=torch.remainder(features.angles - k * math.pi / 2, 2 * math.pi),
        image_size=turned_size(features.image_size, k),
    )


def extract_turned(matcher: FeatureMatcher, images: Sequence[Image], turns: Sequence[int]) -> list[Features]:
    """Features of each photo, described with it turned by its k, in px of the upright originals."""
    turned = [turn_image(image, k) for image, k in zip(images, turns, strict=True)]
    return [turn_features(features, -k) for features, k in zip(matcher.extract(turned), turns, strict=True)]


def match_turned(
    matcher: FeatureMatcher, features0: Features, features1: Features, turn0: int = 0, turn1: int = 0
) -> Matches:
    """Matches of features that `extract_turned` gave for these turns; indices hold for the features as passed."""
    return matcher.match_features(turn_features(features0, turn0), turn_features(features1, turn1))


def match_photos_turned(matcher: Matcher, image0: Image, image1: Image, turn1: int) -> Correspondences:
    """Matches of photo 0 and photo 1 turned by `turn1`, in px of the upright originals; for any matcher."""
    found = matcher.match(image0, turn_image(image1, turn1))
    return Correspondences(found.points0, unturn_points(found.points1, image1.original_size, turn1), found.scores)
