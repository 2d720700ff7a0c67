"""Weights in other libraries' layouts do the same as there, by plain loops written from their definitions."""

import itertools

import pytest
import torch
from sparse_grids import random_tensor, rows

from vision3d.sparse import (
    SparseConv,
    SubmanifoldConv,
    weight_from_minkowski,
    weight_from_spconv1,
    weight_from_spconv2,
    weight_to_minkowski,
    weight_to_spconv2,
)


def minkowski(x, weight, kernel_size, dilation=1):  # type: ignore[no-untyped-def]
    """Stride 1 on the input's sites: offsets count up in the first dimension first, odd sizes are centred."""
    ranges = [range(-(k // 2), k // 2 + 1) if k % 2 else range(k) for k in kernel_size]
    offsets = [tuple(reversed(o)) for o in itertools.product(*reversed(ranges))]
    known = rows(x)
    out = []
    for site in known:
        total = torch.zeros(weight.shape[2], dtype=weight.dtype)
        for w, offset in zip(weight, offsets, strict=True):
            near = known.get((site[0], *(s + o * dilation for s, o in zip(site[1:], offset, strict=True))))
            if near is not None:
                total = total + near @ w
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize("kernel_size", [(3,), (3, 5), (1, 3, 5), (3, 1, 3, 1, 3, 1)])
def test_minkowski_submanifold(kernel_size: tuple[int, ...]) -> None:
    dimensions = len(kernel_size)
    x = random_tensor((6, 5, 4, 3, 3, 3)[:dimensions], 12 if dimensions == 1 else 40, 2)
    layer = SubmanifoldConv(dimensions, 2, 3, kernel_size, bias=False).double()
    weight = torch.randn(layer.weight.flatten(0, -3).shape, dtype=torch.float64)
    layer.weight.data = weight_from_minkowski(weight, kernel_size)
    torch.testing.assert_close(layer(x).features, minkowski(x, weight, kernel_size))
    assert torch.equal(weight_to_minkowski(layer.weight.data), weight)


def test_minkowski_even_kernel_begins_at_the_output() -> None:
    x = random_tensor((6, 5), 20, 2)
    weight = torch.randn(4, 2, 3, dtype=torch.float64)
    layer = SparseConv(2, 2, 3, 2, padding=0, bias=False).double()
    layer.weight.data = weight_from_minkowski(weight, (2, 2))
    expected = dict(zip(rows(x), minkowski(x, weight, (2, 2)), strict=True))
    found = rows(layer(x))
    common = [site for site in expected if site in found]  # without padding the last row and column fall away
    assert len(common) > 5
    for site in common:
        torch.testing.assert_close(found[site], expected[site])


def test_minkowski_shapes() -> None:
    weight = torch.randn(2, 3)
    assert weight_from_minkowski(weight, (1, 1, 1)).shape == (1, 1, 1, 2, 3)
    assert torch.equal(weight_to_minkowski(weight_from_minkowski(weight, (1, 1, 1))), weight)
    with pytest.raises(ValueError, match=r"\[27 in out\]"):
        weight_from_minkowski(torch.randn(26, 2, 3), (3, 3, 3))


def test_spconv_layouts() -> None:
    weight = torch.randn(5, 3, 2, 3, 4)
    ours = weight_from_spconv2(weight)
    assert ours.shape == (3, 2, 3, 4, 5)
    assert torch.equal(ours[2, 1, 0], weight[:, 2, 1, 0].T)
    assert torch.equal(weight_to_spconv2(ours), weight)
    assert torch.equal(weight_from_spconv1(ours), ours)
    with pytest.raises(ValueError, match="kernel dimensions"):
        weight_from_spconv2(torch.randn(3, 4))


def test_same_as_spconv_itself() -> None:
    """Runs only where spconv is installed; its CPU kernels do the forward pass."""
    spconv = pytest.importorskip("spconv.pytorch")
    x = random_tensor((9, 8, 7), 80, 4, dtype=torch.float32)
    theirs = spconv.SparseConvTensor(x.features, x.indices, list(x.spatial_shape), 2)
    native = spconv.ConvAlgo.Native
    for our_layer, their_layer in (
        (SubmanifoldConv(3, 4, 8, 3, bias=False), spconv.SubMConv3d(4, 8, 3, bias=False, algo=native)),
        (SparseConv(3, 4, 8, 3, 2, 1, bias=False), spconv.SparseConv3d(4, 8, 3, 2, 1, bias=False, algo=native)),
        (
            SparseConv(3, 4, 8, (3, 1, 2), (2, 1, 1), 0, bias=False),
            spconv.SparseConv3d(4, 8, (3, 1, 2), (2, 1, 1), 0, bias=False, algo=native),
        ),
    ):
        our_layer.weight.data = weight_from_spconv2(their_layer.weight.data)
        with torch.no_grad():
            a, b = our_layer(x), their_layer(theirs)
        found = dict(zip(map(tuple, b.indices.tolist()), b.features, strict=True))
        assert set(found) == set(rows(a)) and list(a.spatial_shape) == list(b.spatial_shape)
        torch.testing.assert_close(a.features, torch.stack([found[site] for site in rows(a)]), atol=1e-5, rtol=1e-5)
