"""`vision3d reconstruct` to surfels, renders and mesh: files, reuse, held-out photos, flags, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from synthetic_photos import room_corner

from vision3d.cli.main import main
from vision3d.core import RigidTransform
from vision3d.geometry.similarity import align_poses
from vision3d.io.cameras_json import KnownCamera
from vision3d.io.known_cameras import read_known_cameras
from vision3d.io.mesh import read_mesh_ply
from vision3d.io.surfels_ply import read_surfels

QUICK = ["--view-size", "160", "--dense.target", "3000", "--fit.iterations", "40", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photos of a room's corner, and a finished run of them with every third held out."""
    folder = tmp_path_factory.mktemp("surface")
    room_corner(folder / "photos", 5)
    argv = ["reconstruct", str(folder / "photos"), "--out", str(folder / "out"), "--holdout", "3", *QUICK]
    assert main(argv) == 0
    return folder / "photos", folder / "out"


def test_files_and_figures(run, capsys):
    _, out = run
    surface = json.loads((out / "run.json").read_text())["surface"]
    assert surface["held_out_photos"] == ["view_0.png", "view_3.png"]
    assert surface["train"]["photos"] == 3 and surface["held_out"]["photos"] == 2
    assert surface["train"]["psnr_db"] > 16 and surface["held_out"]["psnr_db"] > 15
    assert len(read_surfels(out / "surfels.ply")) == surface["surfels"] > 1000
    mesh = read_mesh_ply(out / "mesh.ply")
    assert len(mesh.faces) == surface["faces"] > 500
    assert (out / "mesh.glb").stat().st_size > 1000 and (out / "orbit.mp4").stat().st_size > 1000
    for part, name in (("train", "view_1"), ("heldout", "view_0")):
        for kind in ("render", "photo", "depth", "normal", "error"):
            assert PILImage.open(out / "renders" / part / f"{name}_{kind}.png").size == (160, 120)
        with np.load(out / "renders" / part / f"{name}_depth.npz") as found:
            assert found["depth"].shape == (120, 160) and np.isfinite(found["depth"]).all()
    assert "held-out" in (out / "report.html").read_text(encoding="utf-8")

    assert main(["evaluate", "views", str(out), "--json"]) == 0
    views = json.loads(capsys.readouterr().out)
    assert "held" in json.dumps(views)


def test_the_mesh_is_the_room(run):
    """The walls are the planes x = 0, y = 0 and z = 0 of the true world, 3 units wide."""
    photos, out = run
    true, found = (read_known_cameras(path) for path in (photos.parent / "photos-cameras.json", out / "cameras.json"))

    def stacked(cameras: dict[str, KnownCamera]) -> RigidTransform:
        poses = [cameras[name].cam_from_world for name in sorted(true)]
        return RigidTransform(torch.stack([p.rotation for p in poses]), torch.stack([p.translation for p in poses]))

    vertices = align_poses(stacked(found), stacked(true)).apply(read_mesh_ply(out / "mesh.ply").vertices.double())
    distance = vertices.abs().amin(dim=1)
    assert float(distance.median()) < 0.02 and float((distance < 0.1).double().mean()) > 0.9


def test_a_second_call_reuses_everything(run, capsys):
    photos, out = run
    before = (out / "surfels.ply").read_bytes()
    made = {path: path.stat().st_mtime_ns for path in (out / "renders", out / "orbit.mp4", out / "mesh.ply")}
    report = (out / "report.html").stat().st_size
    argv = ["reconstruct", str(photos), "--out", str(out), "--holdout", "3", *QUICK, "--json"]
    assert main(argv) == 0
    again = json.loads(capsys.readouterr().out)
    assert (out / "surfels.ply").read_bytes() == before
    assert again["timings_s"]["surfels"] < 1.0
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert abs((out / "report.html").stat().st_size / report - 1) < 0.02  # the mesh that was read shows the same


def test_results_that_were_lost_or_damaged_are_made_again(run):
    photos, out = run
    mesh = read_mesh_ply(out / "mesh.ply")
    (out / "orbit.mp4").unlink()
    (out / "mesh.ply").write_bytes((out / "mesh.ply").read_bytes()[:1000])
    assert main(["reconstruct", str(photos), "--out", str(out), "--holdout", "3", *QUICK]) == 0
    assert (out / "orbit.mp4").stat().st_size > 1000
    assert torch.equal(read_mesh_ply(out / "mesh.ply").faces, mesh.faces)


def test_until_surfels_leaves_the_mesh_out(run, tmp_path, capsys):
    photos, _ = run
    out = tmp_path / "out"
    argv = ["reconstruct", str(photos), "--out", str(out), "--until", "surfels", "--max-time", "0.5", *QUICK]
    assert main(argv) == 0
    assert "surfels; PSNR" in capsys.readouterr().out
    assert (out / "surfels.ply").is_file() and not (out / "mesh.ply").exists()
    assert "--max-time" in json.loads((out / "run.json").read_text())["surface"]["ended"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--holdout", "1"], "leaves no photo"),
        (["--holdout", "2", "--known-poses", "--refine-poses"], "need --intrinsics"),
        (["--view-size", "8"], "too small"),
        (["--max-time", "-1"], "positive"),
        (["--fit.sh-degree", "7"], "degree 3"),
        (["--dense.source", "nonsense"], "nonsense"),
    ],
)
def test_wrong_flags_are_named(run, tmp_path, capsys, flags, words):
    photos, _ = run
    assert main(["reconstruct", str(photos), "--out", str(tmp_path / "out"), *QUICK, *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "surfels.ply").exists()


def test_too_few_photos_to_learn_from_are_named_before_the_work(run, tmp_path, capsys):
    three = tmp_path / "three"
    three.mkdir()
    for path in sorted(run[0].iterdir())[:3]:
        (three / path.name).write_bytes(path.read_bytes())
    assert main(["reconstruct", str(three), "--out", str(tmp_path / "out"), *QUICK, "--holdout", "2"]) == 2
    assert "leaves 1 of 3 photos to learn from; at least two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_wrong_voxel_is_named(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["reconstruct", str(run[0]), "--out", str(tmp_path / "out"), *QUICK, "--mesh.voxel", "0"])
    assert "voxel must be a positive length" in capsys.readouterr().err


def test_masks_that_hide_everything_are_named(run, tmp_path, capsys):
    for k in range(5):
        (tmp_path / "masks").mkdir(exist_ok=True)
        PILImage.new("L", (480, 360)).save(tmp_path / "masks" / f"view_{k}.png.png")
    argv = ["reconstruct", str(run[0]), "--masks", str(tmp_path / "masks"), "--out", str(tmp_path / "out"), *QUICK]
    assert main(argv) == 2
    assert "all black" in capsys.readouterr().err


def test_a_run_that_dies_while_fitting_has_its_cameras(run, tmp_path, monkeypatch):
    def die(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vision3d.recon.pipeline.build_surface", die)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        raise SystemExit(main(["reconstruct", str(run[0]), "--out", str(tmp_path / "out"), *QUICK]))
    assert (tmp_path / "out" / "cameras.json").is_file() and (tmp_path / "out" / "sparse").is_dir()
