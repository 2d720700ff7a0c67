"""`vision3d register` from files to files."""

import json
from pathlib import Path

import numpy as np
import pytest

from vision3d.cli.main import main
from vision3d.io.ply import read_ply


def test_register_writes_results(test_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = test_data / "scans/7-scenes-redkitchen"
    target = tmp_path / "target.npy"
    np.save(target, read_ply(folder / "cloud_bin_0.ply").cloud.points.numpy())
    command = ["register", str(folder / "cloud_bin_1.ply"), str(target), "--out", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["registered"] and np.array(found["target_from_source"]).shape == (4, 4)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"registration.json", "transform.txt", "merged.ply", "before.png", "after.png"}
    np.testing.assert_allclose(np.loadtxt(tmp_path / "out/transform.txt"), found["target_from_source"], atol=1e-9)


def test_clouds_that_do_not_register_exit_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.uniform(-1, 1, (5000, 3)))
    paths = [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    assert main(["register", *paths, "--out", str(tmp_path / "out")]) == 1
    assert "not register" in capsys.readouterr().err
    assert main(["register", paths[0], "--out", str(tmp_path / "out")]) == 2
    assert main(["register", *paths, "--out", str(tmp_path / "out"), "--voxel", "-1"]) == 2
    np.save(tmp_path / "empty.npy", np.zeros((0, 3)))
    np.save(tmp_path / "nan.npy", np.full((9, 3), np.nan))
    for name in ("empty", "nan"):
        capsys.readouterr()
        out = tmp_path / f"out of {name}"
        assert main(["register", str(tmp_path / f"{name}.npy"), paths[1], "--out", str(out), "--json"]) == 1
        verdict = json.loads(capsys.readouterr().out)
        assert verdict["registered"] is False and verdict["reason"] == "a cloud has no points"
        assert (out / "after.png").stat().st_size > 1000
    learned = ["register", *paths, "--out", str(tmp_path / "out"), "--features"]
    capsys.readouterr()
    assert main([*learned, "fcgf-3dmatch-5cm"]) == 2
    assert "--features needs --voxel" in capsys.readouterr().err
    assert main([*learned, "nothing", "--voxel", "0.05"]) == 2
    assert "no such weights file" in capsys.readouterr().err
