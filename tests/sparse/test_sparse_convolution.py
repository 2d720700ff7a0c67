"""Sparse convolutions equal dense ones in 1 to 6 dimensions, values and gradients."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from sparse_grids import convolve_by_loops, dense, random_tensor, rows, transpose_by_loops
from torch import Tensor

from vision3d.core import SparseTensor
from vision3d.sparse import (
    InverseConv,
    SparseConv,
    SparseConvTranspose,
    SubmanifoldConv,
    Window,
    rulebooks,
    sparse_convolution,
)

SHAPES = {1: (23,), 2: (9, 8), 3: (6, 7, 5)}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
# kernel size, stride, padding, dilation: one each, cut to the dimensions
WINDOWS = [
    ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((2, 3, 4), (2, 1, 3), (0, 2, 1), (1, 1, 1)),
    ((3, 2, 3), (1, 2, 1), (2, 1, 0), (2, 3, 1)),
    ((1, 1, 1), (1, 2, 1), (0, 0, 0), (1, 1, 1)),
]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Thousands of tiny calls wait for each other's threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compare(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    return torch.autograd.grad(out, inputs, torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels", [(3, 5), (16, 32)])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_strided_equals_dense(dimensions: int, window: tuple, channels: tuple[int, int], dtype: torch.dtype) -> None:
    size, stride, padding, dilation = (value[:dimensions] for value in window)
    x = random_tensor(SHAPES[dimensions], 30, channels[0], dtype=dtype)
    x.features.requires_grad_()
    layer = SparseConv(dimensions, *channels, size, stride, padding, dilation).to(dtype)
    weight, bias = layer.weight, layer.bias
    assert bias is not None
    y = layer(x)
    kernel = weight.movedim((-1, -2), (0, 1))
    full = CONV[dimensions](dense(x), kernel, bias, stride, padding, dilation)
    at = tuple(y.indices.long().T)
    expected = full.movedim(1, -1)[at]
    assert y.spatial_shape == tuple(full.shape[2:])
    compare(y.features, expected, dtype)
    touched = CONV[dimensions](
        dense(x.with_features(torch.ones(30, 1, dtype=dtype))),
        torch.ones_like(kernel[:1, :1]),
        None,
        stride,
        padding,
        dilation,
    )
    assert len(y) == int((touched > 0.5).sum())  # exactly the outputs that see an input
    for ours, theirs in zip(
        gradients(y.features, x.features, weight, bias), gradients(expected, x.features, weight, bias), strict=True
    ):
        compare(ours, theirs, dtype)


@pytest.mark.parametrize("size, dilation", [((3, 3, 3), 1), ((5, 3, 1), 1), ((2, 4, 3), 1), ((3, 3, 3), 2)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_submanifold_equals_dense_at_its_sites(dimensions: int, size: tuple, dilation: int) -> None:
    size = size[:dimensions]
    x = random_tensor(SHAPES[dimensions], 35, 4)
    x.features.requires_grad_()
    layer = SubmanifoldConv(dimensions, 4, 6, size, dilation).double()
    y = layer(x)
    assert y.sites is x.sites
    padding = [k // 2 * dilation for k in size]
    full = CONV[dimensions](
        dense(x), layer.weight.movedim((-1, -2), (0, 1)), layer.bias, padding=padding, dilation=dilation
    )
    expected = full.movedim(1, -1)[tuple(x.indices.long().T)]  # even kernels: dense gives one more at the end
    compare(y.features, expected, torch.float64)
    inputs = (x.features, layer.weight, layer.bias)
    for ours, theirs in zip(gradients(y.features, *inputs), gradients(expected, *inputs), strict=True):
        compare(ours, theirs, torch.float64)


@pytest.mark.parametrize("window", WINDOWS[1:4])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_transposed_equals_dense(dimensions: int, window: tuple) -> None:
    size, stride, padding, dilation = (value[:dimensions] for value in window)
    extra = tuple(max(s, d) - 1 for s, d in zip(stride, dilation, strict=True))
    x = random_tensor(SHAPES[dimensions], 25, 3)
    x.features.requires_grad_()
    layer = SparseConvTranspose(dimensions, 3, 4, size, stride, padding, extra, dilation).double()
    y = layer(x)
    kernel = layer.weight.movedim((-2, -1), (0, 1))
    full = TRANSPOSE[dimensions](dense(x), kernel, layer.bias, stride, padding, extra, 1, dilation)
    expected = full.movedim(1, -1)[tuple(y.indices.long().T)]
    assert y.spatial_shape == tuple(full.shape[2:])
    compare(y.features, expected, torch.float64)
    inputs = (x.features, layer.weight, layer.bias)
    for ours, theirs in zip(gradients(y.features, *inputs), gradients(expected, *inputs), strict=True):
        compare(ours, theirs, torch.float64)


@pytest.mark.parametrize("reused", [True, False])
@pytest.mark.parametrize("window", WINDOWS[1:4])
def test_inverse_equals_dense_transposed_at_the_old_sites(window: tuple, reused: bool) -> None:
    x = random_tensor(SHAPES[3], 25, 3)
    down = SparseConv(3, 3, 4, *window).double()
    up = InverseConv(3, 4, 2, *window).double()
    y = down(x)
    onto = x if reused else SparseTensor(x.features, x.indices, x.spatial_shape, x.batch_size)
    z = up(y, onto)
    assert z.sites is onto.sites
    size, stride, padding, dilation = window
    kernel = up.weight.movedim((-2, -1), (0, 1))
    shape = [
        n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, m, k, s, p, d in zip(x.spatial_shape, y.spatial_shape, size, stride, padding, dilation, strict=True)
    ]
    full = F.conv_transpose3d(dense(y), kernel, up.bias, stride, padding, shape, 1, dilation)
    compare(z.features, full.movedim(1, -1)[tuple(x.indices.long().T)], torch.float64)


@pytest.mark.parametrize("dimensions", [4, 5, 6])
def test_many_dimensions_equal_plain_loops(dimensions: int) -> None:
    shape = (4, 3, 5, 3, 4, 3)[:dimensions]
    x = random_tensor(shape, 40, 2)
    x.features.requires_grad_()
    size, stride, padding = (
        (3, 2, 3, 1, 2, 3)[:dimensions],
        (2, 1, 2, 1, 2, 1)[:dimensions],
        (1, 0, 1, 0, 1, 1)[:dimensions],
    )
    layers = {
        "submanifold": SubmanifoldConv(dimensions, 2, 3, 3, bias=False).double(),
        "strided": SparseConv(dimensions, 2, 3, size, stride, padding, bias=False).double(),
        "transposed": SparseConvTranspose(dimensions, 2, 3, size, stride, padding, bias=False).double(),
    }
    for name, layer in layers.items():
        y = layer(x)
        by_loops = transpose_by_loops if name == "transposed" else convolve_by_loops
        expected = by_loops(x, layer.weight, layer.window, y.spatial_shape)
        if name == "submanifold":
            expected = {site: expected[site] for site in rows(x)}
        assert set(expected) == set(rows(y))
        stacked = torch.stack([expected[site] for site in rows(y)])
        compare(y.features, stacked, torch.float64)
        inputs = (x.features, layer.weight)
        for ours, theirs in zip(gradients(y.features, *inputs), gradients(stacked, *inputs), strict=True):
            compare(ours, theirs, torch.float64)


def test_first_and_second_derivatives_by_finite_differences(one_thread: None) -> None:
    x = random_tensor((3, 4), 6, 2, batch_size=1)
    books = [
        rulebooks.submanifold(x.sites, Window.submanifold(2, 3)),
        rulebooks.submanifold(x.sites, Window.submanifold(2, (2, 3))),
        rulebooks.strided(x.sites, Window.of(2, 3, 2, 1))[1],
        rulebooks.transposed(x.sites, Window.of(2, 2, 2), (0, 0))[1],
    ]
    for book in books:
        weight = torch.randn(book.volume, 2, 1, dtype=torch.float64, requires_grad=True)
        bias = torch.randn(1, dtype=torch.float64, requires_grad=True)
        features = x.features.clone().requires_grad_()

        def function(f: Tensor, w: Tensor, b: Tensor, book=book) -> Tensor:  # type: ignore[no-untyped-def]
            return sparse_convolution(f, w, book, b)

        assert torch.autograd.gradcheck(function, (features, weight, bias))
        assert torch.autograd.gradgradcheck(function, (features, weight, bias), fast_mode=True)
