"""Semantic matchers on real photos and on bad input: every one of the catalogue that needs no files."""

import inspect

import pytest
import torch
from spair_copies import photo

from vision3d.core import Image, UsageError
from vision3d.matching.semantic.backbones import BACKBONES, Backbone, EfficientNetBackbone, XFeatBackbone
from vision3d.matching.semantic.base import SemanticMatcher
from vision3d.matching.semantic.catalogue import SEMANTIC_MATCHERS, make_semantic_matcher, split_name, with_options
from vision3d.matching.semantic.frozen import FrozenFeatures, TransferConfig, squash
from vision3d.matching.semantic.grid_matches import grid_matches
from vision3d.matching.semantic.position import Position
from vision3d.weights import find_weights

NAMES = [
    name
    for name in ("position", "efficientnet-lite0", "xfeat-dense")
    if name == "position" or find_weights({"xfeat-dense": "xfeat"}.get(name, name)) is not None
]
needs_weights = pytest.mark.skipif("efficientnet-lite0" not in NAMES, reason="weights are not installed")


def image(category: str, left: int = 0, top: int = 0, size: tuple[int, int] = (320, 256)) -> Image:
    rgb = torch.from_numpy(photo(category).copy()).permute(2, 0, 1).float() / 255
    return Image(rgb[:, top : top + size[1], left : left + size[0]].contiguous(), category, size)


def plain(rgb: torch.Tensor) -> Image:
    return Image(rgb, "made", (rgb.shape[2], rgb.shape[1]))


def test_every_name_makes_a_matcher_or_says_what_it_needs() -> None:
    for name, constructor in SEMANTIC_MATCHERS.items():
        source = inspect.signature(constructor).parameters.get("source")
        if source is None:
            matcher = make_semantic_matcher(name)
            assert isinstance(matcher, SemanticMatcher) and matcher.name == name and matcher.max_size >= 16
            with pytest.raises(UsageError, match="nothing after a colon"):
                make_semantic_matcher(f"{name}:file")
        elif source.default is inspect.Parameter.empty:
            with pytest.raises(UsageError, match=f"{name}:"):
                make_semantic_matcher(name)
    with pytest.raises(UsageError, match="known: position, efficientnet-lite0"):
        make_semantic_matcher("magic")


def test_a_name_may_end_in_options() -> None:
    name = with_options("efficientnet-lite0", rule="soft", flip=True, size=384)
    assert name == "efficientnet-lite0,rule=soft,flip,size=384"
    settings = make_semantic_matcher(name).settings
    assert (settings["rule"], settings["flip"], settings["size"]) == ("soft", True, 384)
    plain, other = (make_semantic_matcher(n).settings for n in ("efficientnet-lite0", "efficientnet-lite0,rule=mutual"))
    assert plain != other and {**plain, "rule": "mutual"} == other
    assert make_semantic_matcher("asic:3,size=256").settings["size"] == 256
    assert split_name("head:a,b/c,d.safetensors,flip") == ("head:a,b/c,d.safetensors", {"flip": ""})
    assert with_options("position") == "position"
    for wrong, words in (
        ("position,flip", "position takes no options, not flip"),
        ("head:file,size=64", "head takes rule and flip, not size"),
        ("asic,rule=soft", "asic takes size, not rule"),
        ("efficientnet-lite0,size=64,size=96", "says size twice"),
        ("efficientnet-lite0,size=64,fast", "options are rule=RULE, flip and size=PX, got fast"),
        ("efficientnet-lite0,flip=1", "got flip=1"),
        ("efficientnet-lite0,size", "got size"),
        ("efficientnet-lite0,size=large", "whole number of px, got large"),
        ("efficientnet-lite0,size=500", "multiple of 32"),
        ("efficientnet-lite0,rule=best", "one of nearest, mutual, soft, got best"),
        ("efficientnet-lite0,fast", "no semantic matcher is called 'efficientnet-lite0,fast'"),
    ):
        with pytest.raises(UsageError, match=words):
            make_semantic_matcher(wrong)
    with pytest.raises(UsageError, match="size given twice"):
        make_semantic_matcher("efficientnet-lite0,size=64", size=96)


def test_position_is_the_same_relative_place() -> None:
    matcher = Position()
    described = [matcher.describe(plain(torch.rand(3, *size))) for size in ((20, 40), (50, 30))]
    points = torch.tensor([[10.0, 5.0], [40.0, 20.0], [50.0, -3.0]])
    assert matcher.transfer(*described, points).tolist() == [[7.5, 12.5], [30.0, 50.0], [30.0, 0.0]]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_picture_twice_gives_the_same_points(name: str) -> None:
    matcher = make_semantic_matcher(name)
    described = matcher.describe(image("cup"))
    points = torch.rand(40, 2) * torch.tensor([280.0, 216.0]) + 20
    found = matcher.transfer(described, described, points)
    assert float((found - points).norm(dim=1).max()) < 10  # px; a cell of stride 16 is 10 x 8
    assert float((found - points).norm(dim=1).median()) < 3


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_shifted_photo_is_found_shifted(name: str) -> None:
    matcher = make_semantic_matcher(name)
    first, second = (matcher.describe(image("cat", *corner)) for corner in ((20, 30), (80, 70)))
    points = torch.rand(60, 2) * torch.tensor([200.0, 160.0]) + torch.tensor([80.0, 60.0])
    error = (matcher.transfer(first, second, points) - points + torch.tensor([60.0, 40.0])).norm(dim=1)
    assert float(error.median()) < 8
    assert float((error < 20).float().mean()) > 0.8


@needs_weights
def test_flip_finds_the_mirror_image() -> None:
    matcher = FrozenFeatures(EfficientNetBackbone(), size=256, transfer=TransferConfig(flip=True))
    upright = image("man")
    turned = Image(upright.rgb.flip(2), "mirrored", upright.original_size)
    points = torch.rand(40, 2) * torch.tensor([240.0, 176.0]) + 40
    found = matcher.transfer(matcher.describe(upright), matcher.describe(turned), points)
    wanted = torch.stack([320 - points[:, 0], points[:, 1]], dim=1)
    assert float((found - wanted).norm(dim=1).median()) < 10
    assert matcher.settings["flip"] is True and matcher.describe(upright).mirrored is not None


@pytest.mark.parametrize("name", NAMES)
def test_bad_pictures_are_said(name: str) -> None:
    matcher = make_semantic_matcher(name)
    for size in ((1, 1), (1, 50), (50, 1)):
        with pytest.raises(ValueError, match="too small"):
            matcher.describe(plain(torch.rand(3, *size)))
    rgb = torch.rand(3, 40, 40)
    rgb[0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        matcher.describe(plain(rgb))
    described = matcher.describe(plain(torch.full((3, 40, 30), 0.5)))  # nothing to see, and yet
    found = matcher.transfer(described, described, torch.tensor([[3.0, 4.0]]))
    assert torch.isfinite(found).all()
    with pytest.raises(ValueError, match="finite"):
        matcher.transfer(described, described, torch.tensor([[torch.inf, 4.0]]))


def test_squash_covers_the_whole_picture() -> None:
    ramp = (torch.arange(60) + 0.5).expand(3, 40, 60) / 60
    square = squash(plain(ramp.contiguous()), 30)
    assert square.shape == (1, 3, 30, 30)
    assert torch.allclose(square[0, 0, 10, 1:-1], (torch.arange(1, 29) + 0.5) / 30, atol=1e-4)


def test_sides_that_the_stride_does_not_divide_are_said() -> None:
    with pytest.raises(UsageError, match="multiple of 32 px for efficientnet-lite0, got 500: 512 would do"):
        FrozenFeatures(EfficientNetBackbone(), size=500)
    for backbone in (EfficientNetBackbone(), XFeatBackbone()):
        with pytest.raises(ValueError, match="multiples of 32 px, got 100x64: 96x64 would do"):
            backbone(torch.rand(1, 3, 64, 100))
    with pytest.raises(UsageError, match="stages"):
        EfficientNetBackbone(stages=(9,))
    with pytest.raises(UsageError, match="stride"):
        EfficientNetBackbone(stride=10)


@needs_weights
def test_backbones_keep_their_word() -> None:
    for name in NAMES[1:]:
        backbone = BACKBONES[name]()
        grid = backbone(torch.rand(2, 3, 64, 96))
        assert isinstance(backbone, Backbone) and not grid.requires_grad and not grid.is_inference()
        assert grid.shape == (2, backbone.channels, 64 // backbone.stride, 96 // backbone.stride)
    finer = EfficientNetBackbone(stages=(4, 6), stride=8)(torch.rand(1, 3, 64, 64))
    assert finer.shape == (1, 40 + 112, 8, 8)
    assert torch.allclose(finer[:, :40].norm(dim=1), torch.ones(1, 8, 8), atol=1e-5)


def test_grid_matches_come_back() -> None:
    pictures = plain(torch.rand(3, 40, 80)), plain(torch.rand(3, 100, 50))
    matches, tried = grid_matches(Position(), *pictures, points=8)
    assert tried == len(matches) == 32
    assert matches.points0[0].tolist() == [5.0, 5.0] and matches.points1[-1].tolist() == [46.875, 87.5]
    assert float(matches.scores.min()) > 0.999

    class Astray(Position):
        """Right half of the source goes to the target's corner."""

        def transfer(self, source, target, points):  # type: ignore[no-untyped-def]
            found = super().transfer(source, target, points)
            return torch.where(points[:, :1] > source.image_size[0] / 2, torch.zeros_like(found), found)

    matches, tried = grid_matches(Astray(), pictures[0], pictures[0], points=8)
    assert tried == 32 and len(matches) == 16 and float(matches.points0[:, 0].max()) < 40
    with pytest.raises(ValueError, match="1 point or more"):
        grid_matches(Position(), *pictures, points=0)
