"""Efficient LoFTR: the authors' outputs, padding and batches, layouts of checkpoints, the matcher, bad input."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from eloftr_scenes import NARROW, seeded_weights, shifted_photos, texture
from torch import Tensor

from vision3d.core import Image
from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.eloftr import EfficientLoFTR, EfficientLoFTRConfig, cell_update
from vision3d.matching.eloftr.checkpoint import build_eloftr
from vision3d.matching.eloftr.doubling import double_and_add
from vision3d.matching.eloftr.fine import match_windows, pixel_confidence, windows
from vision3d.matching.eloftr.fine_features import _near
from vision3d.matching.eloftr.match_windows import match_windows_in_cache
from vision3d.matching.eloftr.matcher import EfficientLoFTRMatcher
from vision3d.matching.eloftr.stem import convolve_grey
from vision3d.matching.eloftr.transformer import update_cells
from vision3d.matching.eloftr.valid import Extents
from vision3d.matching.winograd import all_tiles
from vision3d.sparse.microkernels import lanes

# Outputs of the authors' code in float64 (Apache-2.0, commit ffd4a46, rotary tables in float32, a quarter of the
# channels) with the weights of `seeded_weights` on `shifted_photos`; its coordinates have their zero at a pixel's
# centre. In float32 that code is 1.0e-4 to 1.2e-4 away from them, depending on the processor.
REFERENCE = np.load(Path(__file__).parent / "eloftr_reference.npz")


@pytest.fixture(scope="module")
def net() -> EfficientLoFTR:
    made = EfficientLoFTR(NARROW).eval()
    made.load_state_dict(seeded_weights(made, torch.from_numpy(REFERENCE["statistics"])))
    return made


def _match(net: EfficientLoFTR, *photos: Tensor, **sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode():
        found = net(*photos, **sizes)
    return found.points0, found.points1, found.scores


def test_equals_the_authors_code_in_float64(net: EfficientLoFTR) -> None:
    photos = tuple(photo.double() for photo in shifted_photos())
    exact = copy.deepcopy(net).double()
    assert max(_away_from_reference(exact, *photos)) < 1e-10
    points0, points1, scores = _match(exact, *photos)
    np.testing.assert_allclose(points0 - 0.5, REFERENCE["points0"], atol=1e-4)
    np.testing.assert_allclose(points1 - 0.5, REFERENCE["points1"], atol=1e-4)
    np.testing.assert_allclose(scores, REFERENCE["confidence"], atol=1e-4)
    assert len(scores) > 8


@pytest.mark.parametrize("fused", [False, True])
def test_equals_the_authors_code_in_float32(net: EfficientLoFTR, fused: bool) -> None:
    photos = shifted_photos()
    net = copy.deepcopy(net).fuse() if fused else net
    assert max(_away_from_reference(net, *photos)) < 4e-4  # values up to 10, of a standard deviation of 3.6
    points0, points1, scores = _match(net, *photos)
    np.testing.assert_allclose(points0 - 0.5, REFERENCE["points0"], atol=0.01)
    np.testing.assert_allclose(points1 - 0.5, REFERENCE["points1"], atol=0.01)
    np.testing.assert_allclose(scores, REFERENCE["confidence"], atol=1e-4)


def _away_from_reference(net: EfficientLoFTR, *photos: Tensor) -> list[float]:
    """Greatest difference of the coarse features of either photo."""
    with torch.inference_mode():
        cells = net.features(*photos).cells
    rows = [c[0].flatten(1).T[torch.from_numpy(REFERENCE["order"])].numpy() for c in cells]
    return [float(abs(ours - REFERENCE[name]).max()) for ours, name in zip(rows, ("cells0", "cells1"), strict=True)]


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 5), (7, 9)])
def test_cells_updated_in_blocks_equal_the_twin(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_update, "BLOCK", 60)  # several blocks, the last one short
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4 * rows, 4 * columns, 24, generator=generator)
    grid = torch.randn(2, rows, columns, 48, generator=generator)
    first = torch.randn(48, 24, generator=generator) / 24**0.5
    second = torch.randn(24, 48, generator=generator) / 48**0.5
    norm = torch.nn.LayerNorm(24)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(24, generator=generator))
        norm.bias.copy_(torch.randn(24, generator=generator))
        slow = update_cells(x, grid, first, second, 0.01, norm)
    fast = cell_update.update_cells_in_blocks(x, grid, first, second, 0.01, norm)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


def test_published_size_and_compact_size() -> None:
    assert sum(p.numel() for p in EfficientLoFTR(EfficientLoFTRConfig()).parameters()) == 16_025_216
    assert sum(p.numel() for p in EfficientLoFTR(EfficientLoFTRConfig.compact()).parameters()) < 2_000_000


def test_fused_equals_branches(net: EfficientLoFTR) -> None:
    photos = shifted_photos()
    fused = copy.deepcopy(net).fuse()
    assert not any("rbr_dense" in name for name in fused.state_dict())
    with torch.inference_mode():
        slow, fast = net.features(*photos), fused.features(*photos)
    torch.testing.assert_close(fast.cells[0], slow.cells[0], atol=5e-4, rtol=0)  # values up to 10
    torch.testing.assert_close(_match(fused, *photos)[1], _match(net, *photos)[1], atol=1e-3, rtol=0)


def test_a_batch_of_padded_photos_equals_single_calls(net: EfficientLoFTR) -> None:
    """Sizes that are no multiple of 8 or 32; what the canvas holds beyond a photo must not matter."""
    sizes = [(160, 224), (131, 203), (96, 224), (155, 100)]
    big0, big1 = shifted_photos()
    canvas0, canvas1 = big0.repeat(4, 1, 1, 1) + 0, big1.repeat(4, 1, 1, 1) + 0
    points = [_match(net, big0[..., :h, :w], big1[..., :h, :w]) for h, w in sizes]
    with torch.inference_mode():
        found = net(canvas0, canvas1, torch.tensor(sizes), torch.tensor(sizes))
    assert sum(len(p[0]) for p in points) == len(found) > 10
    for item, (points0, points1, scores) in enumerate(points):
        here = found.item == item
        torch.testing.assert_close(found.points0[here], points0, atol=0.01, rtol=0)
        torch.testing.assert_close(found.points1[here], points1, atol=0.01, rtol=0)
        torch.testing.assert_close(found.scores[here], scores, atol=1e-4, rtol=1e-3)
        height, width = sizes[item]
        assert (found.points0[here] < torch.tensor([width, height])).all()


def test_photos_of_different_sizes(net: EfficientLoFTR) -> None:
    photo0, photo1 = shifted_photos()
    small = photo1[..., :96, :160]
    points0, points1, _ = _match(net, photo0, small)
    back1, back0, _ = _match(net, small, photo0)
    assert len(points0) > 0 and len(back0) > 0
    assert (points1 < torch.tensor([160, 96])).all() and (back1 < torch.tensor([160, 96])).all()


@pytest.mark.parametrize(("scale", "reach"), [(2, 3), (2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_tiles_near_wanted_cells_are_those_of_their_pixels(scale: int, reach: int, share: float) -> None:
    mask = torch.rand(2, 12, 20, generator=torch.Generator().manual_seed(8)) < share
    pixels = mask.float()[:, None].repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    near = F.max_pool2d(pixels, 2 * reach + 1, 1, reach)
    assert torch.equal(_near(mask, scale, reach), F.max_pool2d(near, 4)[:, 0].nonzero())


@pytest.mark.parametrize(("height", "width", "outputs"), [(12, 20, 64), (7, 9, 16), (8, 1, 32)])
def test_the_first_convolution_equals_the_twin(height: int, width: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(5)
    grey, bias = torch.rand(2, height, width, generator=generator), torch.randn(outputs, generator=generator)
    weight = torch.randn(outputs, 1, 3, 3, generator=generator)
    right = F.leaky_relu(F.conv2d(grey[:, None], weight, bias, 2, 1), 0.1).permute(0, 2, 3, 1)
    made = convolve_grey(grey, weight.flatten(1).T.contiguous(), bias, 0.1)
    torch.testing.assert_close(made, right, atol=1e-5, rtol=0)


def test_a_doubled_map_is_added_as_by_interpolation() -> None:
    generator = torch.Generator().manual_seed(5)
    channels = 3 * lanes(4)
    coarse, fine = torch.randn(2, 6, 10, channels, generator=generator), torch.randn(2, 12, 20, 5, generator=generator)
    weight = torch.randn(channels, 5, generator=generator)
    doubled = F.interpolate(coarse.permute(0, 3, 1, 2), scale_factor=2.0, mode="bilinear").permute(0, 2, 3, 1)
    right = doubled + fine @ weight.T
    torch.testing.assert_close(double_and_add(coarse, fine, weight, all_tiles(2, 12, 20)), right, atol=1e-5, rtol=0)
    here = double_and_add(coarse, fine, weight, torch.tensor([[1, 2, 4]]))
    torch.testing.assert_close(here[1, 8:, 16:], right[1, 8:, 16:], atol=1e-5, rtol=0)
    assert int((here != 0).any(3).sum()) == 16
    with pytest.raises(ValueError, match="a weight"):
        double_and_add(coarse[:, 1:], fine, weight, torch.tensor([[1, 2, 4]]))


def test_windows_are_cut_from_the_doubled_map() -> None:
    half = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(4))
    full = torch.nn.functional.interpolate(half, scale_factor=2.0, mode="bilinear", align_corners=False)
    item, cell = torch.tensor([0, 1, 1]), torch.tensor([0, 7, 23])
    extents = Extents(torch.tensor([[32, 48]] * 2), (32, 48))
    ring = torch.nn.functional.unfold(full, 10, stride=8, padding=1).unflatten(1, (3, 100))
    expected = ring[item, :, :, cell].transpose(1, 2)
    torch.testing.assert_close(windows(half, item, cell, 6, 1, extents), expected)
    inner = expected.unflatten(1, (10, 10))[:, 1:-1, 1:-1].flatten(1, 2)
    torch.testing.assert_close(windows(half, item, cell, 6, 0, extents), inner)


def _transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names of the transformers library (5.23), written down from its state_dict."""
    branches = {"rbr_dense.conv": "conv1.conv", "rbr_dense.bn": "conv1.norm", "rbr_1x1.conv": "conv2.conv",
                "rbr_1x1.bn": "conv2.norm", "rbr_identity": "identity"}  # fmt: skip
    inside = {"aggregate": "aggregation.q_aggregation", "norm1": "aggregation.norm", "q_proj": "attention.q_proj",
              "k_proj": "attention.k_proj", "v_proj": "attention.v_proj", "merge": "attention.o_proj",
              "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2", "norm2": "mlp.layer_norm"}  # fmt: skip
    fine = {"layer3_outconv": "out_conv"}
    for level, i in ((2, 0), (1, 1)):
        for ours, theirs in (("", "1"), ("2.0", "2"), ("2.3", "3")):
            fine[f"layer{level}_outconv{ours}"] = f"out_conv_layers.{i}.out_conv{theirs}"
        fine[f"layer{level}_outconv2.1"] = f"out_conv_layers.{i}.batch_norm"
    renamed = {}
    for name, value in state.items():
        path, leaf = name.rsplit(".", 1)
        parts = path.split(".")
        if parts[0] == "backbone":
            stage, block = (0, 0) if parts[1] == "layer0" else (int(parts[1][-1]), int(parts[2]))
            branch = ".".join(parts[2:] if stage == 0 else parts[3:])
            path = f"backbone.stages.{stage}.blocks.{block}.{branches[branch]}"
        elif parts[0] == "loftr_coarse":
            kind = "cross_attention" if int(parts[2]) % 2 else "self_attention"
            rest = inside[".".join(parts[3:])]
            path = f"local_feature_transformer.layers.{int(parts[2]) // 2}.{kind}.{rest}"
        else:
            path = f"refinement_layer.{fine['.'.join(parts[1:])]}"
        prefix = "" if path.startswith("refinement") else "efficientloftr."
        renamed[f"{prefix}{path}.{leaf}"] = value
    assert len(renamed) == len(state)
    return renamed


@pytest.mark.parametrize("layout", ["bare", "matcher", "training", "transformers", "fused"])
def test_published_layouts_load(net: EfficientLoFTR, layout: str, tmp_path: Path) -> None:
    state = net.state_dict()
    if layout == "matcher":
        state = {f"matcher.{name}": value for name, value in state.items()}
    elif layout == "training":  # what reading {"state_dict": ..., "optimizer_states": ...} gives
        state = {f"state_dict.matcher.{name}": value for name, value in state.items()}
        state["optimizer_states.0.exp_avg"] = torch.zeros(3)
    elif layout == "transformers":
        state = _transformers_names(state)
    elif layout == "fused":
        state = copy.deepcopy(net).fuse().state_dict()
    loaded = build_eloftr(state, "test", NARROW)
    photos = shifted_photos()
    for ours, theirs in zip(_match(loaded, *photos), _match(net, *photos), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_wrong_checkpoints_are_refused(net: EfficientLoFTR) -> None:
    state = net.state_dict()
    short = {name: value for name, value in state.items() if name != "loftr_coarse.layers.3.merge.weight"}
    with pytest.raises(Vision3DError, match=r"lacks loftr_coarse\.layers\.3\.merge\.weight"):
        build_eloftr(short, "test", NARROW)
    with pytest.raises(Vision3DError, match="unknown extra"):
        build_eloftr({**state, "extra": torch.zeros(1)}, "test", NARROW)
    with pytest.raises(Vision3DError, match="another shape"):
        build_eloftr(state, "test", EfficientLoFTRConfig())
    with pytest.raises(Vision3DError, match="two tensors"):
        build_eloftr({**state, "matcher.backbone.layer0.rbr_dense.conv.weight": torch.zeros(1)}, "test", NARROW)


def test_matcher_answers_in_px_of_the_originals(net: EfficientLoFTR, tmp_path: Path) -> None:
    compact = EfficientLoFTR(replace(EfficientLoFTRConfig.compact(), threshold=0.0))
    seeded = seeded_weights(compact)
    torch.save({"state_dict": {f"matcher.{name}": value for name, value in seeded.items()}}, tmp_path / "w.ckpt")
    matcher = EfficientLoFTRMatcher(compact=True, threshold=0.0, weights=tmp_path / "w.ckpt")
    grey0, grey1 = (photo[0].expand(3, -1, -1).contiguous() for photo in shifted_photos())
    image0 = Image(grey0, "0", (448, 320), scale=(2.0, 2.0))
    image1 = Image(grey1, "1", (224, 160))
    found = matcher.match(image0, image1)
    plain = matcher.match(Image(grey0, "0", (224, 160)), image1)
    assert len(found) == len(plain) > 0
    torch.testing.assert_close(found.points0, 2 * plain.points0)
    torch.testing.assert_close(found.points1, plain.points1)
    assert len(matcher.match(Image(grey0[:, :20, :20], "tiny", (20, 20)), image1)) == 0
    with pytest.raises(UsageError, match="no published weights"):
        EfficientLoFTRMatcher(compact=True)


def test_odd_photos_give_no_nan(net: EfficientLoFTR) -> None:
    black, white = torch.zeros(1, 1, 64, 640), torch.ones(1, 1, 64, 640)
    for photo0, photo1 in ((black, black), (black, white), (white, texture(33, 64))):
        for values in _match(net, photo0, photo1):
            assert torch.isfinite(values).all()


def test_bad_input_is_named(net: EfficientLoFTR) -> None:
    photo, _ = shifted_photos()
    broken = photo.clone()
    broken[0, 0, 3, 4] = torch.nan
    for wrong, message in ((broken, "not finite"), (photo[:, :, :0], "empty"), (photo[:0], "empty")):
        with pytest.raises(ValueError, match=message):
            net(wrong, wrong)
    with pytest.raises(ValueError, match="sizes0"):
        net(photo, photo, torch.tensor([[500, 20]]))


def test_fine_features_are_right_around_wanted_cells(net: EfficientLoFTR) -> None:
    """The fused network computes only the tiles that windows of matched cells need."""
    photos = shifted_photos()
    fused = copy.deepcopy(net).fuse()
    with torch.inference_mode():
        features = fused.features(*photos)
        whole, _ = net.fine(features)
        wanted = torch.zeros(1, 20, 28, dtype=torch.bool)
        wanted[0, [0, 5, 19], [3, 27, 0]] = True
        part, none = fused.fine(features, (wanted, torch.zeros_like(wanted)))
    item, cell = torch.zeros(3, dtype=torch.int64), wanted.flatten().nonzero()[:, 0]
    for ring in (0, 1):
        right = windows(whole, item, cell, 28, ring, features.extents[0])
        torch.testing.assert_close(windows(part, item, cell, 28, ring, features.extents[0]), right, atol=1e-4, rtol=0)
    assert (part == 0).float().mean() > 0.8 and (none == 0).all()


@pytest.mark.parametrize("config", [NARROW, EfficientLoFTRConfig.compact()])
def test_windows_matched_in_cache_equal_the_twin(config: EfficientLoFTRConfig) -> None:
    """Cells at the photos' edges, photos that fill their canvas or not, coinciding and far logits."""
    generator = torch.Generator().manual_seed(0)
    c = config.widths[1]
    half0, half1 = (torch.randn(2, 16, 20, c, generator=generator) * s for s in (1.0, 4.0))
    sizes = (torch.tensor([[32, 40], [25, 31]]), torch.tensor([[32, 37], [19, 40]]))
    extents = tuple(Extents(s, (32, 40)) for s in sizes)
    item = torch.arange(2).repeat_interleave(12)
    cells = [torch.tensor([0, 1, 2, 5, 6, 7, 10, 11, 0, 1, 5, 6]).repeat(2), torch.arange(12).repeat(2)]
    views = [half.permute(0, 3, 1, 2) for half in (half0, half1)]
    windows0 = windows(views[0], item, cells[0], 5, 0, extents[0])
    windows1 = windows(views[1], item, cells[1], 5, 1, extents[1])
    limits = (extents[0].at(2), extents[1].at(2))
    rest = (config.fine_extra, config.fine_centre, config.fine_temperature)
    for strength in (1.0, 200.0):
        slow = match_windows(windows0 * strength, windows1, config)
        fast = match_windows_in_cache(half0 * strength, half1, item, tuple(cells), (5, 5), limits, *rest)
        confidence = pixel_confidence(windows0 * strength, windows1, config.fine_extra)
        chosen = confidence[torch.arange(24), fast[0], fast[1]]
        torch.testing.assert_close(chosen, confidence.flatten(1).amax(1), atol=0, rtol=1e-4)  # some pairs are as good
        same = (fast[0] == slow[0]) & (fast[1] == slow[1])
        assert same.all() or (strength > 1 and same.sum() > 12)
        torch.testing.assert_close(fast[2][same], slow[2][same], atol=1e-4, rtol=0)
