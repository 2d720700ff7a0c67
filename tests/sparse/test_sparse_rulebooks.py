"""Rulebooks: hash table and sorted keys give the same, beyond 2^63 sites too; what is shared between layers."""

import pytest
import torch
from sparse_grids import random_tensor

from vision3d.core import SparseTensor
from vision3d.core.sparse_tensor import Sites
from vision3d.sparse import KernelMap, SparseConv, SubmanifoldConv, Window, hash_maps, sorted_maps

HUGE = (2**31 - 1,) * 6
WINDOWS = [Window.of(3, 3, 2, 1), Window.of(3, (2, 3, 1), (1, 2, 3), (1, 0, 2), (3, 1, 1)), Window.of(3, 4, 4)]


def same(a: KernelMap, b: KernelMap) -> None:
    assert a.starts == b.starts and (a.inputs, a.outputs, a.symmetric) == (b.inputs, b.outputs, b.symmetric)
    assert torch.equal(a.in_rows, b.in_rows) and torch.equal(a.out_rows, b.out_rows)


def in_order(x: SparseTensor) -> SparseTensor:
    order = torch.unique(x.indices, dim=0, return_inverse=True)[1].argsort()
    return SparseTensor(x.features[order], x.indices[order], x.spatial_shape, x.batch_size)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_hash_and_sort_agree(window: Window, ordered: bool) -> None:
    x = random_tensor((9, 10, 11), 300, 1)
    x = in_order(x) if ordered else x
    shape = window.output_shape(x.spatial_shape)
    for transposed, grid in ((False, shape), (True, window.transposed_shape(x.spatial_shape, (0, 0, 0)))):
        sites, book = hash_maps.map_onto_touched(x.sites, window, grid, transposed)
        sites2, book2 = sorted_maps.map_onto_touched(x.sites, window, grid, transposed)
        assert torch.equal(sites.indices, sites2.indices) and sites.spatial_shape == sites2.spatial_shape == grid
        same(book, book2)
        same(book.transposed(), book2.transposed())
    coarse = Sites(hash_maps.map_onto_touched(x.sites, window, shape, False)[0].indices.flip(0), shape, 2)
    same(hash_maps.map_between(x.sites, coarse, window), sorted_maps.map_between(x.sites, coarse, window))
    for size in (3, (2, 3, 4), 1):
        here = Window.submanifold(3, size)
        same(hash_maps.map_between(x.sites, x.sites, here), sorted_maps.map_between(x.sites, x.sites, here))


def test_grids_beyond_64_bits() -> None:
    """Six dimensions of 2^31-1: keys are mixed, so sites themselves must be compared."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.randint(0, 3, (200, 6), generator=generator)
    far = torch.where(torch.rand(200, 6, generator=generator) < 0.5, corner, 2**31 - 2 - corner)
    indices = torch.unique(torch.cat([torch.randint(0, 2, (200, 1), generator=generator), far], 1).int(), dim=0)
    indices = indices[torch.randperm(len(indices), generator=generator)]
    x = SparseTensor(torch.randn(len(indices), 2), indices, HUGE, 2)
    window = Window.submanifold(6, (3, 1, 3, 1, 1, 3))
    book = hash_maps.map_between(x.sites, x.sites, window)
    same(book, sorted_maps.map_between(x.sites, x.sites, window))
    assert len(book) > len(x)
    known = {tuple(row): i for i, row in enumerate(indices.tolist())}
    for k, element in enumerate(window.elements()):
        offset = [e - n // 2 for e, n in zip(element, window.kernel_size, strict=True)]
        pairs = set(
            zip(*(t[book.starts[k] : book.starts[k + 1]].tolist() for t in (book.in_rows, book.out_rows)), strict=True)
        )
        expected = {
            (known[near], i)
            for site, i in known.items()
            if (near := (site[0], *(a + b for a, b in zip(site[1:], offset, strict=True)))) in known
        }
        assert pairs == expected
    stride = Window.of(6, (3, 1, 2, 1, 1, 2), 2, (1, 0, 0, 0, 0, 1))
    ours = hash_maps.map_onto_touched(x.sites, stride, stride.output_shape(HUGE), False)
    theirs = sorted_maps.map_onto_touched(x.sites, stride, stride.output_shape(HUGE), False)
    assert torch.equal(ours[0].indices, theirs[0].indices)
    same(ours[1], theirs[1])


def test_equal_keys_of_different_sites_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(hash_maps, "factors", lambda extents: np.ones(len(extents), np.uint64))
    monkeypatch.setattr(hash_maps, "fits", lambda extents: False)
    x = random_tensor((5, 6, 7), 100, 1)
    window = Window.of(3, 3, 2, 1)
    assert torch.equal(
        hash_maps.map_onto_touched(x.sites, window, (3, 3, 4), False)[0].indices,
        sorted_maps.map_onto_touched(x.sites, window, (3, 3, 4), False)[0].indices,
    )
    here = Window.submanifold(3, 3)
    same(hash_maps.map_between(x.sites, x.sites, here), sorted_maps.map_between(x.sites, x.sites, here))


def test_layers_share_rulebooks() -> None:
    x = random_tensor((8, 8, 8), 60, 4)
    first, second = SubmanifoldConv(3, 4, 4, 3).double(), SubmanifoldConv(3, 4, 8, 3).double()
    down = SparseConv(3, 8, 4, 3, 2, 1).double()
    y = second(first(x))
    books = {key: value for key, value in x.sites.cache.items() if key[0] == "submanifold"}
    assert y.sites is x.sites and len(books) == 1
    assert down(y).sites is down(second(x)).sites
    assert SubmanifoldConv(3, 4, 4, 3, dilation=2).double()(x).sites is x.sites
    assert len([key for key in x.sites.cache if key[0] == "submanifold"]) == 2


@pytest.mark.parametrize("shape", [(7,), (3, 4), (4, 4, 4), (2, 2, 2, 2, 2, 2)])
def test_empty_and_single(shape: tuple[int, ...]) -> None:
    for count in (0, 1):
        x = random_tensor(shape, count, 3)
        for layer in (SubmanifoldConv(len(shape), 3, 2, 3), SparseConv(len(shape), 3, 2, 3, 2, 1)):
            y = layer.double()(x)
            assert len(y) == count and y.channels == 2
            y.features.sum().backward()
            assert layer.weight.grad is not None and bool(torch.isfinite(layer.weight.grad).all())
    same(
        hash_maps.map_between(x.sites, x.sites, Window.submanifold(len(shape), 3)),
        sorted_maps.map_between(x.sites, x.sites, Window.submanifold(len(shape), 3)),
    )
