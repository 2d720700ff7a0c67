"""Two photos: turned ones are matched, unrelated ones are told apart, chance is computed as published."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import skimage.data
import torch

from vision3d.core import Correspondences, Image
from vision3d.data.photos import load_photo
from vision3d.geometry.false_alarms import log10_nfa
from vision3d.matching.base import Features, Matches
from vision3d.matching.catalogue import make_matcher, weights_on_disk
from vision3d.matching.classical import Sift
from vision3d.matching.turns import turn_image
from vision3d.matching.two_photos import match_two_photos
from vision3d.matching.verify import agreement


def _stereo() -> tuple[Image, Image]:
    left, right, _ = skimage.data.stereo_motorcycle()
    images = [
        Image(torch.from_numpy(p[:400, :500].copy()).permute(2, 0, 1).float() / 255, "p", (500, 400))
        for p in (left, right)
    ]
    return images[0], images[1]


class UprightSift(Sift):
    """SIFT that takes every feature for upright, so that it fails across turns as learned features do."""

    def _extract(self, image: Image) -> Features:
        features = super()._extract(image)
        upright = (features.angles < math.pi / 4) | (features.angles > 7 * math.pi / 4)
        return Features(
            features.keypoints[upright],
            features.descriptors[upright],
            features.scores[upright],
            features.scales[upright],
            features.angles[upright],
            features.image_size,
        )


class WithoutFeatures:
    """A matcher that matches photos as a whole, as semi-dense ones do."""

    name = "whole"
    max_size = 1024
    settings: dict[str, object] = {"name": "whole"}  # noqa: RUF012

    def match(self, image0: Image, image1: Image) -> Correspondences:
        return UprightSift().match(image0, image1)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("whole", [False, True])
def test_photo_1_may_lie_on_its_side(k: int, whole: bool) -> None:
    first, second = _stereo()
    lying = turn_image(second, -k)
    found = match_two_photos(first, lying, WithoutFeatures() if whole else UprightSift())
    assert found.related and found.turn1 == k
    assert found.agreement.num_inliers > 60
    upright = match_two_photos(first, second, UprightSift()).matches
    assert abs(len(found.matches) - len(upright)) < 0.2 * len(upright)
    inside = (found.matches.points1 >= 0) & (found.matches.points1 <= torch.tensor(lying.original_size))
    assert bool(inside.all())


def test_noise_has_nothing_in_common() -> None:
    noise = [Image(torch.rand(3, 300, 400), "noise", (400, 300)) for _ in range(2)]
    assert not match_two_photos(noise[0], noise[1], make_matcher("sift")).related
    blank = Image(torch.full((3, 300, 400), 0.5), "blank", (400, 300))
    found = match_two_photos(blank, noise[1], make_matcher("sift"))
    assert not found.related and found.agreement.model == "none"


def test_photo_matches_itself() -> None:
    first, _ = _stereo()
    found = match_two_photos(first, first, make_matcher("sift"))
    assert found.related and found.agreement.num_inliers == len(found.matches)


def test_random_matches_agree_no_more_than_chance() -> None:
    size = (1000, 800)
    for seed in range(10):
        torch.manual_seed(seed)
        for n in (0, 3, 8, 30, 300):
            matches = Correspondences(
                torch.rand(n, 2) * torch.tensor(size), torch.rand(n, 2) * torch.tensor(size), torch.ones(n)
            )
            assert agreement(matches, size, size).log10_nfa > -3


def test_planted_geometry_is_found() -> None:
    size = (1000, 800)
    points = torch.rand(60, 2) * 600 + 100
    shifted = points * 0.8 + torch.tensor([30.0, -12.0])
    outliers = torch.rand(60, 2) * 800
    matches = Correspondences(torch.cat([points, outliers]), torch.cat([shifted, outliers.flip(0)]), torch.ones(120))
    found = agreement(matches, size, size)
    assert found.model == "homography" and found.matrix is not None
    assert bool(found.inliers[:60].all()) and found.num_inliers < 70
    expected = torch.tensor([[0.8, 0, 30], [0, 0.8, -12], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(found.matrix, expected, atol=1e-2)


def test_nfa_by_hand() -> None:
    # n = 10, k = 8, sample 4: (10 - 4) C(10, 8) C(8, 4) 0.01^4 = 6 * 45 * 70 * 1e-8 = 1.89e-4
    assert log10_nfa(10, 8, 4, 0.01) == pytest.approx(math.log10(1.89e-4))
    assert log10_nfa(10, 4, 4, 0.01) == math.inf


def test_empty_features_match_nothing() -> None:
    matcher = make_matcher("sift")
    assert isinstance(matcher, Sift)
    none: Sequence[Features] = matcher.extract([Image(torch.zeros(3, 4, 4), "x", (4, 4))])
    assert len(matcher.match_features(none[0], none[0])) == len(Matches.empty()) == 0


REAL = [
    ("homography/Boston", "sift"),
    ("epipolar/Leuven1", "sift"),
    ("homography/LePoint1", "aliked-lightglue"),
    ("epipolar/graff", "aliked-lightglue"),
    ("homography/city", "xfeat-semidense"),
]


@pytest.mark.parametrize(
    ("pair", "name"), [p if p[1] == "sift" else pytest.param(*p, marks=pytest.mark.slow) for p in REAL]
)
def test_real_pairs(test_data: Path, pair: str, name: str) -> None:
    if not weights_on_disk(name):
        pytest.skip(f"the weights of {name} are not on this machine")
    matcher = make_matcher(name)
    folder = test_data / "pairs" / pair
    first, second = (load_photo(folder / f"{i}.jpg", matcher.max_size) for i in (0, 1))
    found = match_two_photos(first, second, matcher, turns=(0,))
    assert found.related and found.agreement.num_inliers > 100
    other = load_photo(test_data / "pairs" / "homography" / "adam" / "1.jpg", matcher.max_size)
    assert not match_two_photos(first, other, matcher, turns=(0,)).related
