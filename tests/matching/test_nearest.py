"""Nearest neighbours: the int8 path against plain torch, chunks against one block, laws."""

import pytest
import torch
from torch import Tensor

from vision3d.matching import nearest
from vision3d.matching.nearest import match_ratio, match_ratio_slow, mutual_nearest, quantise


def _descriptors(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    # sparse like gradient histograms, so that some similarities are high and some equal
    raw = torch.rand(n, 128, generator=generator) ** 4
    return quantise((raw / raw.sum(1, keepdim=True).clamp(min=1e-9)).sqrt())


def _noisy(descriptors: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shuffled = descriptors[torch.randperm(len(descriptors), generator=generator)]
    return quantise((shuffled + 0.02 * torch.randn(shuffled.shape, generator=generator)).clamp(min=0))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (7, 1), (2, 2), (300, 500), (515, 260)])
@pytest.mark.parametrize("ratio", [0.8, 1.0])
def test_equals_the_slow_twin(n: int, m: int, ratio: float) -> None:
    a = _descriptors(n, 0)
    b = torch.cat([_noisy(a, 1), _descriptors(m, 2)])[:m]
    fast = match_ratio(a, b, ratio=ratio, max_distance=0.9)
    slow = match_ratio_slow(a, b, ratio=ratio, max_distance=0.9)
    assert torch.equal(fast.indices, slow.indices)
    assert torch.allclose(fast.scores, slow.scores, atol=1e-6)
    if min(n, m) > 200:
        assert len(fast) > 100


@pytest.mark.parametrize("int8", [True, False])
def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, int8: bool) -> None:
    a = _descriptors(150, 0)
    b = torch.cat([_noisy(a, 1), a[:20], a[:20]])  # equal descriptors: ties go to the lower index
    expected = match_ratio_slow(a, b, ratio=1.1, max_distance=0.9)
    monkeypatch.setattr(nearest, "BLOCK_INDICES", 64)
    monkeypatch.setattr(nearest, "ROWS", 16)
    monkeypatch.setattr(nearest, "_int8_is_fast", lambda: int8)
    found = match_ratio(a, b, ratio=1.1, max_distance=0.9)
    assert torch.equal(found.indices, expected.indices)


def test_swapping_the_photos_swaps_the_matches() -> None:
    a = _descriptors(200, 0)
    b = _noisy(a, 1)[:150]
    there = match_ratio(a, b, ratio=0.8, max_distance=0.7)
    back = match_ratio(b, a, ratio=0.8, max_distance=0.7)
    assert sorted(there.indices.tolist()) == sorted(back.indices.flip(1).tolist())


def test_planted_matches_are_found() -> None:
    a = _descriptors(100, 0)
    order = torch.randperm(100)
    found = match_ratio(a, a[order], ratio=0.8, max_distance=0.7)
    assert len(found) == 100
    assert torch.equal(order[found.indices[:, 1]], found.indices[:, 0])
    assert float(found.scores.min()) > 0.8


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (5, 0)])
def test_no_descriptors_give_a_typed_empty_result(n: int, m: int) -> None:
    for match in (match_ratio, match_ratio_slow):
        found = match(torch.zeros(n, 128), torch.zeros(m, 128), ratio=0.8, max_distance=0.7)
        assert found.indices.shape == (0, 2) and found.indices.dtype == torch.int64
    indices, similarity = mutual_nearest(torch.zeros(n, 64), torch.zeros(m, 64))
    assert indices.shape == (0, 2) and similarity.shape == (0,)


def test_mutual_nearest_in_chunks_equals_the_whole_matrix() -> None:
    a, b = torch.randn(333, 64), torch.randn(210, 64)
    similarity = a @ b.T
    index01, index10 = similarity.argmax(1), similarity.argmax(0)
    expected = [(i, int(j)) for i, j in enumerate(index01) if int(index10[j]) == i]
    indices, value = mutual_nearest(a, b, rows=50)
    assert indices.tolist() == [list(p) for p in expected]
    assert torch.allclose(value, similarity[indices[:, 0], indices[:, 1]], atol=1e-4)
