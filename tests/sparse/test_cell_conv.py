"""Strided convolution onto the cells that hold an input, against loops and the regular one."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vision3d.core import SparseTensor
from vision3d.sparse import CellConv, InverseConv, SparseConv, to_dense


def tensor(dimensions: int, count: int, shape: int, channels: int = 2) -> SparseTensor:
    random = np.random.default_rng(0)
    rows = np.unique(
        np.concatenate([random.integers(0, 2, (count, 1)), random.integers(0, shape, (count, dimensions))], 1), axis=0
    )
    random.shuffle(rows)
    features = torch.from_numpy(random.normal(size=(len(rows), channels)))
    return SparseTensor(features, torch.from_numpy(rows).int(), (shape,) * dimensions, 2)


@pytest.mark.parametrize(("dimensions", "count", "shape", "stride"), [(2, 30, 9, 2), (3, 60, 8, 3), (6, 40, 4, 2)])
def test_cells_are_those_of_the_inputs_with_the_regular_values(
    dimensions: int, count: int, shape: int, stride: int
) -> None:
    x = tensor(dimensions, count, shape)
    layer = CellConv(dimensions, 2, 3, 3, stride).double()
    regular = SparseConv(dimensions, 2, 3, 3, stride, 1).double()
    regular.load_state_dict(layer.state_dict())
    out, full = layer(x), regular(x)
    wanted = {(int(row[0]), *(int(v) // stride for v in row[1:])) for row in x.indices}
    assert {tuple(int(v) for v in row) for row in out.indices} == wanted
    assert out.spatial_shape == full.spatial_shape
    values = {tuple(int(v) for v in row): value for row, value in zip(full.indices, full.features, strict=True)}
    for row, value in zip(out.indices, out.features, strict=True):
        # With stride 3 a cell may hold nothing that the kernel sees: the bias alone is left.
        torch.testing.assert_close(value, values.get(tuple(int(v) for v in row), layer.bias))


def test_inverse_goes_back_along_the_same_pairs() -> None:
    x = tensor(3, 50, 8)
    down, up = CellConv(3, 2, 2, 3, 2, bias=False).double(), InverseConv(3, 2, 2, 3, 2, 1, bias=False).double()
    with torch.no_grad():
        up.weight.copy_(down.weight.transpose(-1, -2))
    coarse = down(x)
    back = up(coarse, onto=x)
    # Transposed: <down(x), y> = <x, up(y)>.
    torch.testing.assert_close((coarse.features**2).sum(), (x.features * back.features).sum())
    assert back.sites is x.sites


@pytest.mark.parametrize(("kernel", "stride", "shape"), [(2, 2, 8), (2, 2, 7), (4, 2, 7), ((2, 3, 4), (2, 2, 3), 8)])
def test_even_kernels_begin_at_their_cell_as_dense_ones_do(kernel: Any, stride: Any, shape: int) -> None:
    x = tensor(3, 60, shape)
    x.features.requires_grad_()
    layer = CellConv(3, 2, 4, kernel, stride).double()
    out = layer(x)
    # Behind the last site there is room for the last cell's kernel; before the first for half of an odd one.
    pads = [v for k in reversed(layer.window.kernel_size) for v in (k // 2 if k % 2 else 0, k)]
    weight = layer.weight.permute(4, 3, 0, 1, 2)
    dense = F.conv3d(F.pad(to_dense(x), pads), weight, layer.bias, stride=layer.window.stride)
    batch, *at = out.indices.long().T
    wanted = dense[batch, :, at[0], at[1], at[2]]
    torch.testing.assert_close(out.features, wanted)
    weights = torch.rand_like(wanted)
    inputs = (x.features, layer.weight, layer.bias)
    for ours, theirs in zip(
        torch.autograd.grad((out.features * weights).sum(), inputs),
        torch.autograd.grad((wanted * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_even_kernels_go_back_too() -> None:
    x = tensor(3, 50, 7)
    down, up = CellConv(3, 2, 2, 2, 2, bias=False).double(), InverseConv(3, 2, 2, 2, 2, bias=False).double()
    with torch.no_grad():
        up.weight.copy_(down.weight.transpose(-1, -2))
    coarse = down(x)
    torch.testing.assert_close((coarse.features**2).sum(), (x.features * up(coarse, onto=x).features).sum())


@pytest.mark.parametrize(("kernel", "shape"), [(2, 7), (4, 8), (4, 3)])
def test_the_way_back_does_not_need_the_same_objects(kernel: int, shape: int) -> None:
    x = tensor(2, 30, shape)
    down, up = CellConv(2, 2, 3, kernel, 2).double(), InverseConv(2, 3, 2, kernel, 2).double()
    coarse = down(x)
    back = up(coarse, onto=x)
    same = SparseTensor(x.features, x.indices, spatial_shape=x.spatial_shape, batch_size=2)
    cells = SparseTensor(coarse.features, coarse.indices, spatial_shape=coarse.spatial_shape, batch_size=2)
    assert torch.equal(up(coarse, onto=same).features, back.features)
    assert torch.equal(up(cells, onto=x).features, back.features)
