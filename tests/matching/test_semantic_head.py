"""Trained heads: the loss against a plain loop, what a head can learn, and its weights file as a matcher."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from spair_copies import photo

from vision3d.core import Image
from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.catalogue import make_semantic_matcher
from vision3d.matching.semantic.head import BottleneckHead, HeadConfig
from vision3d.matching.semantic.head_loss import keypoint_cross_entropy, smoothed_truth
from vision3d.matching.semantic.trained_head import HeadedBackbone, frozen_matcher, trained_head
from vision3d.matching.semantic.transfer import peak, sample, similarities
from vision3d.train.folder import write_weights
from vision3d.weights import find_weights

needs_weights = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")
CONFIG = "task: semantic_head\nsettings: {backbone: efficientnet-lite0, size: 128, head: {hidden: 16, blocks: 2}}\n"


def unit_grid(c: int = 12, h: int = 5, w: int = 7) -> torch.Tensor:
    return F.normalize(torch.randn(c, h, w), dim=0)


def loop_cross_entropy(
    grid0: torch.Tensor, grid1: torch.Tensor, at0: list[float], at1: list[float], temperature: float, sigma: float
) -> float:
    """One pair of points that lie on cells, cell by cell."""
    total = 0.0
    for a, start, b, end in ((grid0, at0, grid1, at1), (grid1, at1, grid0, at0)):
        feature = a[:, int(start[1]), int(start[0])]
        truth, logits = [], []
        for y in range(b.shape[1]):
            for x in range(b.shape[2]):
                truth.append(math.exp(-((x - end[0]) ** 2 + (y - end[1]) ** 2) / (2 * sigma**2)))
                logits.append(float(feature @ b[:, y, x]) / temperature)
        log_sum = math.log(sum(math.exp(v) for v in logits))
        total -= sum(t / sum(truth) * (v - log_sum) for t, v in zip(truth, logits, strict=True)) / 2
    return total


def test_the_loss_equals_a_plain_loop() -> None:
    grid0, grid1 = unit_grid(), unit_grid()
    cells0, cells1 = torch.tensor([[2.0, 1.0], [0.0, 4.0]]), torch.tensor([[6.0, 3.0], [3.0, 0.0]])
    found = keypoint_cross_entropy(grid0, grid1, cells0, cells1, temperature=0.2, sigma=0.8)
    wanted = [
        loop_cross_entropy(grid0, grid1, a, b, 0.2, 0.8) for a, b in zip(cells0.tolist(), cells1.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=1e-5)


def test_points_outside_the_view_do_not_count() -> None:
    grid = unit_grid()
    cells0 = torch.tensor([[2.0, 1.0], [2.0, 1.0], [-0.6, 1.0], [6.5, 4.5]])
    cells1 = torch.tensor([[2.0, 1.0], [2.0, 4.6], [2.0, 1.0], [-0.5, -0.5]])
    loss = keypoint_cross_entropy(grid, grid, cells0, cells1, temperature=0.1, sigma=1.0)
    assert loss[0] > 0 and loss[3] > 0 and loss[1] == 0 and loss[2] == 0
    truth, inside = smoothed_truth(cells0, (7, 5), 1.0)
    assert inside.tolist() == [True, True, False, True]
    torch.testing.assert_close(truth.sum(dim=1), torch.ones(4))
    assert int(truth[0].argmax()) == 1 * 7 + 2
    none = keypoint_cross_entropy(grid, grid, cells0[:0], cells1[:0], temperature=0.1, sigma=1.0)
    assert none.shape == (0,)


def test_an_untrained_head_changes_nothing() -> None:
    head = BottleneckHead(12, HeadConfig(hidden=8, blocks=3)).eval()
    grids = torch.stack([unit_grid(), unit_grid()])
    torch.testing.assert_close(head(grids), grids)
    assert not torch.equal(head.train()(grids), grids)  # channels are left out while training


def test_a_head_learns_a_toy_set_by_heart() -> None:
    grids = torch.stack([unit_grid(16, 8, 8) for _ in range(4)])
    cells = torch.stack([torch.randperm(64)[:5] for _ in range(4)])
    points = torch.stack([cells % 8, cells // 8], dim=2).float()
    head = BottleneckHead(16, HeadConfig(hidden=32, dropout=0.0))
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)

    def found_share() -> float:
        adapted = head(grids)
        hits = [
            (peak(similarities(sample(adapted[0], points[0]), adapted[k])) - points[k]).abs().amax(dim=1) < 0.6
            for k in (1, 2, 3)
        ]
        return float(torch.cat(hits).float().mean())

    assert found_share() < 0.4
    for _ in range(60):
        adapted = head(grids)
        loss = sum(
            keypoint_cross_entropy(adapted[0], adapted[k], points[0], points[k], temperature=0.1, sigma=0.4).mean()
            for k in (1, 2, 3)
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
    assert found_share() > 0.9


def trained(path: Path, config: str = CONFIG, task: str = "semantic_head") -> BottleneckHead:
    """A head with weights drawn at random, as if trained, and its file."""
    head = BottleneckHead(304, HeadConfig(hidden=16, blocks=2))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    write_weights(path, head.state_dict(), {"task": task, "config": config})
    return head.eval()


@needs_weights
def test_the_matcher_of_a_file_is_the_model_in_memory(tmp_path: Path) -> None:
    head = trained(tmp_path / "weights.safetensors")
    matcher = make_semantic_matcher(f"head:{tmp_path / 'weights.safetensors'}")
    assert matcher.name == "head-efficientnet-lite0" and matcher.max_size == 128
    rgb = torch.from_numpy(photo("cat").copy()).permute(2, 0, 1).float() / 255
    image = Image(rgb, "cat", (rgb.shape[2], rgb.shape[1]))
    frozen = frozen_matcher("efficientnet-lite0", 128)
    grid = matcher.describe(image).grid
    torch.testing.assert_close(grid, head(frozen.describe(image).grid[None])[0].detach())
    assert not torch.allclose(grid, frozen.describe(image).grid, atol=0.05)
    other = tmp_path / "other.safetensors"
    trained(other)
    assert trained_head(other).settings != matcher.settings
    backbone = trained_head(other).backbone
    assert isinstance(backbone, HeadedBackbone)
    with pytest.raises(ValueError, match="multiples"):
        backbone(torch.rand(1, 3, 100, 128))


def test_files_that_are_no_heads(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    with pytest.raises(UsageError, match="no such weights file"):
        trained_head(file)
    trained(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Vision3DError, match="not a readable weights file"):
        trained_head(file)
    trained(file, task="hough")
    with pytest.raises(Vision3DError, match=r"no weights of a trained head .its task is hough"):
        trained_head(file)
    trained(file, CONFIG.replace("size: 128", "sides: 128"))
    with pytest.raises(Vision3DError, match=r"no weights of a trained head .'size'"):
        trained_head(file)
    trained(file, CONFIG.replace("hidden: 16", "hidden: 24"))
    with pytest.raises(Vision3DError, match="do not fit"):
        trained_head(file)
    trained(file, CONFIG.replace("backbone: efficientnet-lite0", "backbone: position"))
    with pytest.raises(UsageError, match="frozen backbone"):
        trained_head(file)
    with pytest.raises(UsageError, match="head:"):
        make_semantic_matcher("head")


def test_sizes_that_make_no_head() -> None:
    for wrong in ({"hidden": 12}, {"blocks": 0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match=r"got|lies"):
            HeadConfig(**wrong)  # type: ignore[arg-type]
