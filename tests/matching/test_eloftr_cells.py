"""Coarse matching of Efficient LoFTR: cells as in the whole matrix, likely pairs, the optimised mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vision3d.matching.eloftr import EfficientLoFTRConfig
from vision3d.matching.eloftr import likely_pairs as likely_pairs_module
from vision3d.matching.eloftr.coarse import _likely_pairs, confidence_matrix, match_cells
from vision3d.matching.eloftr.likely_pairs import TINY, likely_pairs


@pytest.mark.parametrize("threshold", [0.2, 1e-3])  # once through the matrix, and twice
def test_cells_match_as_in_the_whole_matrix(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    monkeypatch.setattr("vision3d.matching.eloftr.coarse.BLOCK", 500)  # many blocks
    generator = torch.Generator().manual_seed(3)
    cells1 = torch.randn(1, 64, 9, 12, generator=generator)
    cells0 = (cells1 + 0.5 * torch.randn(1, 64, 9, 12, generator=generator)).roll((2, 3), (2, 3))
    valid0, valid1 = torch.ones(1, 9, 12, dtype=torch.bool), torch.ones(1, 9, 12, dtype=torch.bool)
    valid0[:, :, 10:] = False
    config = EfficientLoFTRConfig(threshold=threshold, border=1, temperature=0.1)
    found = match_cells(cells0, cells1, valid0, valid1, config)

    keep = valid0.flatten().nonzero()[:, 0]
    matrix = confidence_matrix(cells0[0].flatten(1).T[keep], cells1[0].flatten(1).T, 0.1)
    mutual = (matrix == matrix.amax(1, keepdim=True)) & (matrix == matrix.amax(0)) & (matrix > threshold)
    expected = {}
    for row, column in mutual.nonzero().tolist():
        cell = int(keep[row])
        inside0 = 1 <= cell // 12 < 8 and 1 <= cell % 12 < 9
        inside1 = 1 <= column // 12 < 8 and 1 <= column % 12 < 11
        if inside0 and inside1:
            expected[cell, column] = float(matrix[row, column])
    assert list(zip(found.cells0.tolist(), found.cells1.tolist(), strict=True)) == list(expected)
    np.testing.assert_allclose(found.confidence, list(expected.values()), rtol=1e-5)
    assert 20 < len(expected) < len(keep)


@pytest.mark.parametrize("scale", [1.0, 6.0])  # with the larger one, columns fall far below the greatest similarity
@pytest.mark.parametrize("held", [1 << 20, 1])  # column sums at once: all chunks, or eight and eight
def test_likely_pairs_equal_their_twin(scale: float, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likely_pairs_module, "SUMS", held)
    n, m = 9 * likely_pairs_module.CHUNK + 7, 1003  # neither fills its chunks or vectors
    generator = torch.Generator().manual_seed(4)
    rows1 = torch.randn(m, 32, generator=generator) * scale
    rows0 = rows1[torch.randperm(m, generator=generator)[:n]] + 0.3 * torch.randn(n, 32, generator=generator)
    rows1[:300] *= 0.1  # matched, but far less alike than others
    rows0 *= 0.3
    logits = rows0.double() @ rows1.double().T
    row, column = (logits.softmax(1) > 0.05).nonzero().T
    exact = (logits.softmax(1) * logits.softmax(0))[row, column]
    twin = _likely_pairs(rows0, rows1, 0.05)
    rounding = 2e-5 + 5e-7 * float(logits.abs().max())  # float32 logits go through an exponential
    found = likely_pairs(rows0, rows1, 0.05)
    assert torch.equal(found[0], row) and torch.equal(found[1], column)
    torch.testing.assert_close(found[2].double(), exact, rtol=rounding, atol=1e-12)
    torch.testing.assert_close(found[2], twin[2], rtol=rounding, atol=1e-12)
    lost = torch.exp(logits.amax(0) - logits.amax()).sort().values
    assert len(row) > 800 and (float(lost[0]) < TINY) == (scale > 1)


def test_likely_pairs_do_not_depend_on_threads() -> None:
    rows = torch.randn(500, 16, generator=torch.Generator().manual_seed(7))
    several = likely_pairs(rows, rows, 0.1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = likely_pairs(rows, rows, 0.1)
    finally:
        torch.set_num_threads(threads)
    assert len(alone[0]) > 400 and all(torch.equal(a, b) for a, b in zip(several, alone, strict=True))


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (1, 1)])
def test_likely_pairs_of_next_to_nothing(n: int, m: int) -> None:
    row, column, confidence = likely_pairs(torch.ones(n, 4), torch.ones(m, 4), 0.2)
    assert row.tolist() == column.tolist() == [0] * min(n, m) and np.allclose(confidence, 1)


def test_optimised_mode_compares_similarities() -> None:
    generator = torch.Generator().manual_seed(3)
    cells = torch.randn(1, 64, 6, 6, generator=generator)
    valid = torch.ones(1, 6, 6, dtype=torch.bool)
    config = EfficientLoFTRConfig(mode="optimised", threshold=5.0, border=0)
    found = match_cells(cells, 0.9 * cells, valid, valid, config)
    similarity = 0.9 * cells.square().sum(1).flatten() / (64 * 0.1)
    assert found.cells0.tolist() == found.cells1.tolist() == (similarity > 5).nonzero()[:, 0].tolist()
    kept = similarity[similarity > 5]
    torch.testing.assert_close(found.confidence, kept / (kept + 5))
