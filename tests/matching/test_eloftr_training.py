"""Supervision and losses of Efficient LoFTR: against loops over pixels, closed forms, and a network that learns."""

import math

import pytest
import torch
from torch import Tensor

from vision3d.data.dense_pairs import pixel_centers, warp_by_homography
from vision3d.matching.eloftr import EfficientLoFTR, EfficientLoFTRConfig
from vision3d.matching.eloftr.coarse import CellPairs, confidence_matrix
from vision3d.matching.eloftr.fine import pixel_confidence
from vision3d.matching.eloftr.loss import MatchingLossConfig, coarse_loss, fine_loss, focal, matching_losses
from vision3d.matching.eloftr.supervision import pixel_targets, true_cells

TINY = EfficientLoFTRConfig(
    widths=(8, 8, 16, 32), blocks=(1, 1, 1, 1), heads=2, pairs=1, fine_extra=4, fine_temperature=1.0,
    fine_origin=0.5, fine_centre=1, border=1,
)  # fmt: skip


def _shifted(x: float, y: float, h: int = 64, w: int = 96) -> tuple[Tensor, Tensor]:
    matrix = torch.tensor([[1.0, 0, x], [0, 1.0, y], [0, 0, 1]], dtype=torch.float64)
    both = (matrix, torch.linalg.inv(matrix))
    to1, to0 = (warp_by_homography(m, (h, w), (h, w))[None] for m in both)
    return to1, to0


def _slow_cells(to1: Tensor, to0: Tensor) -> set[tuple[int, int]]:
    """One pair of photos: cell by cell, the centre by interpolation of four pixels."""
    found = []
    for to in (to1[0], to0[0]):
        rows, columns = to.shape[0] // 8, to.shape[1] // 8
        table = {}
        for r in range(rows):
            for c in range(columns):
                middle = to[8 * r + 3 : 8 * r + 5, 8 * c + 3 : 8 * c + 5].reshape(4, 2).mean(0)
                if torch.isfinite(middle).all():
                    x, y = middle.tolist()
                    if 0 <= x < columns * 8 and 0 <= y < rows * 8:
                        table[r * columns + c] = int(y // 8) * columns + int(x // 8)
        found.append(table)
    return {(a, b) for a, b in found[0].items() if found[1].get(b) == a}


@pytest.mark.parametrize(
    "homography", [[[1, 0, 13], [0, 1, -9], [0, 0, 1]], [[0.9, -0.3, 20], [0.3, 0.9, -8], [5e-4, 0, 1]]]
)
def test_cells_match_both_ways_as_a_loop_finds_them(homography: list[list[float]]) -> None:
    matrix = torch.tensor(homography, dtype=torch.float64)
    to1 = warp_by_homography(matrix, (64, 96), (64, 96))[None]
    to0 = warp_by_homography(torch.linalg.inv(matrix), (64, 96), (64, 96))[None]
    pairs = true_cells(to1, to0, (12, 12))
    assert set(zip(pairs.cells0.tolist(), pairs.cells1.tolist(), strict=True)) == _slow_cells(to1, to0)
    assert len(pairs) > 20
    assert bool((pairs.confidence > 0).all())
    assert bool((pairs.confidence <= 1).all())


def test_pixels_and_offsets_lead_back_to_the_warp() -> None:
    to1, to0 = _shifted(10.3, -6.4)
    pairs = true_cells(to1, to0, (12, 12))
    targets = pixel_targets(to1, pairs, (12, 12))
    for m in range(len(pairs)):
        a, b = int(pairs.cells0[m]), int(pairs.cells1[m])
        for p in range(64):
            q = int(targets.pixel1[m, p])
            own = torch.tensor([a % 12 * 8 + p % 8 + 0.5, a // 12 * 8 + p // 8 + 0.5])
            true = own + torch.tensor([10.3, -6.4])
            corner = torch.tensor([b % 12 * 8.0, b // 12 * 8.0])
            inside = bool(((true >= corner) & (true < corner + 8)).all())
            assert (q >= 0) == inside
            if inside:
                made = corner + torch.tensor([q % 8 + 0.5, q // 8 + 0.5]) + targets.offset[m, p]
                torch.testing.assert_close(made, true, atol=1e-4, rtol=0)
        assert float(pairs.confidence[m]) == pytest.approx(float((targets.pixel1[m] >= 0).float().mean()))


def test_photos_on_a_wider_canvas_have_the_same_cells() -> None:
    """90 px are 12 cells with padding, of which the last hangs over the edge and takes no part."""
    to1, to0 = _shifted(8.0, 0.0, 64, 90)
    pairs = true_cells(to1, to0, (12, 12))
    columns = pairs.cells0 % 12
    assert set(columns.tolist()) == set(range(10))
    assert bool((pairs.cells1 == pairs.cells0 + 1).all())
    assert bool((pairs.confidence == 1).all())


def test_losses_equal_their_definitions() -> None:
    torch.manual_seed(0)
    rows0, rows1 = torch.randn(2, 12, 8, dtype=torch.float64), torch.randn(2, 10, 8, dtype=torch.float64)
    pairs = CellPairs(
        torch.tensor([0, 0, 1]), torch.tensor([3, 4, 11]), torch.tensor([9, 0, 2]), torch.tensor([1.0, 0.5, 0.25])
    )
    config = MatchingLossConfig()
    confidence = confidence_matrix(rows0, rows1, 0.1)
    total = 0.0
    for k, weight in enumerate((1.0, 0.5, 0.25)):
        p = float(confidence[pairs.item[k], pairs.cells0[k], pairs.cells1[k]])
        total += weight / 1.75 * 0.25 * (1 - p) ** 2 * -math.log(p)
    assert float(coarse_loss(rows0, rows1, pairs, 0.1, config)) == pytest.approx(total, rel=1e-5)

    windows0, windows1 = torch.randn(3, 64, 12), torch.randn(3, 100, 12)
    pixel1 = torch.full((3, 64), -1)
    pixel1[0, 5], pixel1[2, 63], pixel1[2, 0] = 17, 0, 63
    made = pixel_confidence(windows0, windows1, 4)
    ps = [float(made[m, p, q]) for m, p, q in ((0, 5, 17), (2, 63, 0), (2, 0, 63))]
    expected = sum((1 - p) ** 2 * -math.log(p) for p in ps) / 3
    # pixel_confidence divides by the features' whole width, as the loss does.
    assert float(fine_loss(windows0, windows1, pixel1, 4, 2.0)) == pytest.approx(expected, rel=1e-4)
    sure = focal(torch.tensor([0.0, math.log(0.5)]), 2.0)
    torch.testing.assert_close(sure, torch.tensor([0.0, 0.25 * math.log(2)]), atol=1e-6, rtol=1e-5)


def test_photos_without_a_common_cell_give_a_loss_of_zero_with_a_gradient() -> None:
    torch.manual_seed(0)
    net = EfficientLoFTR(TINY)
    nothing = torch.full((1, 64, 96, 2), torch.nan)
    losses = matching_losses(
        net, torch.rand(1, 1, 64, 96), torch.rand(1, 1, 64, 96), nothing, nothing, MatchingLossConfig()
    )
    losses["loss"].backward()
    assert all(float(v) == 0 for v in losses.values())
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def test_a_small_network_learns_a_shift() -> None:
    """Sixty steps on one shifted pair: the terms fall, and the matches are where they should be."""
    torch.manual_seed(1)
    net = EfficientLoFTR(TINY)
    wide = torch.nn.functional.interpolate(torch.rand(1, 1, 44, 60), scale_factor=2, mode="bilinear")
    grey0, grey1 = wide[..., 8:72, 12:108].contiguous(), wide[..., 14:78, 3:99].contiguous()
    to1, to0 = _shifted(9.0, -6.0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3)
    history = []
    for _ in range(60):
        losses = matching_losses(net, grey0, grey1, to1, to0, MatchingLossConfig())
        optimiser.zero_grad()
        losses["loss"].backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        optimiser.step()
        history.append({k: float(v.detach()) for k, v in losses.items()})
    assert history[-1]["coarse"] < 0.1 * history[0]["coarse"]
    assert history[-1]["fine"] < 0.6 * history[0]["fine"]
    net.train()  # batch statistics: sixty steps are too few for the running ones
    with torch.no_grad():
        found = net(grey0, grey1)
    away = (found.points1 - found.points0 - torch.tensor([9.0, -6.0])).norm(dim=1)
    assert len(away) > 10
    assert float(away.median()) < 2.0


def test_centres_of_pixels() -> None:
    assert pixel_centers(2, 3)[1, 2].tolist() == [2.5, 1.5]


def test_padding_does_not_change_the_coarse_loss() -> None:
    """Photos of 64 x 96 px, alone and at the top left of a larger canvas."""
    net = EfficientLoFTR(TINY).eval()  # running statistics: those of a batch see the padding
    torch.manual_seed(2)
    grey0, grey1 = torch.rand(1, 1, 64, 96), torch.rand(1, 1, 64, 96)
    to1, to0 = _shifted(9.0, -6.0)
    sizes = torch.tensor([[64, 96]])
    alone = matching_losses(net, grey0, grey1, to1, to0, MatchingLossConfig(), (sizes, sizes))
    room = (0, 32, 0, 64)
    padded = [torch.nn.functional.pad(g, room) for g in (grey0, grey1)]
    wide = [torch.nn.functional.pad(t, (0, 0, *room), value=torch.nan) for t in (to1, to0)]
    large = matching_losses(net, padded[0], padded[1], wide[0], wide[1], MatchingLossConfig(), (sizes, sizes))
    assert float(alone["coarse"]) == pytest.approx(float(large["coarse"]), rel=1e-4)
