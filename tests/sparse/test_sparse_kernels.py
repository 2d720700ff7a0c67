"""The CPU kernels: equal to their torch twins, the same bits for any number of threads; laws of convolution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_grids import random_tensor

from vision3d.core import SparseTensor
from vision3d.sparse import (
    SparseConv,
    SparseSequential,
    SubmanifoldConv,
    Window,
    fused_forward,
    fused_weights,
    products,
    rulebooks,
)

# Those of a full block, of less than one vector, of several blocks, and odd ones.
CHANNELS = [(4, 16), (16, 32), (64, 64), (3, 5), (32, 128), (7, 48), (1, 1)]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("channels", CHANNELS)
def test_products_equal_their_twins(channels: tuple[int, int], dtype: torch.dtype) -> None:
    inputs, outputs = channels
    x = random_tensor((20, 30, 30), 2000, inputs, dtype=dtype)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    for rulebook in (
        rulebooks.submanifold(x.sites, Window.submanifold(3, 3)),
        rulebooks.strided(x.sites, Window.of(3, 3, 2, 1))[1],
        rulebooks.strided(x.sites, Window.of(3, 3, 2, 1))[1].transposed(),
    ):
        features = torch.randn(rulebook.inputs, inputs).to(dtype)
        weight = torch.randn(27, inputs, outputs).to(dtype)
        bias = torch.randn(outputs).to(dtype)
        gradient = torch.randn(rulebook.outputs, outputs).to(dtype)
        for ours, twin in (
            (
                fused_forward.convolve(features, weight, rulebook, bias),
                products.convolve(features.to(wide), weight.to(wide), rulebook, bias.to(wide)),
            ),
            (
                fused_weights.correlate(features, gradient, rulebook),
                products.correlate(features.to(wide), gradient.to(wide), rulebook),
            ),
            (fused_weights.column_sums(gradient), gradient.to(wide).sum(0)),
        ):
            assert ours.dtype == dtype and ours.shape == twin.shape
            assert float((ours.to(wide) - twin).abs().max()) <= TOLERANCE[dtype] * float(twin.abs().max())


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    x = random_tensor((30, 40, 40), 9000, 16, dtype=dtype)
    torch.manual_seed(3)
    layers = [SubmanifoldConv(3, 16, 32, 3), SparseConv(3, 32, 24, 3, 2, 1), SubmanifoldConv(3, 24, 8, 3)]
    threads = torch.get_num_threads()
    seen = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            y = SparseTensor(x.features.clone().requires_grad_(), x.indices, x.spatial_shape, 2)
            out = y
            for layer in layers:
                layer.zero_grad()
                out = layer(out)
            out.features.backward(torch.ones_like(out.features))
            grads = [p.grad for layer in layers for p in layer.parameters()]
            seen.append([out.features.detach(), y.features.grad, *(g.clone() for g in grads if g is not None)])
    finally:
        torch.set_num_threads(threads)
    assert len(seen[0]) == 8
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


def test_bfloat16_layer_is_near_float32() -> None:
    x = random_tensor((20, 20, 20), 1500, 16, dtype=torch.float32)
    layer = SubmanifoldConv(3, 16, 16, 3)
    exact = layer(x).features
    largest = float(exact.detach().abs().max())
    half = layer(x.with_features(x.features.bfloat16())).features
    assert half.dtype == torch.bfloat16
    assert float((half.float() - exact).detach().abs().max()) < 0.02 * largest
    half.float().square().sum().backward()
    gradient = layer.weight.grad
    layer.weight.grad = None
    exact.square().sum().backward()
    assert gradient is not None and gradient.dtype == torch.float32 and layer.weight.grad is not None
    assert float((gradient - layer.weight.grad).abs().max()) < 0.02 * float(layer.weight.grad.abs().max())


def test_not_a_number_stays_where_it_can_be_seen() -> None:
    x = random_tensor((40,), 30, 3, dtype=torch.float32)
    x.features[4] = torch.nan
    y = SubmanifoldConv(1, 3, 4, 3)(x)
    far = ((x.indices[:, 1] - x.indices[4, 1]).abs() > 1) | (x.indices[:, 0] != x.indices[4, 0])
    assert bool(y.features[far].isfinite().all()) and bool(y.features[4].isnan().all())
    z = SubmanifoldConv(1, 3, 4, 3)(x.with_features(x.features.bfloat16()))
    assert bool(z.features[far].isfinite().all()) and bool(z.features[4].isnan().all())


sizes = st.sampled_from([(2, (1, 3)), (2, (3, 2)), (3, (3, 3, 1)), (4, (1, 3, 1, 2))])


@settings(max_examples=15)
@given(sizes, st.integers(0, 50), st.booleans())
def test_permuting_rows_permutes_results(case: tuple, seed: int, strided: bool) -> None:
    dimensions, size = case
    x = random_tensor((5,) * dimensions, 20, 2, seed=seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    y = SparseTensor(x.features[order], x.indices[order], x.spatial_shape, 2)
    layer = SparseConv(dimensions, 2, 3, size, 2, 1) if strided else SubmanifoldConv(dimensions, 2, 3, size)
    a, b = layer.double()(x), layer(y)
    if strided:
        assert torch.equal(a.indices, b.indices)
        torch.testing.assert_close(a.features, b.features)
    else:
        torch.testing.assert_close(a.features[order], b.features)


@settings(max_examples=15)
@given(sizes, st.integers(0, 50), st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sampled_from([1, 2]))
def test_translation_moves_results(case: tuple, seed: int, steps: list[int], stride: int) -> None:
    dimensions, size = case
    x = random_tensor((5,) * dimensions, 20, 2, seed=seed)
    x = SparseTensor(x.features, x.indices + torch.tensor([0] + [4] * dimensions), (24,) * dimensions, 2)
    shift = torch.tensor([0, *(stride * step for step in steps[:dimensions])])
    moved = SparseTensor(x.features, x.indices + shift, x.spatial_shape, 2)
    layer = SparseConv(dimensions, 2, 3, size, stride, 1).double()
    a, b = layer(x), layer(moved)
    assert torch.equal(a.indices + shift // stride, b.indices)
    torch.testing.assert_close(a.features, b.features)


@settings(max_examples=15)
@given(sizes, st.integers(0, 50))
def test_sum_over_kernels_with_one_element(case: tuple, seed: int) -> None:
    dimensions, size = case
    x = random_tensor((5,) * dimensions, 20, 2, seed=seed)
    layer = SubmanifoldConv(dimensions, 2, 3, size, bias=False).double()
    whole = layer(x).features
    weight, total = layer.weight.detach().clone(), torch.zeros_like(whole)
    for element in layer.window.elements():
        layer.weight.data.zero_()
        layer.weight.data[element] = weight[element]
        total = total + layer(x).features
    torch.testing.assert_close(whole, total)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_folded_layers_equal_separate_ones(dtype: torch.dtype, relu: bool) -> None:
    x = random_tensor((10, 10, 10), 300, 3, dtype=dtype)
    layers: list[torch.nn.Module] = [SparseConv(3, 3, 20, 3, 2, 1), torch.nn.BatchNorm1d(20)]
    layers += [torch.nn.ReLU()] if relu else []
    layers += [
        SubmanifoldConv(3, 20, 16, 3, bias=False),
        torch.nn.BatchNorm1d(16, affine=False),
        torch.nn.Linear(16, 4),
    ]
    model = SparseSequential(*layers).to(dtype)
    for norm in (model[1], model[-2]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    model.eval()
    separate = model(x)
    with torch.no_grad():
        together = model(x)
    assert together.sites is separate.sites and together.features.dtype == dtype
    difference = float((together.features - separate.features.detach()).abs().max())
    assert difference <= 3 * TOLERANCE[dtype] * float(separate.features.detach().abs().max())
    model.train()
    with torch.no_grad():
        torch.testing.assert_close(model(x).features, model(x).features)  # statistics of the batch, so not folded
    assert int(model[1].num_batches_tracked) == 2


def test_bfloat16_without_dot_products_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_tensor((20, 20), 200, 5, dtype=torch.bfloat16)
    rulebook = rulebooks.submanifold(x.sites, Window.submanifold(2, 3))
    weight = torch.randn(9, 5, 20).bfloat16()
    monkeypatch.setattr(fused_forward, "HAS_BFLOAT16", False)
    ours = fused_forward.convolve(x.features, weight, rulebook)
    twin = products.convolve(x.features.float(), weight.float(), rulebook)
    assert float((ours.float() - twin).abs().max()) <= 1e-2 * float(twin.abs().max())
