"""Pooling over active sites equals dense pooling; gradients by finite differences; the torch twins agree."""

import pytest
import torch
import torch.nn.functional as F
from sparse_grids import dense, random_tensor

from vision3d.core import SparseTensor
from vision3d.sparse import SparseAvgPool, SparseMaxPool, Window, fused_pooling, global_pool, pooling, rulebooks

WINDOWS = [(2, 2, 0), (3, 2, 1), ((3, 2, 3), (1, 2, 3), (1, 0, 1))]


@pytest.mark.parametrize("window", WINDOWS)
def test_max_equals_dense_with_minus_infinity(window: tuple) -> None:
    x = random_tensor((6, 7, 8), 60, 4)
    y = SparseMaxPool(3, *window)(x)
    empty = dense(x.with_features(torch.ones_like(x.features))) == 0
    full = F.max_pool3d(dense(x).masked_fill(empty, -torch.inf), *window).movedim(1, -1)
    assert torch.equal(y.features, full[tuple(y.indices.long().T)])


@pytest.mark.parametrize("window", WINDOWS)
def test_mean_equals_dense_sum_over_count(window: tuple) -> None:
    x = random_tensor((6, 7, 8), 60, 4)
    y = SparseAvgPool(3, *window)(x)
    count = dense(x.with_features(torch.ones_like(x.features)))
    full = F.avg_pool3d(dense(x), *window) / F.avg_pool3d(count, *window)
    torch.testing.assert_close(y.features, full.movedim(1, -1)[tuple(y.indices.long().T)])


@pytest.mark.parametrize("layer", [SparseMaxPool(4, 2), SparseAvgPool(4, (3, 1, 2, 2), 1, (1, 0, 0, 1))])
def test_gradients(layer: torch.nn.Module) -> None:
    x = random_tensor((3, 4, 3, 3), 20, 2)
    x.features.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: layer(x.with_features(f)).features, (x.features,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_equal_their_twins(dtype: torch.dtype) -> None:
    x = random_tensor((30, 40), 700, 5, dtype=dtype)
    x.features[::7] = x.features[3]  # ties go to the first kernel element in both
    for rulebook in (
        rulebooks.strided(x.sites, Window.of(2, 3, 2, 1))[1],
        rulebooks.submanifold(x.sites, Window.submanifold(2, 3)),
    ):
        for ours, twin in zip(
            fused_pooling.max_along(x.features, rulebook), pooling.max_along(x.features, rulebook), strict=True
        ):
            assert torch.equal(ours, twin)
        total, twin = fused_pooling.sum_along(x.features, rulebook), pooling.sum_along(x.features, rulebook)
        torch.testing.assert_close(total, twin)


def test_bfloat16_and_empty() -> None:
    x = random_tensor((6, 6), 20, 3, dtype=torch.bfloat16)
    y = SparseMaxPool(2, 2)(x)
    z = SparseMaxPool(2, 2)(x.with_features(x.features.float()))
    assert y.features.dtype == torch.bfloat16 and torch.equal(y.features.float(), z.features)
    nothing = random_tensor((6, 6), 0, 3)
    assert len(SparseMaxPool(2, 2)(nothing)) == len(SparseAvgPool(2, 2)(nothing)) == 0


def test_global_pool() -> None:
    x = random_tensor((5, 5), 30, 3)
    x = SparseTensor(x.features, x.indices, x.spatial_shape, 3)  # the third grid is empty
    mean, largest = global_pool(x)
    for b in range(2):
        mine = x.features[x.indices[:, 0] == b]
        torch.testing.assert_close(mean[b], mine.mean(0))
        assert torch.equal(largest[b], mine.amax(0))
    assert not bool(mean[2].any()) and not bool(largest[2].any())
