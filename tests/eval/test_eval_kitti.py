"""KITTI object evaluation: the official evaluator's numbers on real frames, and a small case for each of its rules."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from vision3d.cli.main import main
from vision3d.errors import UsageError, Vision3DError
from vision3d.eval.kitti_matching import recall_thresholds
from vision3d.eval.kitti_object import KittiScores, evaluate_kitti_object
from vision3d.eval.kitti_report import parse_overlaps, score_tables

BOX = (100, 100, 200, 180)  # 80 px high


def _line(
    name, box=BOX, score=None, *, truncated=0.0, occluded=0, alpha=0.0, size=(1.5, 1.6, 4.0), at=(0, 1.6, 20), ry=0.0
):
    numbers = [truncated, occluded, alpha, *box, *size, *at, ry, *([] if score is None else [score])]
    return " ".join([name, *(str(v) for v in numbers)])


def _score(tmp_path, frames, overlaps=None) -> KittiScores:
    """frames: (ground-truth lines, result lines or None for no file)."""
    for folder in ("label_2", "results"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for i, (truth, results) in enumerate(frames):
        (tmp_path / "label_2" / f"{i:06d}.txt").write_text("\n".join(truth))
        if results is not None:
            (tmp_path / "results" / f"{i:06d}.txt").write_text("\n".join(results))
    return evaluate_kitti_object(tmp_path / "label_2", tmp_path / "results", overlaps)


def _counts(scores, name="Car", metric="2d"):
    """(ground truths that count, tp, fp, fn) at the lowest threshold, for easy, moderate, hard."""
    curves = scores.curves[name][metric]
    return [(c.truths, *(int(v[-1]) if len(v) else 0 for v in (c.tp, c.fp, c.fn))) for c in curves.counts]


# A sure true positive far away from what a case is about, so that there is a threshold low enough to count at.
SURE_TRUTH = _line("Car", (600, 100, 700, 200), at=(50, 1.6, 60))
SURE_RESULT = _line("Car", (600, 100, 700, 200), 0.01, at=(50, 1.6, 60))


def test_golden(test_data) -> None:
    """golden.json: the official C++ evaluator on these 717 frames (it adds up in float32, hence the tolerance)."""
    folder = test_data / "kitti-eval"
    found = evaluate_kitti_object(folder, folder / "detections").json()
    golden = json.loads((folder / "golden.json").read_text())
    assert found["overlap"] == golden["overlap"]
    assert set(found) == {"note", "overlap", "R40", "R11"}
    for name, by_metric in golden["R40"].items():
        assert list(found["R40"][name]) == list(by_metric)
        for metric, values in by_metric.items():
            assert found["R40"][name][metric] == pytest.approx(values, abs=1e-4), (name, metric)
            # Seen in the same files: 11 positions of the same precisions, so close to the 40.
            assert np.abs(np.array(found["R11"][name][metric]) - values).max() < 8


def test_golden_through_the_command(test_data, tmp_path, capsys) -> None:
    folder = test_data / "kitti-eval"
    args = ["evaluate", "kitti-object", "--gt", str(folder / "label_2"), "--results", str(folder / "detections")]
    code = main([*args, "--json", "--out", str(tmp_path / "s.json"), "--plots", str(tmp_path / "plots")])
    printed = capsys.readouterr()
    assert code == 0
    assert json.loads(printed.out) == json.loads((tmp_path / "s.json").read_text())
    assert json.loads(printed.out)["R40"]["Car"]["3d"][1] == pytest.approx(89.217842, abs=1e-4)
    assert "717 frames" in printed.err
    plots = sorted(p.name for p in (tmp_path / "plots").iterdir())
    assert len(plots) == 12
    assert plots[0] == "car_2d.png"
    drawn = np.asarray(Image.open(tmp_path / "plots" / "car_3d.png"))
    assert drawn.shape == (480, 640, 3)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "Car (3D Detection)" in out
    assert "89.2178" in out
    assert "R11" in out


def test_thresholds_of_recall() -> None:
    """Literal: with 80 truths every second hit is a threshold; the last hit always is one; at most 41."""
    assert recall_thresholds(np.arange(3.0), 3).tolist() == [2, 1, 0]
    ten = recall_thresholds(np.arange(10.0), 80).tolist()
    # recall 1/80 is nearer to 0 than 2/80 is: kept; then the one nearest to 1/40, 2/40, ...
    assert ten == [9, 8, 6, 4, 2, 0]
    assert len(recall_thresholds(np.random.default_rng(0).random(5000), 5000)) == 41
    assert recall_thresholds(np.zeros(0), 0).tolist() == []


@pytest.mark.parametrize("count", [1, 40, 400])
def test_perfect_results(tmp_path, count) -> None:
    """With one truth there is one threshold, that of recall 0, which R40 leaves out: so it is in the official tool."""
    rng = np.random.default_rng(0)
    lines = [(_line("Car"), _line("Car", score=float(rng.random()))) for _ in range(count)]
    scores = _score(tmp_path, [([truth], [result]) for truth, result in lines])
    r40, r11 = {1: (0, 100 / 11), 40: (97.5, 1000 / 11), 400: (100, 100)}[count]
    for metric in ("2d", "aos", "bev", "3d"):
        assert scores.curves["Car"][metric].r40() == pytest.approx([r40] * 3)
        assert scores.curves["Car"][metric].r11() == pytest.approx([r11] * 3)


def test_overlap_must_be_above_the_least(tmp_path) -> None:
    half = _line("Pedestrian", (100, 100, 200, 140), 0.9)  # IoU 0.5 with BOX
    sure = [line.replace("Car", "Pedestrian") for line in (SURE_TRUTH, SURE_RESULT)]
    frames = [([_line("Pedestrian"), sure[0]], [half, sure[1]])]
    assert _counts(_score(tmp_path, frames), "Pedestrian")[1] == (2, 1, 1, 1)
    scores = _score(tmp_path, frames, {"Pedestrian": (0.499, 0.5, 0.5)})
    assert _counts(scores, "Pedestrian")[1] == (2, 2, 0, 0)
    assert scores.json()["overlap"] == {"Pedestrian": [0.499, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("truth", "counts"),
    [
        ({}, (2, 2, 2)),
        ({"box": (100, 100, 200, 140)}, (1, 2, 2)),  # 40 px high: not more than 40
        ({"box": (100, 100, 200, 140.5)}, (2, 2, 2)),
        ({"box": (100, 100, 200, 125)}, (1, 1, 1)),
        ({"occluded": 1}, (1, 2, 2)),
        ({"occluded": 2}, (1, 1, 2)),
        ({"occluded": 3}, (1, 1, 1)),
        ({"truncated": 0.15}, (2, 2, 2)),
        ({"truncated": 0.16}, (1, 2, 2)),
        ({"truncated": 0.31}, (1, 1, 2)),
        ({"truncated": 0.51}, (1, 1, 1)),
    ],
)
def test_which_truths_count(tmp_path, truth, counts) -> None:
    """What does not count is ignored: found, it is no true positive; not found, no miss."""
    line = _line("Car", **truth)
    missed = _score(tmp_path, [([line, SURE_TRUTH], [SURE_RESULT])])
    assert [c[0] for c in _counts(missed)] == list(counts)
    assert [c[3] for c in _counts(missed)] == [n - 1 for n in counts]
    found = _score(tmp_path, [([line, SURE_TRUTH], [_line("Car", truth.get("box", (*BOX,)), 0.9), SURE_RESULT])])
    assert [c[1:] for c in _counts(found)] == [(n, 0, 0) for n in counts]


def test_height_of_results_is_cut_to_whole_px(tmp_path) -> None:
    """40 px and more count when easy, 39.9 px do not, and so are no false positives there."""
    for height, wrong in ((40.0, 1), (39.9, 0)):
        stray = _line("Car", (300, 100, 400, 100 + height), 0.5)
        scores = _score(tmp_path, [([SURE_TRUTH], [stray, SURE_RESULT])])
        assert [c[2] for c in _counts(scores)] == [wrong, 1, 1]


def test_low_results_of_other_classes_take_truths(tmp_path) -> None:
    """The official tool looks at the height first: a low result may be of any class, and its truth is neither hit nor
    missed (when it counts, which at the same height it does not: here the truth is a bit higher)."""
    truth = _line("Car", (100, 100, 200, 140.4))
    low = _line("Cyclist", (100, 100.5, 200, 140.4), 0.9)
    scores = _score(tmp_path, [([truth, SURE_TRUTH], [low, SURE_RESULT])])
    assert _counts(scores)[0] == (2, 1, 0, 0)
    assert _counts(scores)[1] == (2, 1, 0, 1)


@pytest.mark.parametrize(
    ("name", "neighbour", "wrong"),
    [("Car", "Van", 0), ("Car", "Truck", 1), ("Pedestrian", "Person_sitting", 0), ("Pedestrian", "Cyclist", 1)],
)
def test_neighbour_classes(tmp_path, name, neighbour, wrong) -> None:
    sure = [line.replace("Car", name) for line in (SURE_TRUTH, SURE_RESULT)]
    scores = _score(tmp_path, [([_line(neighbour), sure[0]], [_line(name, score=0.9), sure[1]])])
    for metric in ("2d", "bev", "3d"):
        assert _counts(scores, name, metric) == [(1, 1, wrong, 0)] * 3
    undetected = _score(tmp_path, [([_line(neighbour), sure[0]], [sure[1]])])
    assert _counts(undetected, name) == [(1, 1, 0, 0)] * 3


def test_dont_care_excuses_in_the_image_only(tmp_path) -> None:
    area = _line("DontCare", (0, 0, 180, 400), truncated=-1, occluded=-1, alpha=-10, size=(-1,) * 3, at=(-1000,) * 3)
    inside = _line("Car", (109, 100, 209, 180), 0.5)  # 71 % inside
    half = _line("Car", (111, 100, 211, 180), 0.5)  # 69 % inside
    scores = _score(tmp_path, [([area, SURE_TRUTH], [inside, half, SURE_RESULT])])
    assert _counts(scores) == [(1, 1, 1, 0)] * 3
    assert _counts(scores, metric="bev") == [(1, 1, 2, 0)] * 3
    assert _counts(scores, metric="3d") == [(1, 1, 2, 0)] * 3


def test_dont_care_of_tracking_labels_excuses_from_above(tmp_path) -> None:
    """Sizes of -1000 at (-10, -1, -1): the official polygon is a square of 1000 m; its height holds nothing."""
    area = _line("DontCare", (0, 0, 9, 9), truncated=-1, occluded=-1, alpha=-10, size=(-1000,) * 3, at=(-10, -1, -1))
    stray = _line("Car", (300, 100, 400, 200), 0.5, at=(3, 1.6, 30))
    scores = _score(tmp_path, [([area, SURE_TRUTH], [stray, SURE_RESULT])])
    assert [_counts(scores, metric=m)[0] for m in ("2d", "bev", "3d")] == [(1, 1, 1, 0), (1, 1, 0, 0), (1, 1, 1, 0)]


@pytest.mark.parametrize("swap", [False, True])
def test_two_results_on_one_truth(tmp_path, swap) -> None:
    """In any order: pass 1 takes the better score (threshold), pass 2 the larger overlap (seen in the orientation)."""
    exact = _line("Car", BOX, 0.5, alpha=0.0)
    close = _line("Car", (100, 100, 200, 170), 0.9, alpha=math.pi)  # overlap 0.875, looks the other way
    results = [exact, close] if swap else [close, exact]
    scores = _score(tmp_path, [([_line("Car"), SURE_TRUTH], [*results, SURE_RESULT])])
    first, second = scores.curves["Car"]["2d"].counts[0], scores.curves["Car"]["aos"].counts[0]
    assert first.thresholds.tolist() == [0.9, 0.01]
    assert (first.tp.tolist(), first.fp.tolist(), first.fn.tolist()) == ([1, 2], [0, 1], [1, 0])
    assert second.similarity == pytest.approx([0, 2])
    assert scores.curves["Car"]["2d"].values[0, :3] == pytest.approx([1, 2 / 3, 0])
    assert scores.curves["Car"]["aos"].values[0, :3] == pytest.approx([2 / 3, 2 / 3, 0])


@pytest.mark.parametrize(("other", "counts"), [("Car", (3, 2, 0, 1)), ("Van", (2, 1, 0, 1))])
def test_one_result_on_two_truths(tmp_path, other, counts) -> None:
    """The truth that stands first in the file takes it, even if it does not count itself."""
    beside = _line("Car", (103, 100, 203, 180), at=(0, 1.6, 20.1))
    scores = _score(tmp_path, [([_line(other), beside, SURE_TRUTH], [_line("Car", score=0.9), SURE_RESULT])])
    for metric in ("2d", "bev", "3d"):
        assert _counts(scores, metric=metric) == [counts] * 3
        thresholds = scores.curves["Car"][metric].counts[0].thresholds
        assert thresholds.tolist() == ([0.9, 0.01] if other == "Car" else [0.01])


def test_rotation_about_the_vertical_axis(tmp_path) -> None:
    """A car that moved 0.6 m along its heading, (cos, -sin) of rotation_y in x and z, has IoU 3.4 / 4.6 from above; one
    that moved aside as far has 1.0 / 2.2."""
    along, aside = (
        (0.6 * math.cos(a), 1.6, 20 - 0.6 * math.sin(a)) for a in (math.pi / 4, math.pi / 4 + math.pi / 2)
    )  # fmt: skip
    truth = _line("Car", ry=math.pi / 4)
    for place, found in ((along, 1), (aside, 0)):
        result = _line("Car", score=0.9, ry=math.pi / 4, at=place)
        scores = _score(tmp_path, [([truth, SURE_TRUTH], [result, SURE_RESULT])])
        assert _counts(scores, metric="bev")[0] == (2, 1 + found, 1 - found, 1 - found)


def test_orientation_similarity(tmp_path) -> None:
    scores = _score(tmp_path, [([_line("Car")], [_line("Car", score=0.9, alpha=math.pi / 2)])])
    assert scores.curves["Car"]["aos"].values[0, 0] == pytest.approx(0.5)
    none = _score(tmp_path, [([_line("Car")], [_line("Car", score=0.9), _line("Cyclist", score=0.1, alpha=-10)])])
    assert none.curves["Car"]["aos"] is None
    assert none.json()["R40"]["Car"]["aos"] is None
    assert none.curves["Car"]["2d"] is not None


def test_seen_from_above_and_in_space(tmp_path) -> None:
    """Half as high or half a metre up is the same from above; turned by a right angle it is not."""
    base = {"box": BOX, "score": 0.9}
    cases = [({"size": (0.9, 1.6, 4.0)}, 1, 0), ({"at": (0, 1.0, 20)}, 1, 0), ({"at": (0.2, 1.6, 20.1)}, 1, 1)]
    for change, above, space in cases:
        scores = _score(tmp_path, [([_line("Car"), SURE_TRUTH], [_line("Car", **base, **change), SURE_RESULT])])
        assert _counts(scores)[0] == (2, 2, 0, 0)
        assert _counts(scores, metric="bev")[0] == (2, 1 + above, 1 - above, 1 - above)
        assert _counts(scores, metric="3d")[0] == (2, 1 + space, 1 - space, 1 - space)


def test_frames_without_results_are_left_out_and_empty_ones_count(tmp_path) -> None:
    frames = [([_line("Car")], [_line("Car", score=0.9)]), ([_line("Car")], None), ([_line("Car")], []), ([], [])]
    scores = _score(tmp_path, frames)
    assert scores.frames == 3
    assert _counts(scores) == [(2, 1, 0, 1)] * 3


def test_classes_without_results_have_no_score(tmp_path) -> None:
    image_only = _line("Pedestrian", score=0.9, size=(-1, -1, -1), at=(-1000, -1000, -1000))
    scores = _score(tmp_path, [([_line("Cyclist")], [_line("CAR", score=0.9), image_only])])
    assert scores.json()["R40"]["Cyclist"] == dict.fromkeys(("2d", "aos", "bev", "3d"))
    assert scores.json()["R40"]["Car"]["3d"] == [0, 0, 0]
    assert scores.curves["Pedestrian"]["bev"] is None
    assert scores.curves["Pedestrian"]["2d"] is not None
    outside = _score(tmp_path, [([_line("Car")], [_line("Car", (-1, 100, 200, 180), 0.9)])])
    assert outside.curves["Car"]["2d"] is None  # the official tool looks at the left edge, too
    assert outside.curves["Car"]["3d"] is not None
    table = score_tables(scores)[0]
    assert table.rows[8] == ("Cyclist (Detection)", None, None, None)
    assert score_tables(_score(tmp_path, [([], [])]))[0].rows[0][1] is None


def test_names_in_any_case_and_own_classes(tmp_path) -> None:
    scores = _score(tmp_path, [([_line("cAR")], [_line("Car", score=0.9)])])
    assert _counts(scores) == [(1, 1, 0, 0)] * 3
    own = _score(tmp_path, [([_line("Ood")], [_line("Ood", score=0.9)])], {"Ood": (0.25, 0.25, 0.25)})
    assert _counts(own, "Ood", "3d") == [(1, 1, 0, 0)] * 3


def test_overlaps_on_the_command_line() -> None:
    assert parse_overlaps(["Car=0.7,0.5,0.5", "Cyclist=0.25"]) == {"Car": (0.7, 0.5, 0.5), "Cyclist": (0.25,) * 3}
    assert list(parse_overlaps([])) == ["Car", "Pedestrian", "Cyclist"]
    for bad in (["Car"], ["Car=x"], ["Car=1"], ["=0.5"], ["Car=0.5,0.5"], ["Car=nan"], ["Car=0.5", "car=0.7"]):
        with pytest.raises(UsageError, match="overlaps"):
            parse_overlaps(bad)


def test_a_class_that_nothing_has_is_refused(tmp_path, capsys) -> None:
    for folder in ("gt", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "gt" / "000001.txt").write_text(_line("Car") + "\n")
    (tmp_path / "results" / "000001.txt").write_text(_line("Car", score=0.9) + "\n")
    command = ["evaluate", "kitti-object", "--gt", str(tmp_path / "gt"), "--results", str(tmp_path / "results")]
    assert main([*command, "--overlaps", "Car=0.5", "Tram=0.5"]) == 0
    assert main([*command, "--overlaps", "Carr=0.5"]) == 2
    assert "no label and no result is a 'Carr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("Car 0 0 0 1 2 3 4 1 1 1 1 1 1 0", r"000001.txt:2: .*16 fields.*score is missing"),
        ("Car 0 0 0 1 2 3 4 1 1 1 1 1 1 0 0.5 7", r"000001.txt:2: .*16 fields.*17"),
        ("Car 0 0 0 1 2 3 4 1 1 1 1 1 1 0 nan", r"000001.txt:2: field 16 is nan"),
        ("Car 0 0 0 1 2 3 inf 1 1 1 1 1 1 0 1", r"000001.txt:2: field 8 is inf"),
        ("Car 0 0 0 1 2 3 4m 1 1 1 1 1 1 0 1", r"000001.txt:2: '4m' is not a number"),
        ("Carr 0 0 0 1 2 3 4 1 1 1 1 1 1 0 1", r"000001.txt:2: .*'Carr' is unknown, did you mean 'Car'"),
        ("Zebra 0 0 0 1 2 3 4 1 1 1 1 1 1 0 1", r"known: Car, Van, [^.]*DontCare\)$"),
    ],
)
def test_broken_results(tmp_path, capsys, result, message) -> None:
    fine = ([_line("Car")], [_line("Car", score=0.9)])
    with pytest.raises(Vision3DError, match=message):
        _score(tmp_path, [fine, ([_line("Car")], [_line("Car", score=0.5), result])])
    args = ["--gt", str(tmp_path / "label_2"), "--results", str(tmp_path / "results")]
    assert main(["evaluate", "kitti-object", *args]) == 1
    assert "000001.txt:2" in capsys.readouterr().err


def test_boxes_that_match_nothing_are_counted(tmp_path, capsys) -> None:
    none = {"size": (-1, -1, -1), "at": (-1000, -1000, -1000)}
    truth = ["DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10", _line("Car"), _line("Car", **none)]
    turned = _line("Car", (200, 100, 100, 180), 0.7)
    flat = [_line("Van", score=0.9), "", _line("Car", score=0.9, size=(1.5, 0, 4)), turned]
    args = ["evaluate", "kitti-object", "--gt", str(tmp_path / "label_2"), "--results", str(tmp_path / "results")]
    _score(tmp_path, [(truth, [_line("Car", score=0.9)]), (truth, flat)])
    assert main(args) == 0
    output = capsys.readouterr()
    assert "2 lines have a 3D size that is not positive or a 2D box without area" in output.err
    assert f"{tmp_path / 'results' / '000001.txt'}:3" in output.err and "without area" not in output.out
    _score(tmp_path, [([_line("Car"), _line("Car", size=(0, 1, 1))], [])])
    assert main([*args, "--json"]) == 0
    assert f"the first is {tmp_path / 'label_2' / '000000.txt'}:2" in capsys.readouterr().err
    for name in ("000000.txt", "000001.txt"):
        (tmp_path / "results" / name).write_text(_line("Car", score=0.9, **none))
    (tmp_path / "label_2" / "000000.txt").write_text("\n".join(truth))
    assert main(args) == 0 and "without area" not in capsys.readouterr().err
    (tmp_path / "results" / "000001.txt").write_text(
        _line("Car", (0, 0, 0, 0), 0.9)
    )  # as detectors without photos write
    assert main([*args[:-1], str(tmp_path)]) == 0  # the folder that `detect` writes holds `results`
    assert "1 line has" in capsys.readouterr().err


def test_folders_that_lack_something(tmp_path) -> None:
    fine = ([_line("Car")], [_line("Car", score=0.9)])
    _score(tmp_path, [fine])
    labels, results = tmp_path / "label_2", tmp_path / "results"
    with pytest.raises(UsageError, match="does not exist"):
        evaluate_kitti_object(labels, tmp_path / "nothing")
    with pytest.raises(UsageError, match="does not exist"):
        evaluate_kitti_object(tmp_path / "nothing", results)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UsageError, match="no result files"):
        evaluate_kitti_object(labels, tmp_path / "bare")
    (results / "000007.txt").write_text("")
    with pytest.raises(UsageError, match=r"no ground truth for 000007\.txt"):
        evaluate_kitti_object(labels, results)
    with pytest.raises(UsageError, match="IoU"):
        evaluate_kitti_object(labels, results, {"Car": (0.7, 0.7, 1.0)})
    (labels / "000007.txt").write_text(_line("Car", score=0.5))
    with pytest.raises(Vision3DError, match=r"000007.txt:1: .*15 fields.*a result"):
        evaluate_kitti_object(labels, results)
