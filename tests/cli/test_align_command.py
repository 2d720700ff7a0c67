"""`vision3d align`: a folder of photos in, canonical pictures and correspondences out; bad folders."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from spair_copies import photo

from vision3d.cli.main import main
from vision3d.weights import find_weights

pytestmark = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")


def write_crops(folder: Path, count: int = 3) -> Path:
    """Overlapping crops of one photo."""
    folder.mkdir(parents=True)
    for k in range(count):
        crop = photo("cat")[10 * k : 10 * k + 300, 20 * k : 20 * k + 360]
        PIL.Image.fromarray(crop).save(folder / f"{k}.jpg", quality=95)
    return folder


def test_crops_of_one_photo_align_and_a_second_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_crops(tmp_path / "in"), tmp_path / "out"
    command = ["align", str(folder), "--out", str(out), "--steps", "40"]
    assert main([*command, "--max-time", "0.001", "--json"]) in (0, 1)
    assert not json.loads(capsys.readouterr().out)["finished"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["aligned"] and report["finished"] and report["steps"] == 40 and report["warning"] is None
    assert report == json.loads((out / "report.json").read_text())
    assert len(report["losses"]["keypoints"]) == 40
    with np.load(out / "correspondences.npz", allow_pickle=False) as data:
        assert data["names"].tolist() == ["0.jpg", "1.jpg", "2.jpg"]
        assert np.isfinite(data["maps"]).all() and data["maps"].shape[:2] == (3, 3)
        shift = data["points"][1] - data["points"][0]  # a crop 20 px further right shows things 20 px further left
        assert np.linalg.norm(np.median(shift, axis=0) - [-20, -10]) < 12
        assert data["sizes"].tolist() == [[360, 300]] * 3
    pictures = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert pictures == [
        "canonical.png",
        *(f"coordinates/0{k}-{k}.png" for k in range(3)),
        "overview.png",
        *(f"points/0{k}-{k}.png" for k in range(3)),
    ]
    assert np.asarray(PIL.Image.open(out / "coordinates" / "00-0.png")).shape == (300, 360, 3)
    assert main(command) == 0
    assert "aligned: 3 photos, consistency" in capsys.readouterr().out


def test_bad_folders_are_one_line_and_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    def fails(words: str, *command: str) -> None:
        assert main(["align", *command]) == 2
        assert words in capsys.readouterr().err

    one = write_crops(tmp_path / "one", 1)
    fails("is no folder of photos", str(tmp_path / "none"), "--out", str(out))
    fails("has 1 different photos, align takes 2 to 50", str(one), "--out", str(out))
    (one / "broken.jpg").write_bytes(b"\xff\xd8\xff garbage")
    fails("left out broken.jpg", str(one), "--out", str(out))
    fails("--steps is 1 or more", str(one), "--out", str(out), "--steps", "0")
    fails("--max-time", str(one), "--out", str(out), "--max-time", "0")
    fails("name another", str(one), "--out", str(one))
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    fails("thesis.tex", str(write_crops(tmp_path / "in", 2)), "--out", str(out))
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]
    fails("is a file", str(one), "--out", str(one / "0.jpg"))


def test_photos_of_different_things_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(photo("cup")).save(folder / "cup.png")
    for k in range(2):
        PIL.Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)).save(folder / f"noise{k}.png")
    assert main(["align", str(folder), "--out", str(tmp_path / "out"), "--steps", "20"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("not aligned") and "do not seem to show things of one kind" in err
    assert (tmp_path / "out" / "overview.png").is_file()
