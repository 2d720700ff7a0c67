"""`evaluate spair71k`: predictions are saved, resumed and scored by the protocol that is printed."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spair_copies import write_copies

from vision3d.cli.main import main
from vision3d.core import UsageError, Vision3DError
from vision3d.data.semantic_pairs import PairSplit
from vision3d.data.spair import read_spair
from vision3d.eval import semantic_predictions
from vision3d.eval.pck import PckRule, PredictedPair, pck
from vision3d.eval.semantic_predictions import Describer, predict, predictions_path, read_predictions, save_predictions
from vision3d.eval.semantic_report import SemanticProtocol, chosen_pairs, evaluate_semantic
from vision3d.matching.semantic.catalogue import make_semantic_matcher
from vision3d.weights import find_weights

needs_weights = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")


@pytest.fixture
def split(tmp_path: Path) -> PairSplit:
    return read_spair(write_copies(tmp_path / "set", synthetic=True))


def without_times(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.endswith("_s") and k not in ("pictures", "workers")} for line in lines
    ]


def test_the_report_is_the_pck_of_the_saved_points(split: PairSplit, tmp_path: Path) -> None:
    protocol = SemanticProtocol(alphas=(0.2, 0.1))
    report = evaluate_semantic(split, "set", ["position"], tmp_path / "out", protocol)
    shares = {0.2: [], 0.1: []}
    for pair in split.pairs:
        for alpha, values in shares.items():
            hits = [
                math.hypot(a / pair.size0[0] * pair.size1[0] - c, b / pair.size0[1] * pair.size1[1] - d)
                <= alpha * max(pair.box1[2] - pair.box1[0], pair.box1[3] - pair.box1[1])
                for (a, b), (c, d) in zip(pair.points0.tolist(), pair.points1.tolist(), strict=True)
            ]
            values.append(sum(hits) / len(hits))
    scores = json.loads((tmp_path / "out" / "report.json").read_text())["methods"]["position"]
    for alpha, values in shares.items():
        assert scores["per_image"][f"{alpha:g}"] == pytest.approx(100 * sum(values) / len(values))
        assert scores["per_point"][f"{alpha:g}"] == pytest.approx(100 * sum(values) / len(values))  # 5 points each
    assert 0 < scores["per_image"]["0.1"] < scores["per_image"]["0.2"]
    assert scores["pairs"] == 9 and scores["points"] == 45 and scores["pictures"] == 18
    text = (tmp_path / "out" / "report.md").read_text()
    assert "SYNTHETIC" in text and "distance <= alpha max(w, h) of the target box, original resolution" in text
    assert [table.title for table in report.tables] == [
        "set: PCK",
        "set: by category",
        "set: by difficulty",
        "set: the same predictions by every protocol",
    ]
    groups = {row[0]: row[1] for row in report.tables[1].rows}
    assert groups == {"cat": 3, "cup": 3, "man": 3}
    levels = {row[0]: row[1] for row in report.tables[2].rows}
    assert levels["viewpoint 2"] == 3 and levels["truncation 0"] == 6 and levels["scale 0"] == 9


def test_every_protocol_is_listed_with_its_own_figure(split: PairSplit, tmp_path: Path) -> None:
    report = evaluate_semantic(split, "set", ["position"], tmp_path, SemanticProtocol(square=100, strict=True))
    rows = {row[:3]: row[3] for row in report.tables[-1].rows}
    assert len(rows) == 8
    main_row = report.tables[0].rows[0]
    assert rows["box", "<", "100x100"] == main_row[1]
    assert "distance < alpha max(w, h) of the target box, squashed to 100x100 px" in report.tables[0].caption
    found = read_predictions(split.pairs, "position", tmp_path)
    pairs = [
        PredictedPair(found[pair.pair_id].found, pair.points1.double().numpy(), pair.size1, pair.box1)
        for pair in split.pairs
    ]
    for (reference, sign, where), value in rows.items():
        square = None if where == "original" else 100
        rule = PckRule(reference=reference, strict=sign == "<", square=square)
        assert value == pytest.approx(100 * pck(pairs, 0.1, rule))
    assert len(set(rows.values())) > 1
    assert SemanticProtocol(strict=True, square=7).rule("point") == PckRule(average="point", strict=True, square=7)


def test_pairs_without_difficulty_have_no_table_of_it(split: PairSplit, tmp_path: Path) -> None:
    plain = replace(split, pairs=tuple(replace(pair, difficulty=None) for pair in split.pairs), left_out=("a", "b"))
    report = evaluate_semantic(plain, "set", ["position"], tmp_path, SemanticProtocol(), limit=4)
    assert len(report.tables) == 3
    assert "4 of 9 pairs" in report.tables[0].caption and "2 pairs without common keypoints" in report.tables[0].caption


def test_limits_are_spread_evenly(split: PairSplit) -> None:
    assert [pair.category for pair in chosen_pairs(split, 3)] == ["cat", "cup", "man"]
    assert chosen_pairs(split, 100) == split.pairs
    with pytest.raises(UsageError, match="limit"):
        chosen_pairs(split, 0)
    with pytest.raises(UsageError, match="1 left out"):
        chosen_pairs(PairSplit((), ("x",), 0, False), None)


def test_a_cut_off_run_goes_on(split: PairSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    save_predictions(split.pairs, "position", whole)
    path = predictions_path(cut, "position")
    partial = path.with_suffix(".partial.jsonl")
    partial.parent.mkdir(parents=True)
    lines = predictions_path(whole, "position").read_text().splitlines(keepends=True)
    partial.write_text("".join(lines[1:5]) + lines[5][:30])  # killed while writing the fifth
    asked = []
    monkeypatch.setattr(
        semantic_predictions, "predict", lambda pair, describe: asked.append(pair) or predict(pair, describe)
    )
    save_predictions(split.pairs, "position", cut)
    assert asked == list(split.pairs[4:])
    assert without_times(path) == without_times(predictions_path(whole, "position"))
    assert not partial.exists()
    save_predictions(split.pairs, "position", cut)
    assert len(asked) == 5  # nothing again


def test_what_no_longer_fits_is_made_anew(split: PairSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_predictions(split.pairs, "position", tmp_path)
    asked = []
    monkeypatch.setattr(
        semantic_predictions, "predict", lambda pair, describe: asked.append(pair) or predict(pair, describe)
    )
    moved = replace(split.pairs[2], points0=split.pairs[2].points0 + 1)
    picture = PIL.Image.open(split.pairs[5].image1)
    picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT).save(split.pairs[5].image1)
    pairs = [*split.pairs[:2], moved, *split.pairs[3:]]
    save_predictions(pairs, "position", tmp_path)
    assert asked == [moved, split.pairs[5]]
    found = read_predictions(pairs, "position", tmp_path)[moved.pair_id].found
    assert np.allclose(found, moved.points0.numpy(), atol=1e-3)


def test_broken_predictions_are_said(split: PairSplit, tmp_path: Path) -> None:
    save_predictions(split.pairs[:3], "position", tmp_path)
    with pytest.raises(Vision3DError, match="lacks the pair"):
        read_predictions(split.pairs, "position", tmp_path)
    predictions_path(tmp_path, "position").write_text("header\nnonsense\n")
    with pytest.raises(Vision3DError, match="run again"):
        read_predictions(split.pairs, "position", tmp_path)
    with pytest.raises(Vision3DError, match="cannot read"):
        read_predictions(split.pairs, "efficientnet-lite0", tmp_path)


def test_names_with_paths_are_file_names() -> None:
    one, other = (predictions_path(Path("out"), f"timm:vit:{folder}/w.pth") for folder in ("/a", "/b"))
    assert one != other and one.parent == Path("out/predictions") and ":" not in one.name


def test_bad_pictures_are_named(split: PairSplit, tmp_path: Path) -> None:
    pair = split.pairs[0]
    with pytest.raises(Vision3DError, match=r"0a\.jpg has 200x160 px, its annotation says 7x8"):
        save_predictions([replace(pair, size0=(7, 8))], "position", tmp_path)
    PIL.Image.new("RGB", (1, 1)).save(pair.image1)
    with pytest.raises(Vision3DError, match=r"0b\.jpg has 1x1 px"):
        save_predictions([pair], "position", tmp_path)
    pair.image1.unlink()
    with pytest.raises(Vision3DError, match=r"cannot read the picture .*0b\.jpg"):
        save_predictions([pair], "position", tmp_path)
    with pytest.raises(UsageError, match="workers"):
        save_predictions([pair], "position", tmp_path, workers=0)
    for methods in ([], ["position", "position"]):
        with pytest.raises(UsageError, match="different methods"):
            evaluate_semantic(split, "set", methods, tmp_path, SemanticProtocol())
    with pytest.raises(UsageError, match="alphas"):
        SemanticProtocol(alphas=(0.1, 0.0))


@needs_weights
def test_features_are_kept_within_bounds(split: PairSplit) -> None:
    matcher = make_semantic_matcher("efficientnet-lite0", size=64)
    wide, narrow = Describer(matcher), Describer(matcher, cache_mb=0)
    for _ in range(2):
        for pair in split.pairs[:3]:
            first, second = predict(pair, wide), predict(pair, narrow)
            assert np.array_equal(first.found, second.found)
    assert wide.pictures == 6 and narrow.pictures == 12
    assert first.pictures == 0 and second.pictures == 2


@pytest.mark.slow
@needs_weights
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    split = read_spair(write_copies(tmp_path / "set", pairs_per_category=6))
    for workers in (1, 2):
        save_predictions(split.pairs, "efficientnet-lite0", tmp_path / str(workers), workers=workers)
    assert not any(pair.points0.is_shared() for pair in split.pairs)  # an open file each
    one, two = (read_predictions(split.pairs, "efficientnet-lite0", tmp_path / name) for name in "12")
    for pair in split.pairs:
        assert np.allclose(one[pair.pair_id].found, two[pair.pair_id].found, atol=0.05)


@needs_weights
def test_a_killed_run_resumes_to_the_same_report(tmp_path: Path) -> None:
    root = write_copies(tmp_path / "set", pairs_per_category=8)
    command = [sys.executable, "-m", "vision3d.cli.main", "evaluate", "spair71k", "--root", str(root)]
    command += ["--method", "efficientnet-lite0", "--workers", "1", "--json", "--out"]
    partial = predictions_path(tmp_path / "killed", "efficientnet-lite0").with_suffix(".partial.jsonl")
    run = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and not (partial.is_file() and partial.stat().st_size):
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert partial.is_file() and not partial.with_name("efficientnet-lite0.jsonl").exists()
    assert 0 < len(partial.read_text().splitlines()) < 24
    for out in ("killed", "unbroken"):
        assert main([*command[3:], str(tmp_path / out)]) == 0
    paths = [predictions_path(tmp_path / out, "efficientnet-lite0") for out in ("killed", "unbroken")]
    assert without_times(paths[0]) == without_times(paths[1])
    reports = [json.loads((tmp_path / out / "report.json").read_text()) for out in ("killed", "unbroken")]
    scores = [report["methods"]["efficientnet-lite0"] for report in reports]
    assert scores[0]["per_image"] == scores[1]["per_image"] and scores[0]["per_point"] == scores[1]["per_point"]
    assert scores[0]["per_image"]["0.1"] > 80  # shifted copies of photos
