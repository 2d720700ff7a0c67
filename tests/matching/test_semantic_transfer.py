"""Rules of transfer against plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vision3d.core import UsageError
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.frozen import TransferConfig, carry
from vision3d.matching.semantic.transfer import (
    coming_back,
    mutual_cells,
    mutual_distance,
    neighbours,
    peak,
    sample,
    similarities,
    soft_peak,
)


def grid(seed: int, c: int = 6, h: int = 5, w: int = 7) -> Tensor:
    return F.normalize(torch.randn(c, h, w, generator=torch.Generator().manual_seed(seed)), dim=0)


def test_sampling_equals_loops() -> None:
    features = grid(0)
    cells = torch.tensor([[0.0, 0.0], [2.25, 3.5], [6.0, 4.0], [-0.5, 4.4], [6.49, -0.3], [5.999, 0.001]])
    for (x, y), found in zip(cells.tolist(), sample(features, cells), strict=True):
        x, y = min(max(x, 0.0), 6.0), min(max(y, 0.0), 4.0)
        total = torch.zeros(6)
        for i in range(5):
            for j in range(7):
                total += max(0.0, 1 - abs(x - j)) * max(0.0, 1 - abs(y - i)) * features[:, i, j]
        assert torch.allclose(found, total / total.norm(), atol=1e-6)


def test_sampling_a_single_cell() -> None:
    assert torch.allclose(sample(grid(0, h=1, w=1), torch.tensor([[0.3, -0.4]])), grid(0, h=1, w=1)[:, :, 0].T)


def test_peaks_equal_loops() -> None:
    scores = torch.randn(40, 5, 7, generator=torch.Generator().manual_seed(2))
    for row, found in zip(scores.numpy(), peak(scores).numpy(), strict=True):
        y, x = np.unravel_index(row.argmax(), row.shape)
        where = [float(x), float(y)]
        for axis, at, line in ((0, x, row[y]), (1, y, row[:, x])):
            if 0 < at < len(line) - 1:
                left, middle, right = (float(v) for v in line[at - 1 : at + 2])
                where[axis] += 0.5 * (left - right) / (left - 2 * middle + right)
        assert np.allclose(found, where, atol=1e-4)


def test_a_parabola_is_found_between_cells() -> None:
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    scores = 1 - 0.01 * ((x - 3.3) ** 2 + (y - 2.4) ** 2)
    assert torch.allclose(peak(scores[None]), torch.tensor([[3.3, 2.4]]), atol=1e-3)
    allowed = torch.zeros(1, 6, 8, dtype=torch.bool)
    allowed[0, 5, 7] = True
    assert peak(scores[None], allowed).tolist() == [[7.0, 5.0]]


def test_flat_scores_give_the_first_cell() -> None:
    assert peak(torch.zeros(2, 4, 5)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("window", [0, 1, 2])
def test_window_soft_argmax_equals_loops(window: int) -> None:
    scores = torch.randn(20, 5, 7, generator=torch.Generator().manual_seed(3))
    for row, found in zip(scores.numpy(), soft_peak(scores, window, 0.2).numpy(), strict=True):
        y, x = np.unravel_index(row.argmax(), row.shape)
        total, sums = 0.0, [0.0, 0.0]
        for i in range(5):
            for j in range(7):
                if window == 0 or (abs(i - y) <= window and abs(j - x) <= window):
                    weight = math.exp((float(row[i, j]) - float(row.max())) / 0.2)
                    total, sums = total + weight, [sums[0] + weight * j, sums[1] + weight * i]
        assert np.allclose(found, [sums[0] / total, sums[1] / total], atol=1e-4)


def test_neighbours_and_mutual_cells_equal_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision3d.matching.semantic.transfer.BLOCK", 100)  # several blocks of rows
    grid0, grid1 = grid(4), grid(5, h=4, w=9)
    a, b = grid0.flatten(1).T.numpy(), grid1.flatten(1).T.numpy()
    forward = [max(range(len(b)), key=lambda j: float(a[i] @ b[j])) for i in range(len(a))]
    back = [max(range(len(a)), key=lambda i: float(a[i] @ b[j])) for j in range(len(b))]
    found = neighbours(grid0, grid1)
    assert found[0].tolist() == forward and found[1].tolist() == back
    pairs = [(i, j) for i, j in enumerate(forward) if back[j] == i]
    cells0, cells1, similarity = mutual_cells(grid0, grid1)
    assert cells0.tolist() == [[i % 7, i // 7] for i, _ in pairs]
    assert cells1.tolist() == [[j % 9, j // 9] for _, j in pairs]
    assert np.allclose(similarity, [float(a[i] @ b[j]) for i, j in pairs], atol=1e-6)
    distance = np.mean([np.linalg.norm(a[i] - b[j]) for i, j in pairs])
    assert mutual_distance(grid0, grid1) == pytest.approx(distance, abs=1e-5)
    point = torch.tensor([[2.2, 1.4]])
    near = [abs(back[j] % 7 - 2.2) <= 1.5 and abs(back[j] // 7 - 1.4) <= 1.5 for j in range(len(b))]
    assert any(near) and not all(near)
    assert coming_back(grid0, grid1, point, 1.5)[0].flatten().tolist() == near


def test_equal_grids_always_have_a_mutual_pair() -> None:
    flat = F.normalize(torch.ones(3, 4, 4), dim=0)
    cells0, cells1, similarity = mutual_cells(flat, flat)
    assert len(cells0) == len(cells1) == 1 and float(similarity) == pytest.approx(1)
    assert bool(coming_back(flat, flat, torch.tensor([[3.0, 3.0]]), 1.0).all())  # nothing comes back: all stay


@pytest.mark.parametrize("rule", ["nearest", "mutual", "soft"])
def test_points_are_carried_to_where_the_features_are(rule: str) -> None:
    source = grid(6, c=32, h=12, w=16)
    target = torch.roll(source, (2, -3), dims=(1, 2))
    described = DenseFeatures(source, (320, 240)), DenseFeatures(target, (640, 120))
    points = torch.tensor([[150.0, 110.0], [250.0, 130.0]])  # cells (7, 5) and (12, 6)
    found = carry(*described, points, TransferConfig(rule=rule, temperature=0.01))
    assert torch.allclose(found, torch.tensor([[180.0, 75.0], [380.0, 85.0]]), atol=8)


def test_the_mirror_image_is_chosen_where_it_looks_alike() -> None:
    source = grid(7, c=32, h=12, w=16)
    target = source.flip(2)
    described = DenseFeatures(source, (160, 120), source.flip(2)), DenseFeatures(target, (160, 120), source)
    points = torch.tensor([[35.0, 45.0]])
    flipped = carry(*described, points, TransferConfig(flip=True))
    assert torch.allclose(flipped, torch.tensor([[125.0, 45.0]]), atol=1.5)
    same = carry(described[0], described[0], points, TransferConfig(flip=True))
    assert torch.allclose(same, points, atol=1.5)
    with pytest.raises(ValueError, match="mirror"):
        carry(DenseFeatures(source, (160, 120)), described[1], points, TransferConfig(flip=True))


def test_results_stay_inside_the_picture_and_are_finite() -> None:
    generator = torch.Generator().manual_seed(8)
    for h, w in ((1, 1), (2, 1), (3, 3), (5, 7)):
        for flat in (False, True):
            target = F.normalize(torch.ones(4, h, w), dim=0) if flat else grid(h, c=4, h=h, w=w)
            described = DenseFeatures(grid(9, c=4), (90, 50)), DenseFeatures(target, (33, 21))
            points = torch.rand(50, 2, generator=generator) * 120 - 20  # some outside
            for rule in ("nearest", "mutual", "soft"):
                found = carry(*described, points, TransferConfig(rule=rule))
                assert torch.isfinite(found).all()
                assert bool((found >= 0).all()) and bool((found <= torch.tensor([33.0, 21.0])).all())
    assert carry(*described, torch.zeros(0, 2), TransferConfig()).shape == (0, 2)
    with pytest.raises(ValueError, match="finite"):
        carry(*described, torch.tensor([[math.nan, 1.0]]), TransferConfig())


def test_similarities_are_cosines() -> None:
    features = grid(10)
    assert float(similarities(sample(features, torch.tensor([[3.0, 2.0]])), features)[0, 2, 3]) == pytest.approx(1)


@pytest.mark.parametrize("wrong", [{"window": -1}, {"temperature": 0.0}, {"within": 0.1}])
def test_wrong_settings_are_said(wrong: dict) -> None:
    with pytest.raises(UsageError):
        TransferConfig(**wrong)
