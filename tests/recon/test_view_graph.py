"""Which photos are matched, where the graph is thin, which pairs are believed; retrieval."""

import itertools

import pytest
import torch

from vision3d.core import Correspondences
from vision3d.recon.retrieval import RetrievalConfig, global_descriptors, neighbour_pairs
from vision3d.recon.verification import TwoViewGeometry
from vision3d.recon.view_graph import PairConfig, VerifiedPair, components, graph_is_thin, pruned, select_pairs


def _pair(inliers: int, ratio: float = 1.0) -> VerifiedPair:
    mask = torch.ones(inliers, dtype=torch.bool)
    kind = "uncalibrated" if inliers else "rejected"
    geometry = TwoViewGeometry(kind, mask, None, None, -10.0, None if inliers else "only 3 matches")
    points = torch.rand(inliers, 2)
    return VerifiedPair(Correspondences(points, points, torch.ones(inliers)), geometry, round(inliers / ratio))


def test_small_sets_are_matched_exhaustively() -> None:
    names = ["c", "a", "b"]
    assert select_pairs(names) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_large_sets_need_descriptors() -> None:
    with pytest.raises(ValueError, match="61 photos need their local descriptors"):
        select_pairs([f"{i:03d}" for i in range(61)])


def _video(photos: int) -> list[torch.Tensor]:
    """Local descriptors of photos along a path: each shares most of its features with the next ones."""
    generator = torch.Generator().manual_seed(0)
    world = torch.rand(photos * 20 + 200, 32, generator=generator)
    return [world[20 * i : 20 * i + 200] + 0.02 * torch.randn(200, 32, generator=generator) for i in range(photos)]


def test_retrieval_finds_photos_of_the_same_place_and_grows_linearly() -> None:
    config = RetrievalConfig(words=16, neighbours=6, second_neighbours=4)
    counts = {}
    for photos in (40, 80):
        pairs = neighbour_pairs(global_descriptors(_video(photos), config), config)
        found = set(pairs)
        near = [(i, i + 1) for i in range(photos - 1)] + [(i, i + 2) for i in range(photos - 2)]
        assert sum(p in found for p in near) / len(near) > 0.97
        assert all(i < j for i, j in pairs)
        counts[photos] = len(pairs)
    assert counts[80] <= 80 * 10
    assert counts[80] < 2.6 * counts[40]


def test_retrieval_through_select_pairs_names_photos() -> None:
    names = [f"{i:03d}.jpg" for i in range(30)]
    pairs = select_pairs(names, _video(30), PairConfig(exhaustive_up_to=20, retrieval=RetrievalConfig(neighbours=4)))
    assert ("000.jpg", "001.jpg") in pairs
    assert len(pairs) < 30 * 29 / 2


def test_retrieval_survives_photos_without_features() -> None:
    local = [torch.zeros(0, 32), *_video(3)]
    descriptors = global_descriptors(local)
    assert descriptors[0].abs().sum() == 0
    assert torch.allclose(descriptors[1:].norm(dim=1), torch.ones(3))
    assert global_descriptors([torch.zeros(0, 32)] * 2).abs().sum() == 0
    assert neighbour_pairs(descriptors[:1]) == []


def test_a_dense_graph_is_not_thin() -> None:
    names = ["a", "b", "c", "d"]
    pairs = {p: _pair(100) for p in itertools.combinations(names, 2)}
    assert graph_is_thin(names, pairs).reason is None
    assert graph_is_thin(names, pairs).pairs == ()


def test_a_thin_photo_names_its_pairs() -> None:
    names = ["a", "b", "c", "d", "e"]
    pairs = {p: _pair(100) for p in itertools.combinations(names, 2) if "e" not in p}
    pairs["a", "e"] = _pair(35)
    thin = graph_is_thin(names, pairs)
    assert thin.pairs == (("a", "e"), ("b", "e"), ("c", "e"), ("d", "e"))
    assert thin.reason is not None and "1 of 5 photos" in thin.reason


def test_groups_without_a_link_are_bridged() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    pairs = {p: _pair(100) for p in [*itertools.combinations("abc", 2), *itertools.combinations("def", 2)]}
    pairs["c", "d"] = _pair(0)
    thin = graph_is_thin(names, pairs)
    assert set(thin.pairs) == set(itertools.product("abc", "def"))
    assert thin.reason is not None and "2 groups" in thin.reason


def test_two_photos_need_one_good_pair() -> None:
    assert graph_is_thin(["a", "b"], {("a", "b"): _pair(150)}).reason is None
    assert graph_is_thin(["a", "b"], {("a", "b"): _pair(20)}).reason is not None
    assert graph_is_thin(["a", "b"], {}).pairs == (("a", "b"),)


def test_pruning_drops_low_ratios_but_keeps_photos_connected() -> None:
    pairs = {
        ("a", "b"): _pair(100, 0.9),
        ("b", "c"): _pair(60, 0.5),
        ("a", "c"): _pair(80, 0.3),
        ("c", "d"): _pair(0),
    }
    assert pruned(pairs, 0.7) == {("a", "b"), ("b", "c")}
    assert pruned(pairs, 0.0) == {("a", "b"), ("b", "c"), ("a", "c")}


def test_components_are_sorted_by_size() -> None:
    assert components("abcdef", [("a", "b"), ("d", "e"), ("e", "f")]) == [("d", "e", "f"), ("a", "b"), ("c",)]
