"""`vision3d evaluate spair71k` and `vision3d match --matcher semantic:NAME` from the command line."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spair_copies import write_copies

from vision3d.cli.main import main
from vision3d.weights import find_weights

needs_weights = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")


def test_evaluate_prints_its_protocol_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_copies(tmp_path / "set", synthetic=True)
    command = ["evaluate", "spair71k", "--root", str(root), "--method", "position", "--out", str(tmp_path / "out")]
    assert main([*command, "--pictures", "2", "--alphas", "0.2", "--workers", "1"]) == 0
    out, err = capsys.readouterr()
    assert "distance <= alpha max(w, h) of the target box, original resolution. SYNTHETIC" in out
    assert "synthetic" in err
    pictures = sorted((tmp_path / "out" / "pictures" / "position").glob("*.png"))
    assert [p.name for p in pictures] == ["00000-cat.png", "00004-cup.png"]
    pixels = np.asarray(PIL.Image.open(pictures[0]).convert("RGB")).astype(int)
    green = (pixels[..., 1] > 150) & (pixels[..., 0] < 110) & (pixels[..., 2] < 130)
    assert pixels.shape == (160, 408, 3) and green.sum() > 30  # lines of found points
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"]["position"]["pairs"] == 9
    assert main([*command, "--markdown", "--categories", "cat"]) == 0
    assert "| cat |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "magic"], "no semantic matcher is called 'magic'"),
        (["--method", "position", "--split", "holdout"], "splits"),
        (["--method", "position", "--categories", "unicorn"], "unicorn"),
        (["--method", "position", "--alphas", "0"], "alphas"),
        (["--method", "position", "--limit", "0"], "limit"),
        (["--method", "position", "--square", "0"], "square"),
        (["--method", "position", "--pictures", "-1"], "pictures"),
        (["--method", "position", "--json", "--markdown"], "one of --json and --markdown"),
        (["--method", "efficientnet-lite0", "position", "--flip"], "position takes no options, not flip"),
        (["--method", "asic", "--rule", "soft"], "asic takes size, not rule"),
        (["--method", "efficientnet-lite0", "--size", "500"], "multiple of 32"),
        (["--method", "efficientnet-lite0,size=64", "--size", "96"], "says size twice"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_copies(tmp_path / "set", pairs_per_category=1)
    assert main(["evaluate", "spair71k", "--root", str(root), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert words in capsys.readouterr().err


@needs_weights
def test_options_make_predictions_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_copies(tmp_path / "set", pairs_per_category=1)
    command = ["evaluate", "spair71k", "--root", str(root), "--out", str(tmp_path / "out"), "--workers", "1", "--json"]
    command += ["--method", "efficientnet-lite0"]
    names = []
    for options in (["--size", "64"], ["--size", "64", "--rule", "soft"], ["--size", "64", "--flip"], ["--size", "96"]):
        assert main([*command, *options]) == 0
        names += json.loads(capsys.readouterr().out)["methods"]
    end = ("size=64", "rule=soft,size=64", "flip,size=64", "size=96")
    assert names == [f"efficientnet-lite0,{options}" for options in end]
    files = sorted((tmp_path / "out" / "predictions").glob("*.jsonl"))
    assert len(files) == 4
    noted = [json.loads(file.read_text().splitlines()[0])["settings"] for file in files]
    assert {(n["size"], n["rule"], n["flip"]) for n in noted} == {
        (64, "nearest", False), (64, "soft", False), (64, "nearest", True), (96, "nearest", False),
    }  # fmt: skip
    assert len({file.read_text().splitlines()[1] for file in files}) == 4


def test_a_folder_of_another_kind_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "spair71k", "--root", str(tmp_path), "--method", "position", "--out", str(tmp_path)]) == 2
    assert "is no SPair-71k folder" in capsys.readouterr().err


@needs_weights
def test_match_draws_semantic_matches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = write_copies(tmp_path / "set", pairs_per_category=1) / "JPEGImages" / "cup"
    out = tmp_path / "out"
    command = ["match", str(pictures / "0a.jpg"), str(pictures / "0b.jpg"), "--out", str(out)]
    assert main([*command, "--matcher", "semantic:efficientnet-lite0", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["matcher"] == "semantic:efficientnet-lite0" and summary["settings"]["stages"] == [6, 7]
    assert "no evidence" in summary["note"]
    assert summary["note"] == json.loads((out / "matches.json").read_text())["note"]
    assert 30 < summary["count"] <= summary["tried"]
    with np.load(out / "matches.npz") as data:
        assert len(data["points0"]) == summary["count"]
        shift = data["points1"] - data["points0"]
        assert np.linalg.norm(shift - np.median(shift, axis=0), axis=1).mean() < 12
    assert PIL.Image.open(out / "matches.png").size[0] == 408
    assert main([*command, "--matcher", "semantic:position"]) == 0  # the folder of an earlier match
    printed = capsys.readouterr().out
    assert "come back (semantic:position" in printed and "no evidence that both show the same thing" in printed
    assert main([*command, "--matcher", "semantic:efficientnet-lite0,rule=mutual,flip,size=128", "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)["settings"]
    assert (chosen["rule"], chosen["flip"], chosen["size"], chosen["max_size"]) == ("mutual", True, 128, 128)
    assert main([*command, "--matcher", "semantic:position,flip"]) == 2
    assert "position takes no options" in capsys.readouterr().err
    assert main([*command, "--matcher", "semantic:asic"]) == 2
    assert "vision3d align" in capsys.readouterr().err
    assert main([*command, "--matcher", "semantic:efficientnet-lite0,size=160000"]) == 2
    assert "at most 2048 px" in capsys.readouterr().err
    assert main([*command, "--matcher", "semantic:magic"]) == 2
    assert "known: position" in capsys.readouterr().err
    assert main([*command, "--matcher", "semantic:position", "--weights", str(out / "matches.npz")]) == 2
    assert "leave out --weights" in capsys.readouterr().err


def test_match_says_what_is_wrong_with_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    PIL.Image.new("RGB", (50, 40)).save(tmp_path / "grey.png")
    command = ["match", str(tmp_path / "dot.png"), str(tmp_path / "grey.png"), "--matcher", "semantic:position"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "dot.png has 1x1 px" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
