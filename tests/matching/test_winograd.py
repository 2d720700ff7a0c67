"""Winograd convolution: equal to the direct one, on all tiles and on some."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vision3d.matching.winograd import all_tiles, convolve_tiles, winograd_kernel


@pytest.mark.parametrize(("channels", "outputs", "slope"), [(3, 5, 1.0), (32, 16, 0.0), (17, 33, 0.01)])
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


def test_no_tile_costs_nothing_and_wrong_maps_are_refused() -> None:
    kernel = winograd_kernel(torch.randn(4, 3, 3, 3), None, 1.0)
    empty = torch.zeros(0, 3, dtype=torch.int64)
    assert not convolve_tiles(torch.ones(1, 4, 4, 3), kernel, empty).any()
    with pytest.raises(ValueError, match="multiples of 4"):
        convolve_tiles(torch.ones(1, 6, 4, 3), kernel, empty)
    with pytest.raises(ValueError, match="3 channels"):
        convolve_tiles(torch.ones(1, 4, 4, 2), kernel, empty)


def test_threads_do_not_change_a_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = winograd_kernel(torch.randn(48, 40, 3, 3, generator=generator), None, 0.0)
    x = torch.randn(2, 40, 52, 40, generator=generator)
    before = torch.get_num_threads()
    made = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(convolve_tiles(x, kernel, all_tiles(2, 40, 52)))
    torch.set_num_threads(before)
    assert torch.equal(*made)
