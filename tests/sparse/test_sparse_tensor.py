"""SparseTensor refuses what is not a set of sites; dense grids, sums, concatenation; spconv's tensors."""

from types import SimpleNamespace

import pytest
import torch
from sparse_grids import dense, random_tensor, rows

from vision3d.core import SparseTensor, Vision3DError
from vision3d.sparse import (
    SparseBatchNorm,
    SparseReLU,
    SparseSequential,
    SubmanifoldConv,
    concatenate,
    from_dense,
    from_spconv,
    to_dense,
    to_spconv,
    union,
)

GOOD = torch.tensor([[0, 1, 2], [1, 0, 0], [0, 1, 3]])


def make(indices: torch.Tensor, features: torch.Tensor | None = None, shape=(4, 5), batch_size=2) -> SparseTensor:  # type: ignore[no-untyped-def]
    return SparseTensor(torch.zeros(len(indices), 2) if features is None else features, indices, shape, batch_size)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_good_indices_pass(kind: torch.dtype) -> None:
    x = make(GOOD.to(kind))
    assert (len(x), x.dimensions, x.channels) == (3, 2, 2)
    assert len(make(GOOD[:0])) == 0


@pytest.mark.parametrize(
    "indices, message",
    [
        (torch.tensor([[0, 1, 2], [0, 0, 0], [0, 1, 2]]), "1 sites more than once"),
        (torch.tensor([[0, 1, -1]]), "dimension 1 runs from -1 to -1, allowed is 0 to 4"),
        (torch.tensor([[0, 4, 0]]), "dimension 0 runs from 4 to 4, allowed is 0 to 3"),
        (torch.tensor([[2, 0, 0]]), "batch index runs from 2 to 2"),
        (torch.tensor([[-1, 0, 0]]), "batch index runs from -1"),
        (torch.tensor([[0, 0]]), r"must be \[m 3\] \(batch first\)"),
        (torch.tensor([[0, 0, 0]], dtype=torch.int16), "int32 or int64, got torch.int16"),
    ],
)
def test_bad_indices_are_refused(indices: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(indices)


def test_bad_grids_and_features_are_refused() -> None:
    with pytest.raises(ValueError, match="extents must lie in"):
        make(GOOD, shape=(4, 2**31))
    with pytest.raises(ValueError, match="extents must lie in"):
        make(GOOD, batch_size=0)
    with pytest.raises(ValueError, match="1 to 6 dimensions"):
        SparseTensor(torch.zeros(1, 1), torch.zeros(1, 8, dtype=torch.int32), (2,) * 7, 1)
    with pytest.raises((ValueError, TypeError), match="4"):
        make(GOOD, torch.zeros(4, 2))


def test_duplicates_beyond_64_bits_are_found() -> None:
    site = [0, *(2**31 - 2,) * 6]
    indices = torch.tensor([site, [0] * 7, site], dtype=torch.int32)
    with pytest.raises(ValueError, match="1 sites more than once"):
        SparseTensor(torch.zeros(3, 1), indices, (2**31 - 1,) * 6, 1)
    assert len(SparseTensor(torch.zeros(2, 1), indices[:2], (2**31 - 1,) * 6, 1)) == 2


def test_layers_refuse_other_channels_and_dimensions() -> None:
    layer = SubmanifoldConv(2, 3, 4, 3)
    with pytest.raises(ValueError, match="2 dimensions and 3 channels, got 2 and 2"):
        layer(make(GOOD))
    with pytest.raises(ValueError, match="kernel_size must be at least 1, one number or 2"):
        SubmanifoldConv(2, 3, 4, (3, 3, 3))


@pytest.mark.parametrize("shape", [(9,), (4, 5), (3, 4, 5), (2, 3, 2, 3, 2, 3)])
def test_dense_and_back(shape: tuple[int, ...]) -> None:
    x = random_tensor(shape, 12, 3)
    grid = to_dense(x)
    assert grid.shape == (2, 3, *shape)
    assert torch.equal(grid, dense(x))
    back = from_dense(grid)
    assert {site: row.tolist() for site, row in rows(back).items()} == {s: r.tolist() for s, r in rows(x).items()}
    everything = from_dense(grid, torch.ones(2, *shape, dtype=torch.bool))
    assert len(everything) == grid[:, 0].numel()
    assert torch.equal(to_dense(everything), grid)
    x.features.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: to_dense(x.with_features(f)), (x.features,))


def test_grids_too_large_for_memory_are_refused() -> None:
    x = SparseTensor(torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.int32), (10**5,) * 3, 1)
    with pytest.raises(ValueError, match="numbers"):
        to_dense(x)


def test_union_adds_different_sites() -> None:
    a, b, c = (random_tensor((4, 5), 15, 2, seed=seed) for seed in (1, 2, 3))
    for x in (a, b):
        x.features.requires_grad_()
    united = union(a, b, c)
    torch.testing.assert_close(dense(united), dense(a) + dense(b) + dense(c), atol=0, rtol=0)
    keys = united.indices.tolist()
    assert keys == sorted(keys) and len(united) == len({*rows(a), *rows(b), *rows(c)})
    united.features.square().sum().backward()
    expected = torch.autograd.grad((dense(a) + dense(b) + dense(c)).square().sum(), [a.features, b.features])
    torch.testing.assert_close([a.features.grad, b.features.grad], list(expected))
    same = union(a, a.with_features(2 * a.features))
    assert same.sites is a.sites and torch.allclose(same.features, 3 * a.features)
    with pytest.raises(ValueError, match="cannot be added"):
        union(a, random_tensor((4, 6), 3, 2))


def test_union_beyond_64_bits() -> None:
    shape = (2**31 - 1,) * 6
    far = torch.tensor([[0, *(2**31 - 2 - i for i in range(6))], [0] * 7], dtype=torch.int32)
    a = SparseTensor(torch.ones(2, 1), far, shape, 1)
    b = SparseTensor(torch.ones(1, 1), far[:1].clone(), shape, 1)
    united = union(a, b)
    assert united.indices.tolist() == far.flip(0).tolist() and united.features[:, 0].tolist() == [1, 2]


def test_concatenate() -> None:
    x = random_tensor((4, 5), 9, 2)
    y = SubmanifoldConv(2, 2, 3, 3).double()(x)
    both = concatenate(x, y)
    assert both.sites is x.sites and torch.equal(both.features, torch.cat([x.features, y.features], 1))
    copy = SparseTensor(x.features, x.indices.clone(), x.spatial_shape, 2)
    assert concatenate(x, copy).channels == 4
    with pytest.raises(ValueError, match="use union"):
        concatenate(x, random_tensor((4, 5), 9, 2, seed=5))


def test_norm_and_relu_see_features() -> None:
    x = random_tensor((4, 5), 12, 3)
    plain = SparseSequential(SubmanifoldConv(2, 3, 4, 3), torch.nn.BatchNorm1d(4), torch.nn.ReLU()).double()
    ours = SparseSequential(SubmanifoldConv(2, 3, 4, 3), SparseBatchNorm(4), SparseReLU()).double()
    ours.load_state_dict(plain.state_dict())
    assert torch.equal(plain(x).features, ours(x).features)
    assert torch.equal(plain[1].running_mean, ours[1].running_mean)
    for count in (0, 1):
        y = ours(random_tensor((4, 5), count, 3))
        assert len(y) == count and bool(torch.isfinite(y.features).all())


def test_spconv_tensors() -> None:
    """An object with spconv's attributes; the package itself is not needed for that."""
    theirs = SimpleNamespace(features=torch.randn(3, 2), indices=GOOD.int(), spatial_shape=[4, 5], batch_size=2)
    x = from_spconv(theirs)
    assert x.spatial_shape == (4, 5) and x.batch_size == 2 and torch.equal(x.features, theirs.features)
    theirs.indices = GOOD[[0, 0, 1]].int()
    with pytest.raises(ValueError, match="more than once"):
        from_spconv(theirs)


def test_to_spconv(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    x = make(GOOD)
    monkeypatch.setitem(sys.modules, "spconv", None)
    with pytest.raises(Vision3DError, match="pip install spconv"):
        to_spconv(x)
    stub = SimpleNamespace(SparseConvTensor=lambda *args: args)
    monkeypatch.setitem(sys.modules, "spconv", SimpleNamespace(pytorch=stub))
    monkeypatch.setitem(sys.modules, "spconv.pytorch", stub)
    features, indices, shape, batch_size = to_spconv(x)
    assert features is x.features and indices.dtype == torch.int32 and (shape, batch_size) == ([4, 5], 2)
    with pytest.raises(ValueError, match="at most 4"):
        to_spconv(random_tensor((2,) * 5, 2, 1))
