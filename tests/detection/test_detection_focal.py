"""Focal sparse convolution against plain loops over sites, and its loss."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from sparse_grids import convolve_by_loops, random_tensor, rows
from torch import Tensor

from vision3d.core import Boxes3D, Sites, SparseTensor
from vision3d.detection.focal import FocalConfig, FocalConv, Importance, asked_weight, centers_in_boxes, importance_loss
from vision3d.detection.focal_sites import choose_important, neighbour_offsets, spread
from vision3d.detection.grid import VoxelGrid
from vision3d.sparse import Window

SHAPE = (5, 6, 7)
SETTINGS = [
    FocalConfig(),
    FocalConfig(top_share=None, threshold=0.55),
    FocalConfig(weigh_features=True, weigh_asked=False, top_share=0.3),
    FocalConfig(kernel_size=5, top_share=0.6, weigh_features=True),
    FocalConfig(enlarge=6),
]


def focal_by_loops(x: SparseTensor, layer: FocalConv) -> dict[tuple[int, ...], Tensor]:
    """Equations 3 to 5 of the paper, one site at a time: importance, choice, spread, convolution. Before the norm."""
    config = layer.config
    window = Window.submanifold(3, config.kernel_size)
    three = Window.submanifold(3, 3)
    seen = x
    if layer.conv_enlarge is not None:
        seen = layer.conv_enlarge(x)
    bias = layer.conv_imp.bias
    assert bias is not None
    touched = convolve_by_loops(seen, layer.conv_imp.weight, three, SHAPE)
    importance = {site: (touched[site] + bias).sigmoid() for site in rows(x)}
    reach = config.kernel_size // 2
    offsets = [o for o in itertools.product(range(-reach, reach + 1), repeat=3) if o != (0, 0, 0)]
    chosen: list[tuple[int, ...]] = []
    for b in range(x.batch_size):
        mine = [site for site in importance if site[0] == b]
        if config.top_share is None:
            chosen += [site for site in mine if float(importance[site][-1].detach()) > config.threshold]
        else:
            mine.sort(key=lambda site: -float(importance[site][-1].detach()))
            chosen += mine[: int(len(mine) * config.top_share)]
    asked: dict[tuple[int, ...], list[Tensor]] = {}
    for b, z, y, at in chosen:
        for k, (dz, dy, dx) in enumerate(offsets):
            target = (b, z + dz, y + dy, at + dx)
            inside = all(0 <= i < n for i, n in zip(target[1:], SHAPE, strict=True))
            if inside and float(importance[b, z, y, at][k].detach()) >= config.threshold:
                asked.setdefault(target, []).append(importance[b, z, y, at][k])
    features: dict[tuple[int, ...], Tensor] = {}
    for site, row in rows(x).items():
        weight = importance[site][-1] if config.weigh_features else torch.ones((), dtype=row.dtype)
        if config.weigh_asked and site in chosen:
            every = [torch.ones((), dtype=row.dtype), *asked.get(site, [])]
            weight = weight * torch.stack(every).mean()
        features[site] = row * weight
    for site in asked:
        features.setdefault(site, torch.zeros(x.channels, dtype=x.features.dtype))
    sites = list(features)
    grown = SparseTensor(torch.stack(list(features.values())), torch.tensor(sites).int(), SHAPE, x.batch_size)
    out = convolve_by_loops(grown, layer.conv.weight, window, SHAPE)
    return {site: out[site] for site in sites}


@pytest.mark.parametrize("config", SETTINGS, ids=str)
def test_equals_loops_with_gradients(config: FocalConfig) -> None:
    x = random_tensor(SHAPE, 36, 4)
    layer = FocalConv(4, 3, config).double().eval()
    layer.conv_imp.weight.data *= 4  # importances from near 0 to near 1
    parameters = [layer.conv_imp.weight, layer.conv.weight]
    y, importance = layer(x, (1, 1, 1))
    wanted = focal_by_loops(x, layer)
    got = rows(y)
    assert set(got) == set(wanted) and len(got) > len(x)
    mask = torch.randn(len(y), 3, dtype=torch.float64)
    wanted_rows = torch.stack([wanted[site] for site in got])
    wanted_rows = layer.bn1(y.with_features(wanted_rows)).features.relu()
    torch.testing.assert_close(y.features, wanted_rows, rtol=1e-10, atol=1e-10)
    mine = torch.autograd.grad((y.features * mask).sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad((wanted_rows * mask).sum(), parameters)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
        assert float(a.abs().max()) > 0  # importance is learned through features, without any loss of its own
    assert len(importance.logits) == len(x)


def test_sites_are_lexicographic_and_whole() -> None:
    x = random_tensor(SHAPE, 50, 4)
    y, _ = FocalConv(4, 4, FocalConfig()).double()(x, (1, 1, 1))
    again = SparseTensor(y.features, y.indices, SHAPE, 2)  # checks that no site is there twice or outside
    order = sorted(again.indices.tolist())
    assert again.indices.tolist() == order
    assert {tuple(r) for r in x.indices.tolist()} <= {tuple(r) for r in order}


def test_index_zero_and_the_last_are_reached() -> None:
    sites = Sites(torch.tensor([[0, 1, 1, 1]]).int(), (3, 3, 3), 1)
    everything = torch.ones(1, 26, dtype=torch.bool)
    plan = spread(sites, torch.tensor([True]), everything, 3)
    assert len(plan.sites) == 27
    corner = Sites(torch.tensor([[0, 0, 0, 0]]).int(), (3, 3, 3), 1)
    assert len(spread(corner, torch.tensor([True]), everything, 3).sites) == 8


def test_neighbours_in_the_order_of_channels() -> None:
    offsets = neighbour_offsets(3)
    assert len(offsets) == 26 and offsets[0].tolist() == [-1, -1, -1] and offsets[13].tolist() == [0, 0, 1]


def test_grids_do_not_mix() -> None:
    """The share is of each grid; a spread does not leave its grid of the batch."""
    indices = torch.tensor([[0, 0, 0, z] for z in range(4)] + [[1, 0, 0, z] for z in range(4)]).int()
    importance = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    chosen = choose_important(importance, indices, 2, 0.5, 0.5)
    assert chosen.tolist() == [True, True, False, False] * 2
    assert choose_important(importance, indices, 2, None, 0.5).tolist() == [True] * 4 + [False] * 4
    plan = spread(Sites(indices, (1, 1, 4), 2), chosen, torch.ones(8, 26, dtype=torch.bool), 3)
    assert len(plan.sites) == 8


def test_asked_weight_by_hand() -> None:
    neighbours = torch.tensor([[0.6, 0.8], [0.9, 0.7]])
    important = torch.tensor([True, False])
    row, by = torch.tensor([0, 0, 1]), torch.tensor([[0, 1], [0, 0], [0, 0]])
    got = asked_weight(neighbours, important, row, by)
    torch.testing.assert_close(got, torch.tensor([(1 + 0.8 + 0.6) / 3, 1.0]))


def test_loss_is_of_centres_in_boxes() -> None:
    grid = VoxelGrid(low=(0.0, 0.0, 0.0), high=(8.0, 8.0, 4.0), size=(1.0, 1.0, 1.0))
    # Stride 2: the centre of (z, y, x) = (0, 1, 2) is (5, 3, 1) m.
    indices = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2], [1, 0, 1, 2]]).int()
    sites = Sites(indices, (2, 4, 4), 2)
    box = Boxes3D(
        torch.tensor([[5.0, 3.0, 1.0]]),
        torch.tensor([[1.0, 1.0, 1.0]]),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.int64),
    )
    inside = centers_in_boxes(sites, (2, 2, 2), (box, Boxes3D.empty()), grid)
    assert inside.tolist() == [True, False, False]
    logits = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    loss = importance_loss([Importance(logits, sites, (2, 2, 2))] * 2, (box, Boxes3D.empty()), grid)
    wanted = 0.0
    for logit, label in zip((0.5, -1.0, 2.0), (1, 0, 0), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p = p if label else 1 - p
        wanted -= (1 - p) ** 2 * math.log(p) / 3
    assert float(loss.detach()) == pytest.approx(2 * wanted, rel=1e-6)  # summed over blocks
    loss.backward()
    assert logits.grad is not None and logits.grad[0] < 0 < logits.grad[1]


@pytest.mark.parametrize("count", [0, 1])
def test_few_sites(count: int) -> None:
    x = random_tensor(SHAPE, 3, 4)
    x = SparseTensor(x.features[:count], x.indices[:count], SHAPE, 2)
    layer = FocalConv(4, 4, FocalConfig()).double().train()
    y, importance = layer(x, (1, 1, 1))
    assert len(y) >= count and bool(torch.isfinite(y.features).all())
    loss = importance_loss([importance], (Boxes3D.empty(), Boxes3D.empty()), VoxelGrid())
    assert math.isfinite(float(loss.detach()))


def test_bad_settings() -> None:
    for wrong in ({"stages": (4,)}, {"kernel_size": 4}, {"threshold": 1.5}, {"top_share": 2.0}):
        with pytest.raises(ValueError, match=r"focal stages|shares"):
            dataclasses.replace(FocalConfig(), **wrong)
    with pytest.raises(ValueError, match="must be as many"):
        FocalConv(4, 8, FocalConfig(), image_channels=4)
    with pytest.raises(ValueError, match="image features go with"):
        FocalConv(4, 4, FocalConfig())(random_tensor(SHAPE, 5, 4), (1, 1, 1), lambda i: torch.zeros(len(i), 4))
    with pytest.raises(ValueError, match="too many sites"):
        spread(
            Sites(torch.zeros(1, 4).int(), (2**30, 2**30, 2**10), 1),
            torch.tensor([True]),
            torch.ones(1, 26, dtype=torch.bool),
            3,
        )
