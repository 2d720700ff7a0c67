"""PCK by every rule, against a plain loop, and on cases made by hand where the rules differ."""

import itertools
import math

import numpy as np
import pytest

from vision3d.eval.pck import PckRule, PredictedPair, correct, cycle_steps, pck


def random_pairs(seed: int, count: int = 40) -> list[PredictedPair]:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        width, height = (int(v) for v in rng.integers(60, 700, 2))
        corner, sides = rng.uniform(0, 0.3, 2), rng.uniform(0.3, 0.7, 2)
        box = (corner[0] * width, corner[1] * height, (corner + sides)[0] * width, (corner + sides)[1] * height)
        points = rng.uniform(0, 1, (int(rng.integers(1, 12)), 2)) * (width, height)
        found = points + rng.normal(size=points.shape) * rng.choice([2, 20, 60], (len(points), 1))
        pairs.append(PredictedPair(found, points, (width, height), box))
    return pairs


def by_loops(pairs: list[PredictedPair], alpha: float, rule: PckRule) -> float:
    """Written from the protocols alone: coordinates scaled first, distances by hypot, counts by hand."""
    shares, right, total = [], 0, 0
    for pair in pairs:
        x_scale = 1.0 if rule.square is None else rule.square / pair.size[0]
        y_scale = 1.0 if rule.square is None else rule.square / pair.size[1]
        if rule.reference == "box":
            longest = max((pair.box[2] - pair.box[0]) * x_scale, (pair.box[3] - pair.box[1]) * y_scale)
        else:
            longest = max(pair.size[0] * x_scale, pair.size[1] * y_scale)
        hits = 0
        for (x, y), (u, v) in zip(pair.found.tolist(), pair.truth.tolist(), strict=True):
            off = math.hypot(x * x_scale - u * x_scale, y * y_scale - v * y_scale)
            hits += off < alpha * longest if rule.strict else off <= alpha * longest
        shares.append(hits / len(pair.truth))
        right, total = right + hits, total + len(pair.truth)
    return sum(shares) / len(shares) if rule.average == "image" else right / total


RULES = [
    PckRule(reference=reference, average=average, strict=strict, square=square)
    for reference, average, strict, square in itertools.product(
        ("box", "image"), ("image", "point"), (False, True), (None, 256)
    )
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.text())
def test_equals_plain_loops(rule: PckRule) -> None:
    for seed, alpha in itertools.product(range(3), (0.05, 0.1, 0.15)):
        pairs = random_pairs(seed)
        value = pck(pairs, alpha, rule)
        assert value == pytest.approx(by_loops(pairs, alpha, rule), abs=1e-12) and 0 < value < 1


def pair(offsets: list[tuple[float, float]], size: tuple[int, int] = (200, 100), side: float = 100.0) -> PredictedPair:
    truth = np.full((len(offsets), 2), 50.0)
    return PredictedPair(truth + np.array(offsets), truth, size, (0.0, 0.0, side, side / 2))


def test_averages_differ() -> None:
    pairs = [pair([(0, 0)]), pair([(0, 0), (90, 0), (90, 0)])]
    assert pck(pairs, 0.1, PckRule(average="image")) == pytest.approx((1 + 1 / 3) / 2)
    assert pck(pairs, 0.1, PckRule(average="point")) == pytest.approx(2 / 4)


def test_the_threshold_itself() -> None:
    on_it = pair([(12.5, 0)])  # 0.125 x 100, exact in binary
    assert pck([on_it], 0.125, PckRule()) == 1 and pck([on_it], 0.125, PckRule(strict=True)) == 0


def test_references_differ() -> None:
    between = pair([(15, 0)])  # box 100, image 200 px
    assert pck([between], 0.1, PckRule()) == 0 and pck([between], 0.1, PckRule(reference="image")) == 1


def test_squashing_differs() -> None:
    """200x100 px into 256x256: the box becomes 128x128, (11, 0) becomes (14.08, 0) and (0, 6) becomes (0, 15.36)."""
    rule = PckRule(square=256)
    sideways, down = pair([(11, 0)]), pair([(0, 6)])
    assert correct(sideways, 0.115, rule).tolist() == [True] and correct(sideways, 0.105, PckRule()).tolist() == [False]
    assert correct(down, 0.115, rule).tolist() == [False] and correct(down, 0.105, PckRule()).tolist() == [True]


def cycle_by_loops(cycles: list[dict], alpha: float) -> float:
    """k-CyPCK written point by point: a point that was hidden once is out of the cycle from there on."""
    right = total = 0
    for cycle in cycles:
        for j in range(cycle["truth"].shape[1]):
            for i in range(len(cycle["truth"])):
                if not (cycle["seen"][0][j] and cycle["seen"][i + 1][j]):
                    break
                (x, y), (u, v) = cycle["found"][i][j].tolist(), cycle["truth"][i][j].tolist()
                x1, y1, x2, y2 = cycle["boxes"][i]
                right += math.hypot(x - u, y - v) < alpha * max(x2 - x1, y2 - y1)
                total += 1
    return right / total


@pytest.mark.parametrize("k", [2, 3, 4])
def test_cycles_equal_plain_loops(k: int) -> None:
    rng = np.random.default_rng(k)
    cycles = []
    for _ in range(20):
        n = int(rng.integers(1, 9))
        truth = rng.uniform(0, 100, (k, n, 2))
        found = truth + rng.normal(size=truth.shape) * rng.choice([1, 15], (k, n, 1))
        boxes = [(0.0, 0.0, *rng.uniform(40, 100, 2).tolist()) for _ in range(k)]
        seen = rng.random((k + 1, n)) < 0.8
        cycles.append({"found": found, "truth": truth, "seen": seen, "boxes": boxes})
    steps = [s for c in cycles for s in cycle_steps(c["found"], c["truth"], c["seen"], [(100, 100)] * k, c["boxes"])]
    value = pck(steps, 0.1, PckRule(average="point", strict=True))
    assert value == pytest.approx(cycle_by_loops(cycles, 0.1), abs=1e-12) and 0.2 < value < 0.9


def test_cycles_count_every_step_and_drop_hidden_points() -> None:
    """Two points there and back: wrong there counts although it comes back; hidden there, it does not count at all."""
    truth = np.array([[[10.0, 10.0], [50.0, 50.0]]] * 2)
    found = truth.copy()
    found[0, 0] += 30
    boxes, sizes = [(0.0, 0.0, 100.0, 100.0)] * 2, [(100, 100)] * 2
    steps = cycle_steps(found, truth, np.ones((3, 2), bool), sizes, boxes)
    assert pck(steps, 0.1, PckRule(average="point")) == pytest.approx(3 / 4)
    hidden = np.array([[True, True], [False, True], [True, True]])
    steps = cycle_steps(found, truth, hidden, sizes, boxes)
    assert [len(step.truth) for step in steps] == [1, 1] and pck(steps, 0.1, PckRule(average="point")) == 1
    assert cycle_steps(found, truth, np.zeros((3, 2), bool), sizes, boxes) == []


def test_bad_values() -> None:
    assert pck([], 0.1, PckRule()) is None
    with pytest.raises(ValueError, match="alpha is above 0"):
        pck([pair([(0, 0)])], 0.0, PckRule())
    with pytest.raises(ValueError, match="without common keypoints"):
        PredictedPair(np.zeros((0, 2)), np.zeros((0, 2)), (9, 9), (0, 0, 1, 1))
    with pytest.raises(ValueError, match="finite"):
        pair([(math.nan, 0)])
    with pytest.raises(ValueError, match="1 px or more"):
        PckRule(square=0)
