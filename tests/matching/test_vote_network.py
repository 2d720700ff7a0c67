"""The network over Hough bins: published size and layout, MinkowskiEngine's rules in six dimensions, its loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from minkowski_twin import MinkowskiTwin, beside, random_checkpoint, relu

from vision3d.core import SparseTensor
from vision3d.errors import Vision3DError
from vision3d.matching.hough.feature_loss import hardest_contrastive, hardest_contrastive_slow
from vision3d.matching.hough.minkowski_keys import from_minkowski, to_minkowski
from vision3d.matching.hough.network_files import read_vote_network
from vision3d.matching.hough.vote_loss import true_bin, vote_loss
from vision3d.matching.hough.vote_network import (
    COMPACT,
    PAPER,
    VoteNetwork,
    VoteNetworkConfig,
    rank_bins,
    vote_inputs,
    vote_tensor,
)
from vision3d.matching.hough.voting import vote

TINY = VoteNetworkConfig(channels=(3, 4, 5), up_channels=(2, 3, 4))


def bins(count: int, spread: int) -> np.ndarray:
    return np.unique(np.random.default_rng(0).integers(-spread, spread, (count, 6)), axis=0)


def test_published_size_layout_and_a_forward_pass() -> None:
    net = VoteNetwork(PAPER).eval()
    assert sum(p.numel() for p in net.parameters()) == 17_939_969
    published = to_minkowski(net)
    assert published["conv1.kernel"].shape == (729, 1, 32) and published["conv2_tr.kernel"].shape == (729, 128, 32)
    assert published["final.kernel"].shape == (32, 1) and published["final.bias"].shape == (1, 1)
    where = bins(30, 2)
    with torch.no_grad():
        logits = net(vote_tensor(where, torch.ones(len(where), 1)))
    assert logits.shape == (len(where),) and bool(torch.isfinite(logits).all())


def test_a_published_checkpoint_gives_what_minkowski_engine_would(tmp_path: Path) -> None:
    state = random_checkpoint(to_minkowski(VoteNetwork(TINY)), 2)
    path = tmp_path / "dhvr.ckpt"
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}}, path)
    net = read_vote_network(path).double()
    assert net.config == TINY
    where = bins(40, 3)
    votes = np.random.default_rng(1).uniform(1, 9, (len(where), 1))
    with torch.no_grad():
        ours = net(vote_tensor(where, torch.from_numpy(votes))).numpy()
    twin = MinkowskiTwin(state)
    x = {tuple(int(v) for v in site): value for site, value in zip(where, votes, strict=True)}
    s1 = twin.norm(twin.conv(x, "conv1", 1), "norm1")
    s2 = twin.norm(twin.conv(relu(s1), "conv2", 1, 2), "norm2")
    s4 = twin.norm(twin.conv(relu(s2), "conv3", 2, 2), "norm3")
    up = relu(twin.norm(twin.transposed(relu(s4), "conv3_tr", s2, 2), "norm3_tr"))
    up = relu(twin.norm(twin.transposed(beside(up, s2), "conv2_tr", s1, 1), "norm2_tr"))
    up = relu(twin.norm(twin.conv(beside(up, s1), "conv1_tr", 1), "norm1_tr"))
    out = twin.conv(up, "final", 1)
    theirs = [float(out[tuple(int(v) for v in site)][0]) for site in where]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.kernel": torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(Vision3DError, match="not a vote network's: the file lacks"):
        read_vote_network(tmp_path / "x.pth")
    state = {name: t for name, t in to_minkowski(VoteNetwork(TINY)).items() if name != "final.bias"}
    torch.save(state, tmp_path / "y.pth")
    with pytest.raises(Vision3DError, match=r"lacks final.bias"):
        read_vote_network(tmp_path / "y.pth")
    with pytest.raises(ValueError, match="6 dimensions"):
        VoteNetwork(TINY)(SparseTensor(torch.ones(1, 1), torch.zeros(1, 4, dtype=torch.int32), (1, 1, 1), 1))


def test_the_untrained_compact_network_ranks_bins_as_the_smoothed_votes_do() -> None:
    random = np.random.default_rng(3)
    rotvecs = np.concatenate([random.normal(0, 0.02, (60, 3)) + 0.5, random.uniform(-1, 1, (400, 3))])
    shifts = np.concatenate([random.normal(0, 0.02, (60, 3)), random.uniform(-1, 1, (400, 3))])
    space = vote(rotvecs, shifts, np.ones(460), 0.1, 0.1)
    rank = rank_bins(VoteNetwork(COMPACT).eval(), space)
    assert (np.argsort(-rank, kind="stable")[:5] == np.argsort(-space.smooth, kind="stable")[:5]).all()
    assert rank.min() >= 0 and rank.max() <= 1
    inputs = vote_inputs(space, "smoothed")
    assert float(inputs[:, 1].max()) == 0 and bool((inputs[:, 0] <= inputs[:, 1]).all())
    empty = vote(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), 0.1, 0.1)
    assert len(rank_bins(VoteNetwork(COMPACT).eval(), empty)) == 0


def test_true_bin_is_the_nearest_within_three() -> None:
    sizes = torch.tensor([0.1] * 3 + [0.2] * 3, dtype=torch.float64)
    where = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [5, 5, 5, 5, 5, 5]])
    assert true_bin(where, torch.tensor([0.15, 0.05, 0.05, 0.1, 0.1, 0.1]).double(), sizes) == 1
    assert true_bin(where, torch.tensor([0.05, 0.35, 0.05, 0.1, 0.1, 0.1]).double(), sizes) == 0  # 3 bins away
    assert true_bin(where, torch.tensor([0.05, 0.45, 0.05, 0.1, 0.1, 0.1]).double(), sizes) is None
    assert true_bin(where[:0], torch.zeros(6).double(), sizes) is None


def test_true_bin_across_the_wrap() -> None:
    sizes = torch.full((6,), 0.1, dtype=torch.float64)
    pose = torch.tensor([0, 0, 3.13, 0.05, 0.05, 0.05], dtype=torch.float64)
    other_end = torch.tensor([[0, 0, -32, 0, 0, 0]])  # 3.13 - 2 pi = -3.153
    assert true_bin(other_end, pose, sizes) == 0


def test_vote_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    loss = vote_loss(logits, 2)
    p = torch.sigmoid(logits.detach())
    assert float(loss.detach()) == pytest.approx(
        float(-(torch.log(1 - p[0]) + torch.log(1 - p[1]) + torch.log(p[2])) / 3)
    )
    loss.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (p - torch.tensor([0.0, 0, 1])) / 3)


def test_hardest_contrastive_against_loops() -> None:
    features = [torch.nn.functional.normalize(torch.randn(n, 8), dim=1) for n in (30, 40)]
    points = [torch.rand(n, 3) for n in (30, 40)]
    matches = torch.stack([torch.randperm(30)[:12], torch.randperm(40)[:12]], dim=1)
    candidates = [torch.randperm(30)[:20], torch.randperm(40)[:25]]
    fast = hardest_contrastive(*features, *points, matches, *candidates, safe_radius=0.4)
    slow = hardest_contrastive_slow(*features, *points, matches, *candidates, safe_radius=0.4)
    np.testing.assert_allclose([float(v) for v in fast], slow, rtol=1e-4)
    # Everything near everything else: no negative is left.
    positive, negative = hardest_contrastive(*features, *points, matches, *candidates, safe_radius=9.0)
    assert float(negative) == 0 and float(positive) == pytest.approx(slow[0], rel=1e-4)


def test_gradient_where_features_are_equal() -> None:
    same = torch.ones(2, 4, requires_grad=True)
    rows = torch.arange(2)
    matches = torch.stack([rows, rows], dim=1)
    apart = torch.tensor([[0.0, 0, 0], [5, 0, 0]])
    positive, negative = hardest_contrastive(same, same, apart, apart, matches, rows, rows, safe_radius=1.0)
    (positive + negative).backward()
    assert same.grad is not None and bool(torch.isfinite(same.grad).all())
    assert float(negative.detach()) == pytest.approx(1.4**2, rel=1e-4)
    assert float(positive.detach()) == 0


def test_layout_goes_there_and_back() -> None:
    net = VoteNetwork(TINY)
    again = from_minkowski(net, to_minkowski(net), "own")
    assert all(torch.equal(again[name], tensor) for name, tensor in net.state_dict().items())
