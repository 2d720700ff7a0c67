"""Quarter turns of photos from orientations of matched features."""

import itertools
import math

import pytest
import torch

from vision3d.matching.base import Features, Matches
from vision3d.matching.turns import unturn_points
from vision3d.recon.upright import turn_votes, upright_turns


def _features(angles: torch.Tensor) -> Features:
    n = len(angles)
    return Features(torch.rand(n, 2) * 100, torch.rand(n, 8), torch.rand(n), torch.ones(n), angles, (100, 80))


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_votes_count_quarter_turns(k: int) -> None:
    angles = torch.rand(50) * 2 * math.pi
    matches = Matches(torch.arange(50)[:, None].expand(-1, 2).clone(), torch.ones(50))
    votes = turn_votes(_features(angles), _features((angles + k * math.pi / 2 + 0.2) % (2 * math.pi)), matches)
    assert votes.tolist() == [50.0 if i == k else 0.0 for i in range(4)]
    inliers = torch.zeros(50, dtype=torch.bool)
    inliers[:10] = True
    assert turn_votes(_features(angles), _features(angles), matches, inliers).tolist() == [10.0, 0, 0, 0]


def _votes(turns: dict[str, int], pairs: list[tuple[str, str]]) -> dict[tuple[str, str], torch.Tensor]:
    out = {}
    for a, b in pairs:
        votes = torch.tensor([2.0, 1.0, 0.0, 2.0])
        votes[(turns[b] - turns[a]) % 4] += 30
        out[a, b] = votes
    return out


def test_turns_are_found_over_a_chain_and_most_photos_stay() -> None:
    truth = {"a": 0, "b": 0, "c": 3, "d": 1, "e": 2, "f": 0}
    names = list(truth)
    chain = list(itertools.pairwise(names))
    assert upright_turns(names, _votes(truth, chain)) == truth


def test_one_wrong_pair_is_outvoted() -> None:
    truth = {"a": 0, "b": 0, "c": 2, "d": 2, "e": 0}
    names = list(truth)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    votes = _votes(truth, pairs)
    votes["a", "b"] = torch.tensor([0.0, 25.0, 0.0, 0.0])
    assert upright_turns(names, votes) == truth


def test_scattered_or_few_votes_turn_nothing() -> None:
    votes = {("a", "b"): torch.tensor([5.0, 6, 5, 5]), ("b", "c"): torch.tensor([0.0, 0, 9, 0])}
    assert upright_turns(["a", "b", "c"], votes) == {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_points_of_the_turned_photo_go_back(k: int) -> None:
    rgb = torch.zeros(3, 40, 60)
    rgb[:, 11, 25] = 1
    turned = torch.rot90(rgb, k, (1, 2))
    y, x = (int(v[0]) for v in torch.nonzero(turned[0], as_tuple=True))
    back = unturn_points(torch.tensor([[x + 0.5, y + 0.5]]), (60, 40), k)
    assert back.tolist() == [[25.5, 11.5]]


def test_a_photo_turned_clockwise_is_set_upright_by_its_turn() -> None:
    upright = torch.rand(3, 8, 12)
    displayed_clockwise = torch.rot90(upright, -1, (1, 2))
    assert torch.equal(torch.rot90(displayed_clockwise, 1, (1, 2)), upright)
