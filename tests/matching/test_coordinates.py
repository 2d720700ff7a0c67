"""Every matcher puts pixel centres at (0.5, 0.5) and returns px of the original: known shifts and scales of a photo."""

from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor

from vision3d.core import Image
from vision3d.matching.base import FeatureMatcher, Matcher
from vision3d.matching.catalogue import MATCHERS, make_matcher, weights_on_disk
from vision3d.matching.turns import (
    extract_turned,
    match_photos_turned,
    match_turned,
    turn_features,
    turn_image,
    turn_points,
    unturn_points,
)

OPTIONS: dict[str, dict[str, object]] = {"xfeat-semidense": {"max_cells": 2048}}


@pytest.fixture(
    scope="module",
    # Efficient LoFTR's trained weights, without which it finds nothing, are in no package.
    params=[
        pytest.param(n, marks=pytest.mark.slow) if n == "disk-lightglue" else n
        for n in MATCHERS
        if n not in ("eloftr", "dkm")
    ],
)
def matcher(request: pytest.FixtureRequest) -> Matcher:
    """Each matcher whose weights are here."""
    if not weights_on_disk(request.param):
        pytest.skip(f"the weights of {request.param} are not on this machine")
    options = OPTIONS.get(request.param, {} if request.param == "sift" else {"max_keypoints": 512})
    return make_matcher(request.param, **options)


def _photo() -> np.ndarray:
    """A part of a real photo, 448 x 480 px, RGB in [0, 1]."""
    rgb: np.ndarray = skimage.data.stereo_motorcycle()[0][30:478, 200:680].astype(np.float32) / 255
    return rgb


def _shrink(rgb: np.ndarray, factor: int) -> np.ndarray:
    """Mean over squares: px p of the original is px p / factor of the result, exactly."""
    height, width = rgb.shape[0] // factor * factor, rgb.shape[1] // factor * factor
    squares = rgb[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    out: np.ndarray = squares.mean((1, 3))
    return out


def _image(rgb: np.ndarray, original: tuple[int, int] | None = None, factor: float = 1.0) -> Image:
    pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)
    return Image(pixels, "photo", original or (rgb.shape[1], rgb.shape[0]), (factor, factor))


def _bias(matcher: Matcher, image0: Image, image1: Image, expected: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """Median error (x, y) of points1 against `expected(points0)` over matches that are right to 5 px, and how many."""
    found = matcher.match(image0, image1)
    error = found.points1 - expected(found.points0)
    right = error.norm(dim=1) < 5
    assert float(right.float().mean()) > 0.5
    # a mean, because whole-pixel keypoints have a median of plus or minus half a pixel
    return error[right & (error.norm(dim=1) < 3)].mean(dim=0), int(right.sum())


def test_half_pixel_shift(matcher: Matcher) -> None:
    rgb = _photo()
    image0, image1 = _image(_shrink(rgb, 2)), _image(_shrink(rgb[1:, 1:], 2))
    bias, count = _bias(matcher, image0, image1, lambda p: p - 0.5)
    assert count > 80
    assert float(bias.abs().max()) < (0.05 if matcher.name == "sift" else 0.3)


def test_half_size_gives_px_of_the_original(matcher: Matcher) -> None:
    rgb = _photo()
    image1 = _image(_shrink(rgb, 2), original=(rgb.shape[1], rgb.shape[0]), factor=2.0)
    bias, count = _bias(matcher, _image(rgb), image1, lambda p: p)
    assert count > 50
    # wrong by half a pixel on both sides would show as a bias of 0.5 px; the learned ones are noisy
    assert float(bias.abs().max()) < (0.16 if matcher.name == "sift" else 0.45)


def test_points_lie_in_the_photo_and_scores_in_0_1(matcher: Matcher) -> None:
    image = _image(_shrink(_photo(), 2))
    found = matcher.match(image, image)
    assert len(found) > 100
    size = torch.tensor(image.size)
    assert bool(((found.points0 >= 0) & (found.points0 <= size)).all())
    assert bool(((found.scores >= 0) & (found.scores <= 1)).all())


@pytest.mark.parametrize("k", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_turned_photo_gives_points_of_the_upright_one(matcher: Matcher, k: int) -> None:
    image = _image(_shrink(_photo(), 2))
    lying = turn_image(image, -k)  # as a camera on its side would take it; turning it by k makes it upright
    if isinstance(matcher, FeatureMatcher):
        features0, features1 = extract_turned(matcher, [image, lying], [0, k])
        assert features1.image_size == lying.original_size
        found = match_turned(matcher, features0, features1, 0, k).correspondences(features0, features1)
    else:
        found = match_photos_turned(matcher, image, lying, k)
    assert len(found) > 100
    error = (found.points1 - turn_points(found.points0, image.original_size, -k)).norm(dim=1)
    assert float(error.median()) < 0.5


@pytest.mark.parametrize("k", [0, 1, 2, 3, 5, -1])
def test_turns_of_points_follow_those_of_pixels(k: int) -> None:
    height, width = 4, 7
    rgb = torch.rand(3, height, width)
    image = Image(rgb, "x", (21, 8), (2.5, 1.5), (1.0, 0.5))
    turned = turn_image(image, k)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5
    in_turned = turn_points(centres, (width, height), k)
    col, row = in_turned.long().unbind(dim=1)
    assert torch.equal(turned.rgb[:, row, col], rgb.flatten(1))
    assert torch.allclose(unturn_points(in_turned, (width, height), k), centres)
    # to_original of the turned photo leads to the turned original
    expected = turn_points(image.to_original(centres), image.original_size, k)
    assert torch.allclose(turned.to_original(in_turned), expected)


def test_turned_features_go_back() -> None:
    matcher = make_matcher("sift")
    assert isinstance(matcher, FeatureMatcher)
    features = matcher.extract([_image(_shrink(_photo(), 2))])[0]
    for k in range(4):
        back = turn_features(turn_features(features, k), -k)
        assert torch.allclose(back.keypoints, features.keypoints, atol=1e-4)
        difference = torch.remainder(back.angles - features.angles + 1, 6.283185307) - 1
        assert float(difference.abs().max()) < 1e-4
        assert back.image_size == features.image_size


def test_sift_angles_turn_with_the_photo() -> None:
    matcher = make_matcher("sift")
    assert isinstance(matcher, FeatureMatcher)
    image = _image(_shrink(_photo(), 2))
    features0, features1 = matcher.extract([image, turn_image(image, 1)])
    matches = matcher.match_features(features0, features1)
    turned = turn_features(features0, 1)
    difference = features1.angles[matches.indices[:, 1]] - turned.angles[matches.indices[:, 0]]
    difference = torch.remainder(difference + torch.pi, 2 * torch.pi) - torch.pi
    assert float((difference.abs() < 0.2).float().mean()) > 0.9
