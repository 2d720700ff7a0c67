"""`vision3d reconstruct` from end to end, on good photos, strange photos and bad ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from synthetic_photos import room_corner

from vision3d.cli.main import main
from vision3d.eval.pose_report import report_poses
from vision3d.io.colmap import read_colmap


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four photos of a room's corner, and their true cameras."""
    folder = tmp_path_factory.mktemp("room") / "photos"
    return folder, room_corner(folder, 4)


def _auc5(out: Path, truth: Path) -> float:
    return report_poses(out, truth).evaluation.auc[5]


def test_photos_to_cameras_and_points(room: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photos, truth = room
    out = tmp_path / "out"
    assert main(["reconstruct", "--until", "poses", str(photos), "--out", str(out)]) == 0
    assert "4 of 4 photos registered" in capsys.readouterr().out
    assert _auc5(out, truth) > 95
    scene = read_colmap(out / "sparse")
    assert len(scene.points) > 200 and float(scene.errors.median()) < 0.5
    assert len(set(map(tuple, scene.colors.tolist()))) > 50
    run = json.loads((out / "run.json").read_text())
    assert run["counts"]["registered"] == 4 and run["left_out"] == {} and run["seed"] == 0
    for name in ("points.ply", "cameras.json", "transforms.json", "report.html", "overview.png"):
        assert (out / name).stat().st_size > 0

    before, stages = (out / "cameras.json").read_bytes(), sorted(path.name for path in (out / "stages").iterdir())
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)  # another number is no reason to begin again
    try:
        assert main(["reconstruct", "--until", "poses", str(photos), "--out", str(out), "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert sorted(path.name for path in (out / "stages").iterdir()) == stages
    again = json.loads(capsys.readouterr().out)
    assert (out / "cameras.json").read_bytes() == before
    assert again["timings_s"]["poses"] < run["timings_s"]["poses"]


def _numbers(out: Path) -> np.ndarray:
    """K and pose of all photos; equal to rounding for equal runs (bundle adjustment sums over several threads)."""
    images = json.loads((out / "cameras.json").read_text())["images"]
    return np.array(
        [np.ravel(images[n]["K"]).tolist() + np.ravel(images[n]["cam_from_world"]).tolist() for n in images]
    )


def test_damaged_and_deleted_stages_are_made_again(room: tuple[Path, Path], tmp_path: Path) -> None:
    argv = ["reconstruct", "--until", "poses", str(room[0]), "--out", str(tmp_path / "out"), "--quiet"]
    assert main(argv) == 0
    before = _numbers(tmp_path / "out")
    stages = tmp_path / "out" / "stages"
    pairs = next(stages.glob("verified-*/pairs.npz"))
    pairs.write_bytes(pairs.read_bytes()[:2000])
    next(stages.glob("poses-*/result.json")).write_bytes(b"\xff\x00 not json")
    segment = next(stages.glob("features/*/segment-*.h5"))
    segment.write_bytes(segment.read_bytes()[:-5000])
    assert main(argv) == 0
    np.testing.assert_allclose(_numbers(tmp_path / "out"), before, atol=1e-5)
    shutil.rmtree(stages)
    assert main(argv) == 0
    np.testing.assert_allclose(_numbers(tmp_path / "out"), before, atol=1e-5)


def test_results_inside_the_photo_folder_are_not_photos(room: tuple[Path, Path], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(room[0], photos)
    for out in ("first", "second"):
        assert main(["reconstruct", "--until", "poses", str(photos), "--out", str(photos / out), "--quiet"]) == 0
        assert json.loads((photos / out / "run.json").read_text())["counts"]["photos"] == 4


def test_known_intrinsics_are_kept(room: tuple[Path, Path], tmp_path: Path) -> None:
    photos, truth = room
    assert (
        main(
            ["reconstruct", "--until", "poses", str(photos), "--out", str(tmp_path / "out"), "--intrinsics", str(truth)]
        )
        == 0
    )
    given, found = (json.loads(p.read_text())["images"] for p in (truth, tmp_path / "out" / "cameras.json"))
    for name, entry in found.items():
        np.testing.assert_allclose(entry["K"], given[name]["K"], rtol=1e-12)
    assert _auc5(tmp_path / "out", truth) > 98


def test_known_poses_are_kept(room: tuple[Path, Path], tmp_path: Path) -> None:
    photos, truth = room
    out = tmp_path / "out"
    assert (
        main(
            [
                "reconstruct",
                "--until",
                "poses",
                str(photos),
                "--out",
                str(out),
                "--intrinsics",
                str(truth),
                "--known-poses",
            ]
        )
        == 0
    )
    given, found = (json.loads(p.read_text())["images"] for p in (truth, out / "cameras.json"))
    for name, entry in found.items():
        np.testing.assert_allclose(entry["cam_from_world"], given[name]["cam_from_world"], atol=1e-9)
    points = read_colmap(out / "sparse").points.numpy()
    on_a_wall = np.abs(points).min(axis=1) < 0.02
    assert len(points) > 200 and on_a_wall.mean() > 0.9


def test_strange_photos_are_read(room: tuple[Path, Path], tmp_path: Path) -> None:
    """Grey, CMYK, 16 bit, RGBA, EXIF-turned, another size, spaces and umlauts in the name: all in one folder."""
    photos, truth = room
    folder = tmp_path / "Fotos mit Öl"
    folder.mkdir()
    views = [PILImage.open(photos / f"view_{i}.png") for i in range(4)]
    views[0].convert("L").save(folder / "view_0.png")
    exif = PILImage.Exif()
    exif[0x0112] = 6  # stored turned: 90 degrees clockwise makes it upright
    views[1].transpose(PILImage.Transpose.ROTATE_90).save(folder / "view_1.jpg", quality=97, exif=exif)
    views[2].convert("CMYK").save(folder / "Größe 2.jpg", quality=97)
    deep = np.asarray(views[3].convert("L")).astype(np.uint16) * 257
    cv2.imwrite(str(folder / "view_3.png"), deep)
    views[1].convert("RGBA").resize((360, 270), PILImage.Resampling.LANCZOS).save(folder / "half.png")
    assert main(["reconstruct", "--until", "poses", str(folder), "--out", str(tmp_path / "out")]) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["counts"]["registered"] == 5, run["left_out"]
    names = {"view_0.png": "view_0.png", "view_1.jpg": "view_1.png", "Größe 2.jpg": "view_2.png"}
    found = json.loads((tmp_path / "out" / "cameras.json").read_text())["images"]
    true = json.loads(truth.read_text())["images"]
    renamed = {"images": {ours: true[theirs] for ours, theirs in names.items()}}
    (tmp_path / "truth.json").write_text(json.dumps(renamed))
    (tmp_path / "some.json").write_text(json.dumps({"images": {n: found[n] for n in names}}))
    assert _auc5(tmp_path / "some.json", tmp_path / "truth.json") > 90


def test_bad_photos_among_good_ones_are_reported(room: tuple[Path, Path], tmp_path: Path) -> None:
    photos, _ = room
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "notes.jpg").write_text("this is a text")
    whole = tmp_path / "whole.jpg"
    PILImage.open(photos / "view_0.png").save(whole)
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[:3000])
    (folder / "empty.png").touch()
    PILImage.new("RGB", (1, 1)).save(folder / "dot.png")
    shutil.copy(photos / "view_0.png", folder / "view_0 copy.png")
    rng = np.random.default_rng(3)
    noise = cv2.resize(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8), (480, 360), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "elsewhere.png"), noise)
    PILImage.new("RGB", (480, 360), (90, 90, 90)).save(folder / "blank.png")
    assert main(["reconstruct", "--until", "poses", str(folder), "--out", str(tmp_path / "out")]) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["counts"]["registered"] == 4
    bad = {"notes.jpg", "cut.jpg", "empty.png", "dot.png", "view_0 copy.png", "elsewhere.png", "blank.png"}
    assert set(run["left_out"]) == bad
    assert all(run["left_out"].values())


def _fails(argv: list[str], code: int, capsys: pytest.CaptureFixture) -> str:
    assert main(argv) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("vision3d: error: ")
    return error


def test_folders_without_enough_photos(
    room: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert "does not exist" in _fails(["reconstruct", "--until", "poses", str(tmp_path / "none"), *out], 2, capsys)
    (tmp_path / "empty").mkdir()
    assert "no photos" in _fails(["reconstruct", "--until", "poses", str(tmp_path / "empty"), *out], 2, capsys)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(room[0] / "view_0.png", one)
    assert "at least two" in _fails(["reconstruct", "--until", "poses", str(one), *out], 1, capsys)
    assert not (tmp_path / "out").exists()


def test_unrelated_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        grey = np.random.default_rng(i).integers(0, 255, (45, 60), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{i}.png"), cv2.resize(grey, (320, 240), interpolation=cv2.INTER_CUBIC))
    error = _fails(["reconstruct", "--until", "poses", str(photos), "--out", str(tmp_path / "out")], 1, capsys)
    assert "no two photos" in error


def test_an_out_of_somebody_else_is_left_alone(
    room: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("work")
    assert "something else" in _fails(
        ["reconstruct", "--until", "poses", str(room[0]), "--out", str(tmp_path)], 2, capsys
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_out_that_cannot_be_written(room: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot write" in _fails(
        ["reconstruct", "--until", "poses", str(room[0]), "--out", "/proc/vision3d"], 1, capsys
    )


def test_the_demo_leaves_other_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "left.png").write_text("mine")
    assert "something else" in _fails(["demo", "--out", str(tmp_path)], 2, capsys)
    assert (tmp_path / "photos" / "left.png").read_text() == "mine"


def test_a_full_disk_ends_in_one_line(room: tuple[Path, Path], tmp_path: Path) -> None:
    """Files may not grow beyond 100 kB here, which fails as a full disk does."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "import torch, vision3d.recon.pipeline; from vision3d.cli.main import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); sys.exit(main(sys.argv[1:]))"
    )
    argv = [
        sys.executable,
        "-c",
        code,
        "reconstruct",
        "--until",
        "poses",
        str(room[0]),
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "cannot write" in done.stderr
    assert main(["reconstruct", "--until", "poses", str(room[0]), "--out", str(tmp_path / "out"), "--quiet"]) == 0


def test_wrong_settings(room: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["reconstruct", "--until", "poses", str(room[0]), "--out", str(tmp_path / "out")]
    assert "sift" in _fails([*base, "--matcher", "shift"], 2, capsys)
    assert "too small" in _fails([*base, "--max-size", "3"], 2, capsys)
    assert "--intrinsics" in _fails([*base, "--known-poses"], 2, capsys)
    assert "--seed" in _fails([*base, "--seed", "-1"], 2, capsys)
    (tmp_path / "masks").mkdir()
    assert "no mask" in _fails([*base, "--masks", str(tmp_path / "masks")], 2, capsys)
    assert "nope.json" in _fails([*base, "--intrinsics", str(tmp_path / "nope.json")], 2, capsys)
    assert not (tmp_path / "out").exists()
