"""DKM v3: equal to the authors' network on seeded weights, fast paths to plain layers; checkpoints; bad input."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dkm_scenes import photos, seeded_weights

from vision3d.core import Image
from vision3d.errors import MissingWeightsError, UsageError, Vision3DError
from vision3d.matching.dkm import DKM, DKMConfig
from vision3d.matching.dkm.checkpoint import build_dkm
from vision3d.matching.dkm.depthwise import depthwise_block
from vision3d.matching.dkm.encoder import MEAN, STD
from vision3d.matching.dkm.local_correlation import correlate, gather_inputs
from vision3d.matching.dkm.matcher import DKMMatcher
from vision3d.matching.dkm.sampling import balanced_sample, density

SMALL = DKMConfig(size=(96, 128), upsampled=None)


@pytest.fixture(scope="module")
def net() -> DKM:
    made = DKM(SMALL).eval()
    made.load_state_dict(seeded_weights(made))
    return made


@pytest.mark.parametrize("second_pass", [False, True])
def test_equals_the_authors_network(net: DKM, second_pass: bool) -> None:
    """dkm_reference.npz: outputs of github.com/Parskatt/DKM, commit ef57565, on the same weights and photos, every
    third pixel; both directions, with and without the upsampling pass."""
    rgb = photos(96, 128)
    finer = F.interpolate(rgb, (124, 166), mode="bilinear") if second_pass else None
    with torch.inference_mode():
        warp, certainty = net.match(rgb, finer)
    kind = "finer" if second_pass else "plain"
    with np.load(Path(__file__).parent / "dkm_reference.npz") as stored:
        true_warp, true_certainty = (torch.from_numpy(stored[f"{kind}_{name}"]) for name in ("warp", "certainty"))
    size = warp.new_tensor([warp.shape[2] / 2, warp.shape[1] / 2])
    assert ((warp[:, ::3, ::3] - true_warp).abs() * size).max() < 0.01
    # what float32 holds: 9e-5 on one thread, 2e-4 on two (sums in another order); in float64 see the next test
    assert (certainty[:, ::3, ::3] - true_certainty).abs().max() < 1e-3
    assert true_certainty.max() > 0.8 and (true_warp.abs() < 1).all(-1).any()


@pytest.mark.parametrize("second_pass", [False, True])
def test_equals_the_authors_network_in_float64(net: DKM, second_pass: bool) -> None:
    """dkm_reference_float64.npz: the same in float64, every sixth pixel. The plain layers run, to which the fast ones
    are held below; what is left in float32 is rounding, which the refiners amplify."""
    exact = copy.deepcopy(net).double()
    exact.encoder.mean, exact.encoder.std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    rgb = photos(96, 128)
    finer = F.interpolate(rgb, (124, 166), mode="bilinear").double() if second_pass else None
    with torch.inference_mode():
        warp, certainty = exact.match(rgb.double(), finer)
    kind = "finer" if second_pass else "plain"
    with np.load(Path(__file__).parent / "dkm_reference_float64.npz") as stored:
        true_warp, true_certainty = (torch.from_numpy(stored[f"{kind}_{name}"]) for name in ("warp", "certainty"))
    size = warp.new_tensor([warp.shape[2] / 2, warp.shape[1] / 2])
    assert ((warp[:, ::6, ::6] - true_warp).abs() * size).max() < 1e-3
    assert (certainty[:, ::6, ::6] - true_certainty).abs().max() < 1e-5


def test_fast_refiners_equal_their_plain_layers_and_train(net: DKM) -> None:
    rgb = photos(64, 96, seed=3)
    with torch.inference_mode():
        fast = net(rgb[:1], rgb[1:])
    with torch.enable_grad():
        plain = net(rgb[:1], rgb[1:])
        plain[1].warp.sum().backward()
    for stride, estimate in plain.items():
        torch.testing.assert_close(fast[stride].warp, estimate.warp, atol=2e-5, rtol=0)
        torch.testing.assert_close(fast[stride].logit, estimate.logit, atol=1e-3, rtol=1e-4)
    grads = [p.grad for p in net.decoder.conv_refiner["1"].parameters() if p.grad is not None]
    assert grads and all(bool(g.isfinite().all()) for g in grads) and any(float(g.abs().max()) > 0 for g in grads)
    net.zero_grad(set_to_none=True)


@pytest.mark.parametrize("size", [(7, 9), (40, 3), (1, 70)])
def test_depthwise_block_equals_torch(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    h, w, c, d = *size, 6, 5
    x, taps, shift = (torch.randn(s, generator=generator) for s in ((h, w, c), (25, c), (c,)))
    mix, bias, out = torch.randn(c, d, generator=generator), torch.randn(d, generator=generator), torch.empty(h, w, d)
    depthwise_block(x, taps, shift, mix, bias, out)
    plain = F.conv2d(x.permute(2, 0, 1)[None], taps.T.reshape(c, 1, 5, 5), shift, padding=2, groups=c)[0].relu()
    torch.testing.assert_close(out, plain.permute(1, 2, 0) @ mix + bias, atol=1e-4, rtol=1e-4)


def test_local_correlation_equals_its_twin_also_off_the_photo() -> None:
    generator = torch.Generator().manual_seed(2)
    x0, x1 = torch.randn(2, 1, 4, 11, 13, generator=generator)
    warp = torch.rand(1, 2, 11, 13, generator=generator) * 3 - 1.5
    warp[0, :, 0, 0] = 1e6
    out = torch.empty(11, 13, 4 + 4 + 25)
    last = [x[0].permute(1, 2, 0).contiguous() for x in (x0, x1, warp)]
    gather_inputs(*last, 2, out, 8)
    assert torch.equal(out[..., :4], last[0])
    there = F.grid_sample(x1, warp.permute(0, 2, 3, 1), align_corners=False)[0]
    torch.testing.assert_close(out[..., 4:8], there.permute(1, 2, 0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out[..., 8:], correlate(x0, x1, warp, 2)[0].permute(1, 2, 0), atol=1e-4, rtol=1e-4)


def test_sampling_is_balanced() -> None:
    """Nine tenths of the matches lie in a hundredth of the photo: they must not be nine tenths of the sample."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(1000, 4, generator=generator) * 2 - 1
    crowded = torch.rand(9000, 4, generator=generator) * 0.2
    matches, certainty = torch.cat([spread, crowded]), torch.ones(10000)
    certainty[:10] = 0
    chosen = balanced_sample(matches, certainty, 400, DKMConfig(min_density=0), generator)
    assert len(chosen) == len(set(chosen.tolist())) == 400 and chosen.min() >= 10
    assert (chosen < 1000).double().mean() > 0.3
    points = matches[::500]
    apart = ((points[:, None] - points[None]) ** 2).sum(-1)
    torch.testing.assert_close(density(points, 0.1), torch.exp(-apart / 0.02).sum(1), atol=1e-4, rtol=1e-4)


def test_checkpoints_are_read_strictly(net: DKM) -> None:
    state = net.state_dict()
    classifier = {"encoder.net.fc.weight": torch.zeros(1000, 2048), "encoder.net.fc.bias": torch.zeros(1000)}
    built = build_dkm({f"module.{name}": value for name, value in {**state, **classifier}.items()}, "here", SMALL)
    assert all(torch.equal(value, state[name]) for name, value in built.state_dict().items())
    name = "decoder.conv_refiner.4.out_conv.weight"
    with pytest.raises(Vision3DError, match=r"conv_refiner\.4\.out_conv\.weight"):
        build_dkm({key: value for key, value in state.items() if key != name}, "here", SMALL)
    with pytest.raises(Vision3DError, match="another"):
        build_dkm({**state, "another.weight": torch.zeros(1)}, "here", SMALL)
    with pytest.raises(Vision3DError, match="out_conv"):
        build_dkm({**state, name: torch.zeros(3, 3)}, "here", SMALL)
    with pytest.raises(Vision3DError, match="not finite"):
        build_dkm({**state, name: torch.full_like(state[name], float("nan"))}, "here", SMALL)


@pytest.fixture(scope="module")
def weights(net: DKM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dkm") / "dkm.pth"
    torch.save(net.state_dict(), path)
    return path


def photo(rgb: torch.Tensor, name: str = "photo") -> Image:
    return Image(rgb, name, (rgb.shape[2], rgb.shape[1]))


def test_photos_of_any_size_and_shape(weights: Path) -> None:
    matcher = DKMMatcher(weights=weights, config=SMALL, count=200)
    first, second = photo(photos(96, 128)[0]), photo(photos(50, 300, seed=1)[1])
    found, again = matcher.match(first, second), matcher.match(first, second)
    assert torch.equal(found.points0, again.points0) and len(found.points0) <= 200
    for points, image in ((found.points0, first), (found.points1, second)):
        assert bool(points.isfinite().all()) and bool((points >= 0).all())
        assert bool((points <= torch.tensor(image.size)).all())
    there, back = matcher.warp(first, second)
    assert there.target.shape == back.target.shape == (96, 128, 2)
    assert bool(there.target.isfinite().all()) and bool(back.certainty.isfinite().all())
    for level in (0.0, 0.5):
        flat = photo(torch.full((3, 96, 128), level))
        assert bool(matcher.match(flat, flat).points0.isfinite().all())
    assert len(matcher.match(first, photo(torch.rand(3, 20, 90))).points0) == 0


def test_wrong_input_is_said(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, good = DKMMatcher(weights=weights, config=SMALL), photo(photos(64, 64)[0])
    bad = torch.rand(3, 64, 64)
    bad[0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        matcher.match(good, photo(bad))
    with pytest.raises(UsageError, match="at least 32 px"):
        matcher.warp(good, photo(torch.rand(3, 20, 64)))
    with pytest.raises(ValueError, match="at least 32 px"):
        DKMConfig(size=(20, 500))
    (tmp_path / "cut.pth").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(Vision3DError):
        DKMMatcher(weights=tmp_path / "cut.pth", config=SMALL).match(good, good)
    monkeypatch.setenv("VISION3D_CACHE", str(tmp_path))
    monkeypatch.setenv("VISION3D_OFFLINE", "1")
    with pytest.raises(MissingWeightsError, match="DKMv3_outdoor"):
        DKMMatcher(config=SMALL).match(good, good)
