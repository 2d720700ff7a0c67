"""Winograd convolution: equal to the direct one, on all tiles and on some."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vision3d.matching.winograd import all_tiles, convolve_tiles, winograd_kernel
from vision3d.sparse.microkernels import HAS_SHORT_PAIRS

needs_short_pairs = pytest.mark.skipif(not HAS_SHORT_PAIRS, reason="this CPU has no products of 16-bit integers")


@pytest.mark.parametrize(("channels", "outputs", "slope"), [(32, 16, 1.0), (64, 32, 0.0), (80, 48, 0.01)])
def test_equals_the_direct_convolution(channels: int, outputs: int, slope: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 12, channels, generator=generator)
    weight = torch.randn(outputs, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    bias = torch.randn(outputs, generator=generator)
    expected = F.leaky_relu(F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1), slope).permute(0, 2, 3, 1)
    kernel = winograd_kernel(weight, bias, slope)
    torch.testing.assert_close(convolve_tiles(x, kernel, all_tiles(2, 8, 12)), expected, atol=2e-5, rtol=0)

    some = convolve_tiles(x, kernel, torch.tensor([[0, 0, 1], [1, 1, 2]]))
    torch.testing.assert_close(some[0, :4, 4:8], expected[0, :4, 4:8], atol=2e-5, rtol=0)
    torch.testing.assert_close(some[1, 4:, 8:], expected[1, 4:, 8:], atol=2e-5, rtol=0)
    assert int((some != 0).any(3).sum()) <= 32


@needs_short_pairs
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("alike", [False, True])  # numbers alike make the greatest sums
def test_16_bit_integers_are_closer_than_bfloat16_and_never_too_large(scale: float, alike: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.ones(1, 8, 12, 256) if alike else torch.randn(1, 8, 12, 256, generator=generator).relu()
    weight = torch.ones(16, 256, 3, 3) if alike else torch.randn(16, 256, 3, 3, generator=generator)
    x, weight = x * scale, weight * torch.logspace(-3, 3, 16)[:, None, None, None]
    weight[3] = 0
    maps = x.permute(0, 3, 1, 2)
    expected = F.conv2d(maps.double(), weight.double(), padding=1).permute(0, 2, 3, 1)
    rounded = F.conv2d(maps.bfloat16().double(), weight.bfloat16().double(), padding=1).permute(0, 2, 3, 1)
    made = convolve_tiles(x, winograd_kernel(weight, None, 1.0, short=True), all_tiles(1, 8, 12))
    size = expected.square().mean((0, 1, 2)).sqrt()
    error, allowed = ((m - expected).square().mean((0, 1, 2)).sqrt() for m in (made, rounded))
    assert (error <= (1e-3 * size if alike else allowed)).all() and not made[..., 3].any()
    assert alike or (error / allowed).nanmean() < 0.75


def test_no_tile_costs_nothing_and_what_does_not_fit_is_refused() -> None:
    kernel = winograd_kernel(torch.randn(16, 32, 3, 3), None, 1.0)
    empty = torch.zeros(0, 3, dtype=torch.int64)
    assert not convolve_tiles(torch.ones(1, 4, 4, 32), kernel, empty).any()
    with pytest.raises(ValueError, match="multiples of 4"):
        convolve_tiles(torch.ones(1, 6, 4, 32), kernel, empty)
    with pytest.raises(ValueError, match="32 channels"):
        convolve_tiles(torch.ones(1, 4, 4, 48), kernel, empty)
    for outputs, inputs in ((8, 32), (16, 16), (16, 40)):
        with pytest.raises(ValueError, match="kernels of 32 or more inputs"):
            winograd_kernel(torch.randn(outputs, inputs, 3, 3), None, 1.0)


@pytest.mark.parametrize("short", [False, pytest.param(True, marks=needs_short_pairs)])
def test_threads_do_not_change_a_bit(short: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = winograd_kernel(torch.randn(48, 48, 3, 3, generator=generator), None, 0.0, short=short)
    x = torch.randn(2, 40, 52, 48, generator=generator)
    before = torch.get_num_threads()
    made = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(convolve_tiles(x, kernel, all_tiles(2, 40, 52)))
    torch.set_num_threads(before)
    assert torch.equal(*made)
