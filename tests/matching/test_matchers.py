"""Laws of every matcher: batches, empty and tiny photos, settings; ALIKED against kornia's own code."""

import json

import kornia.feature
import pytest
import skimage.data
import torch

from vision3d.core import Image
from vision3d.matching.aliked import LeanAliked
from vision3d.matching.base import FeatureMatcher, Matcher
from vision3d.matching.catalogue import MATCHERS, make_matcher, weights_on_disk
from vision3d.matching.lightglue import FusedCrossBlock
from vision3d.weights import load_weights

needs_aliked = pytest.mark.skipif(not weights_on_disk("aliked-lightglue"), reason="ALIKED's weights are not here")


# Efficient LoFTR, whose weights no package carries, has the same tests with seeded ones in test_eloftr.py.
@pytest.fixture(scope="module", params=[name for name in MATCHERS if name not in ("eloftr", "dkm")])
def matcher(request: pytest.FixtureRequest) -> Matcher:
    if not weights_on_disk(request.param):
        pytest.skip(f"the weights of {request.param} are not on this machine")
    return make_matcher(
        request.param, **({} if request.param in ("sift", "xfeat-semidense") else {"max_keypoints": 256})
    )


def _photos(size: int = 192) -> list[Image]:
    left, right, _ = skimage.data.stereo_motorcycle()
    crops = [left[100 : 100 + size, 200 : 200 + size], right[100 : 100 + size, 180 : 180 + size]]
    return [
        Image(torch.from_numpy(c.copy()).permute(2, 0, 1).float() / 255, f"p{i}", (size, size))
        for i, c in enumerate(crops)
    ]


def _plain(width: int, height: int, value: float = 0.5) -> Image:
    return Image(torch.full((3, height, width), value), "plain", (width, height))


def test_batch_equals_single(matcher: Matcher) -> None:
    if not isinstance(matcher, FeatureMatcher):
        pytest.skip("this matcher has no features")
    photos = [*_photos(), _plain(64, 48)]
    together = matcher.extract(photos)
    for photo, features in zip(photos, together, strict=True):
        alone = matcher.extract([photo])[0]
        assert len(alone) == len(features)
        assert torch.allclose(alone.keypoints, features.keypoints, atol=1e-3)
        assert torch.allclose(alone.descriptors, features.descriptors, atol=2e-3)
        assert torch.equal(features.descriptors.half().float(), features.descriptors), "the store keeps half precision"
    scores = together[0].scores
    assert bool((scores[:-1] >= scores[1:] - 1e-2).all()), "strongest first"


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (7, 5), (31, 31), (32, 33), (64, 64), (200, 3)])
def test_tiny_and_blank_photos_give_typed_empty_results(matcher: Matcher, size: tuple[int, int]) -> None:
    tiny = _plain(*size)
    for first, second in ((tiny, tiny), (tiny, _photos(128)[0])):
        found = matcher.match(first, second)
        assert found.points0.shape[1] == 2 and found.points1.shape == found.points0.shape
        assert found.points0.dtype == torch.float32
        assert bool(torch.isfinite(found.points0).all()) and bool(torch.isfinite(found.scores).all())


def test_same_input_same_output(matcher: Matcher) -> None:
    first, second = _photos()
    a, b = matcher.match(first, second), matcher.match(first, second)
    assert torch.equal(a.points0, b.points0) and torch.equal(a.points1, b.points1)
    assert len(a) > 30


def test_settings_are_json_and_tell_matchers_apart(matcher: Matcher) -> None:
    assert json.loads(json.dumps(matcher.settings)) == matcher.settings
    assert matcher.settings["name"] == matcher.name


@needs_aliked
@pytest.mark.parametrize("size", [(96, 96), (100, 132)])
def test_lean_aliked_equals_kornia(size: tuple[int, int]) -> None:
    height, width = size
    photo = _photos()[0].rgb[None, :, :height, :width]
    state = load_weights("aliked-n16")
    reference = kornia.feature.ALIKED("aliked-n16", detection_threshold=0.2).eval()
    reference.load_state_dict(state, strict=False)
    with torch.inference_mode():
        expected = reference(photo)[0]
        points, descriptors, scores = LeanAliked.from_state("aliked-n16", state).detect(
            photo, max_keypoints=5000, threshold=0.2
        )[0]
    distance = ((points - 0.5)[:, None] - expected.keypoints[None]).norm(dim=-1)
    nearest, index = distance.min(dim=1)
    assert len(points) == expected.n > 20
    assert float(nearest.max()) < 1e-3
    assert torch.allclose(scores, expected.keypoint_scores[index], atol=1e-4)
    assert float((descriptors * expected.descriptors[index]).sum(dim=1).min()) > 0.9999


def test_fused_attention_equals_kornia() -> None:
    reference = kornia.feature.lightglue.CrossBlock(64, 4).eval()
    fused = FusedCrossBlock(64, 4).eval()
    fused.load_state_dict(reference.state_dict())
    a, b = torch.randn(1, 37, 64) * 4, torch.randn(1, 51, 64) * 4
    with torch.inference_mode():
        for x, y in zip(reference(a, b), fused(a, b), strict=True):
            assert torch.allclose(x, y, atol=1e-5)


@needs_aliked
def test_low_texture_is_searched_again() -> None:
    rgb = _photos()[0].rgb * 0.04 + 0.5  # a tenth of the contrast
    faint = Image(rgb, "faint", (256, 256))
    for name in ("sift", "aliked-lightglue"):
        strict, lenient = make_matcher(name, min_keypoints=0), make_matcher(name)
        assert isinstance(strict, FeatureMatcher) and isinstance(lenient, FeatureMatcher)
        assert len(lenient.extract([faint])[0]) > 2 * len(strict.extract([faint])[0])
