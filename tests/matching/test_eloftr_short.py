"""Efficient LoFTR with products of 16-bit integers, which a CPU computes with in bf16."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from eloftr_scenes import NARROW, seeded_weights, shifted_photos
from torch import Tensor

from vision3d.matching.eloftr import EfficientLoFTR, EfficientLoFTRConfig, precision
from vision3d.matching.eloftr.fast_conv import FastConv
from vision3d.matching.eloftr.short_cell_update import update_cells_short
from vision3d.matching.eloftr.short_conv import convolve_strided, strided_kernel
from vision3d.matching.eloftr.transformer import AggregatedAttention, update_cells
from vision3d.matching.short_products import MOST, NORM, short_columns, short_matrix
from vision3d.matching.winograd import all_tiles, convolve_tiles, winograd_kernel
from vision3d.sparse.microkernels import HAS_SHORT_PAIRS

pytestmark = pytest.mark.skipif(not HAS_SHORT_PAIRS, reason="this CPU has no products of 16-bit integers")


def _relative(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


@pytest.mark.parametrize("inputs", [2, 64, 512])
@pytest.mark.parametrize("alike", [False, True])
def test_no_sum_of_products_can_leave_32_bits(inputs: int, alike: bool) -> None:
    weight = torch.randn(1, inputs, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.ones_like(weight) if alike else weight
    columns, scale, factors = short_columns(weight)
    weight = weight / factors[:, None]
    assert columns.abs().max() <= MOST and columns.norm(dim=1).max() * (NORM + 0.5 * inputs**0.5) < 2**31
    assert columns.norm(dim=1).min() > 0.9 * 2**31 / NORM or columns.abs().max() > 0.9 * MOST
    assert ((columns / scale - weight).abs() <= 0.5 / scale).all()
    assert all(t.isfinite().all() for t in short_columns(0 * weight))


@pytest.mark.parametrize(("height", "width", "channels"), [(12, 20, 64), (7, 9, 16), (1, 1, 32)])
@pytest.mark.parametrize("alike", [False, True])
def test_strided_convolution_equals_the_twin(height: int, width: int, channels: int, alike: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(2, height, width, channels)
    if not alike:
        x = torch.randn(2, height, width, channels, generator=generator) * torch.logspace(-4, 4, width)[:, None]
    weight, bias = torch.randn(48, channels, 3, 3, generator=generator), torch.zeros(48)
    weight = torch.ones_like(weight) if alike else weight
    right = F.leaky_relu(F.conv2d(x.permute(0, 3, 1, 2).double(), weight.double(), None, 2, 1), 0.1)
    made = convolve_strided(x, strided_kernel(weight), bias, 0.1).permute(0, 3, 1, 2)
    for column in range(right.shape[3]):  # each has its own unit
        assert _relative(made[..., column], right[..., column]) < 1e-3
    shifted = convolve_strided(x * 0, strided_kernel(weight), torch.arange(48.0), 0.1)
    assert torch.equal(shifted, torch.arange(48.0).expand_as(shifted))
    with pytest.raises(ValueError, match="multiple of 16, got 8"):
        strided_kernel(weight[:8])


@pytest.mark.parametrize(("rows", "columns", "width"), [(2, 3, 32), (1, 5, 96), (3, 2, 256)])
def test_cells_updated_with_short_products_equal_the_twin(rows: int, columns: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4 * rows, 4 * columns, width, generator=generator)
    x[0, 0, 1] *= 1e3
    x[0, 0, 2] = 0
    grid = torch.randn(2, rows, columns, 2 * width, generator=generator)
    first = torch.randn(2 * width, width, generator=generator) / width**0.5
    second = torch.randn(width, 2 * width, generator=generator) / width**0.5
    norm = torch.nn.LayerNorm(width)
    torch.nn.init.normal_(norm.weight, generator=generator)
    torch.nn.init.normal_(norm.bias, generator=generator)
    with torch.inference_mode():
        expected = update_cells(x, grid, first, second, 0.01, norm)
        made = update_cells_short(x, grid, short_matrix(first), short_matrix(second), 0.01, norm)
    assert _relative(made - x, expected - x) < 1e-3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = update_cells_short(x, grid, short_matrix(first), short_matrix(second), 0.01, norm)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, made)


def test_nan_stays_nan() -> None:
    """Only where it is seen: never a number made of it."""
    x, weight = torch.ones(1, 8, 8, 32), torch.ones(16, 32, 3, 3)
    x[0, 1, 6, 3] = torch.nan
    strided = convolve_strided(x, strided_kernel(weight), torch.zeros(16), 0.1)
    assert torch.equal(strided.isnan().any(3)[0].nonzero(), torch.tensor([[0, 3], [1, 3]]))
    made = convolve_tiles(x, winograd_kernel(weight, None, 1.0, short=True), all_tiles(1, 8, 8))
    assert made[0, :3, 5:8].isnan().all() and not made[0, 4:, :4].isnan().any()
    norm = torch.nn.LayerNorm(32)
    matrices = (short_matrix(torch.ones(64, 32)), short_matrix(torch.ones(32, 64)))
    with torch.inference_mode():
        updated = update_cells_short(x, torch.zeros(1, 2, 2, 64), *matrices, 0.01, norm)
    assert torch.equal(updated.isnan().all(3)[0].nonzero(), torch.tensor([[1, 6]]))
    weight[5] = torch.nan
    x[0, 1, 6, 3] = 1
    made = convolve_tiles(x, winograd_kernel(weight, None, 1.0, short=True), all_tiles(1, 8, 8))
    assert torch.equal(made.isnan().any(2).any(1)[0].nonzero()[:, 0], torch.tensor([5]))


def test_closer_to_float32_than_bfloat16_is() -> None:
    net = EfficientLoFTR(NARROW).eval()
    net.load_state_dict(seeded_weights(net))
    net.fuse()
    low = precision.to_16_bits(copy.deepcopy(net))
    photos = shifted_photos()
    with torch.inference_mode():
        exact, rounded = net.features(*photos).cells[0], low.features(*photos).cells[0]
        emulated = copy.deepcopy(net).to(torch.bfloat16).features(*photos).cells[0]
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert (rounded - exact).square().mean() < 0.1 * (emulated - exact).square().mean()


@pytest.mark.parametrize("k", [1e-3, 1e3, 1e6])
def test_a_large_channel_with_small_weights_is_rounded_by_what_it_contributes(k: float) -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(1, 8, 8, 64, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    x[..., 3] *= k
    weight[:, 3] /= k
    maps = x.permute(0, 3, 1, 2)
    right = F.conv2d(maps.double(), weight.double(), None, 1, 1).permute(0, 2, 3, 1)
    made = convolve_tiles(x, winograd_kernel(weight, None, 1.0, short=True), all_tiles(1, 8, 8))
    assert _relative(made, right) < 1.5e-3
    right = F.conv2d(maps.double(), weight.double(), None, 2, 1).permute(0, 2, 3, 1)
    assert _relative(convolve_strided(x, strided_kernel(weight), torch.zeros(64), 1.0), right) < 1e-3
    x, grid, norm = x.contiguous(), torch.zeros(1, 2, 2, 128), torch.nn.LayerNorm(64)
    first = torch.randn(128, 64, generator=generator)
    first[:, 3] /= k
    second = torch.randn(64, 128, generator=generator)
    with torch.inference_mode():
        expected = update_cells(0 * x + x, grid, first, second, 0.01, norm) - x
        made = update_cells_short(x, grid, short_matrix(first), short_matrix(second), 0.01, norm) - x
    keep = torch.arange(64) != 3  # there the difference itself is rounded
    assert _relative(made[..., keep], expected[..., keep]) < 1.5e-3


def test_widths_that_do_not_fit_stay_float32() -> None:
    config = EfficientLoFTRConfig(widths=(16, 16, 32, 40), blocks=(1, 1, 2, 3), heads=4, pairs=1, fine_extra=4)
    torch.manual_seed(0)
    net = EfficientLoFTR(config).eval()
    with torch.inference_mode():
        low = precision.to_16_bits(copy.deepcopy(net)).features(*shifted_photos()).cells[0]
        assert _relative(low, net.features(*shifted_photos()).cells[0]) < 0.05


def test_kernels_follow_the_weights() -> None:
    photos = shifted_photos()
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(precision.to_16_bits(EfficientLoFTR(NARROW)))
    with torch.inference_mode():
        before, other = (net.features(*photos).cells[0] for net in nets)
        nets[0].load_state_dict(nets[1].state_dict())
        assert torch.equal(nets[0].features(*photos).cells[0], other) and not torch.equal(before, other)
        halves = [net.fine(net.features(*photos))[0] for net in nets]
        assert torch.equal(*halves)
        nets[0].fuse()  # again: the precision stays
        assert torch.equal(nets[0].fine(nets[0].features(*photos))[0], halves[1])
    assert all(m.short for m in nets[0].modules() if isinstance(m, FastConv | AggregatedAttention))


def test_float32_where_the_processor_has_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "HAS_SHORT_PAIRS", False)
    torch.manual_seed(0)
    net = EfficientLoFTR(EfficientLoFTRConfig.compact()).eval()
    photos = shifted_photos()
    with torch.inference_mode():
        exact = copy.deepcopy(net).fuse().features(*photos).cells[0]
        assert torch.equal(precision.to_16_bits(net).features(*photos).cells[0], exact)
