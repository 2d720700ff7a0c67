"""`bench kitti-eval` against a stand-in for the official evaluator that prints its format."""

import json
import stat

import pytest

from vision3d.bench.kitti_eval import largest_difference, parse_official
from vision3d.cli.main import main

LABEL = "Car 0 0 0 100 100 200 180 1.5 1.6 4.0 0 1.6 20 0"
OUTPUT = """  done.
car_detection_AP : 0.000000 0.000000 0.000000
car_orientation_AOS : 0.000000 0.000000 0.000000
car_detection_BEV_AP : 0.000000 0.000000 0.000000
car_orientation_BEV_AHS : 1.000000 1.000000 1.000000
car_detection_3D_AP : {} 0.000000 0.000000
"""


@pytest.fixture
def folders(tmp_path):
    for name, text in (("gt", LABEL), ("results", f"{LABEL} 0.9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000001.txt").write_text(text)
    return ["bench", "kitti-eval", "--gt", str(tmp_path / "gt"), "--results", str(tmp_path / "results"), "--json"]


def _program(path, output) -> str:
    path.write_text(f'#!/bin/sh\ntest -f "$1/000001.txt" && test -f "$2/data/000001.txt" && cat <<END\n{output}\nEND\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_beside_a_program_that_agrees_and_one_that_does_not(folders, tmp_path, capsys) -> None:
    """One truth has one threshold, at recall 0: R40 is 0 in every metric."""
    agreeing = _program(tmp_path / "good", OUTPUT.format("0.000000"))
    assert main([*folders, "--repeats", "1", "--official", agreeing]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "kitti-eval"
    assert found["rows"][0]["case"] == "1 frames"
    assert found["rows"][0]["peers"]["official"]["max_abs_diff"] == 0
    assert main([*folders, "--repeats", "1", "--official", _program(tmp_path / "bad", OUTPUT.format("0.001"))]) == 1
    capsys.readouterr()
    assert main([*folders, "--repeats", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["ours"]["median_s"] > 0


def test_programs_that_are_none(folders, tmp_path, capsys) -> None:
    assert main([*folders, "--official", str(tmp_path / "nothing")]) == 2
    assert main([*folders, "--repeats", "0"]) == 2
    assert main([*folders, "--official", _program(tmp_path / "mute", "no result")]) == 1
    assert "printed no AP" in capsys.readouterr().err


def test_lines_of_the_official_evaluator() -> None:
    found = parse_official(OUTPUT.format("95.884972") + "pedestrian_detection AP: 78.1 75.6 66.9\n")
    assert found["car", "3d"] == [95.884972, 0, 0]
    assert found["pedestrian", "2d"] == [78.1, 75.6, 66.9]
    assert set(found) == {("car", m) for m in ("2d", "aos", "bev", "3d")} | {("pedestrian", "2d")}
    assert largest_difference(found, found) == 0
    assert largest_difference(found, {}) == float("inf")
