"""Tracks from matches whose points differ from pair to pair."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision3d.core import Correspondences
from vision3d.recon.tracks import TrackConfig, build_tracks, merge_points

NAMES = ("a", "b", "c")


def _pairs(spread: float, points: int = 60) -> dict[tuple[str, str], Correspondences]:
    """The same scene points in three photos, found up to `spread` px elsewhere for every pair."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(6)), axis=-1).reshape(-1, 2)[:points] * 20.0 + 10
    truth = {name: grid + rng.normal(scale=2, size=grid.shape) for name in NAMES}
    out = {}
    for pair in itertools.combinations(NAMES, 2):
        ends = [torch.from_numpy(truth[n] + rng.uniform(-spread, spread, size=grid.shape)) for n in pair]
        out[pair] = Correspondences(ends[0], ends[1], torch.from_numpy(rng.random(len(grid))))
    return out


@pytest.mark.parametrize(("spread", "radius"), [(0.0, 0.5), (0.15, 0.5), (1.0, 3.0)])
def test_points_found_anew_for_every_pair_become_tracks_of_three(spread: float, radius: float) -> None:
    graph = build_tracks(NAMES, _pairs(spread), TrackConfig(merge_radius_px=radius))
    assert graph.num_tracks == 60
    for name in NAMES:
        assert len(graph.points[name]) == 60
        assert sorted(graph.track[name].tolist()) == list(range(60))
    for matches in graph.matches.values():
        assert len(matches) == 60


def test_without_merging_every_pair_makes_tracks_of_its_own() -> None:
    assert build_tracks(NAMES, _pairs(1.0), TrackConfig(merge_radius_px=0.0)).num_tracks == 180


def test_scales_widen_the_radius_of_large_photos() -> None:
    pairs = {p: Correspondences(m.points0 * 4, m.points1 * 4, m.scores) for p, m in _pairs(0.15).items()}
    assert build_tracks(NAMES, pairs).num_tracks > 60
    assert build_tracks(NAMES, pairs, scales=dict.fromkeys(NAMES, 4.0)).num_tracks == 60


def test_the_order_of_pairs_is_irrelevant() -> None:
    pairs = _pairs(0.3)
    first = build_tracks(NAMES, pairs)
    second = build_tracks(NAMES, dict(reversed(pairs.items())))
    for name in NAMES:
        assert torch.equal(first.points[name], second.points[name])
        assert torch.equal(first.track[name], second.track[name])


def test_a_conflict_keeps_the_better_match() -> None:
    def one(x0: float, x1: float, score: float) -> Correspondences:
        return Correspondences(torch.tensor([[x0, 0.0]]), torch.tensor([[x1, 0.0]]), torch.tensor([score]))

    # a0 - b0 - c0 and a0 - c1: c0 and c1 cannot be in one track.
    graph = build_tracks(NAMES, {("a", "b"): one(0, 0, 0.9), ("b", "c"): one(0, 0, 0.8), ("a", "c"): one(0, 50, 0.1)})
    assert graph.num_tracks == 1
    by_x = dict(zip(graph.points["c"][:, 0].tolist(), graph.track["c"].tolist(), strict=True))
    assert by_x == {0.0: 0, 50.0: -1}


def test_matches_are_one_to_one_after_merging() -> None:
    ends = torch.tensor([[10.0, 10], [10.2, 10], [90, 10]]), torch.tensor([[30.0, 10], [60, 10], [30.1, 10]])
    graph = build_tracks(("a", "b"), {("a", "b"): Correspondences(*ends, torch.tensor([0.5, 0.9, 0.2]))})
    matches = graph.matches["a", "b"]
    assert len(matches) == len(set(matches[:, 0].tolist())) == len(set(matches[:, 1].tolist()))


def test_a_photo_without_matches_has_no_points() -> None:
    graph = build_tracks(("a", "b", "lonely"), {})
    assert graph.points["lonely"].shape == (0, 2)
    assert graph.num_tracks == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 80), st.floats(0.0, 5.0), st.integers(0, 1000))
def test_kept_points_are_apart_and_every_point_is_near_its_own(n: int, radius: float, seed: int) -> None:
    points = np.random.default_rng(seed).random((n, 2)) * 30
    kept, label = merge_points(points, np.ones(n), radius)
    assert len(label) == n
    if n:
        assert np.linalg.norm(points - kept[label], axis=1).max() <= max(radius, 0.01) + 1e-9
        gaps = np.linalg.norm(kept[:, None] - kept[None], axis=2) + np.eye(len(kept)) * 1e9
        assert gaps.min() > min(radius, 1e-3) * 0.99 or len(kept) == 1
