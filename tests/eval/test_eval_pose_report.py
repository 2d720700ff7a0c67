"""`evaluate poses` on files: every form of input, which photos count, output as table and JSON."""

import json

import pytest
import torch
from scipy.spatial.transform import Rotation

from vision3d.cli.main import main
from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks
from vision3d.errors import UsageError, Vision3DError
from vision3d.eval.pose_report import report_poses, run_photos
from vision3d.io.cameras_json import known_cameras, write_cameras_json
from vision3d.io.colmap import write_colmap
from vision3d.io.nerfstudio import write_transforms


def _scene(names):
    rotations = torch.from_numpy(Rotation.random(len(names), rng=0).as_matrix())
    centers = torch.randn(len(names), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    poses = RigidTransform(rotations, -(rotations @ centers[..., None])[..., 0])
    images = {
        name: PosedImage(1, RigidTransform(poses.rotation[i], poses.translation[i])) for i, name in enumerate(names)
    }
    empty = torch.zeros(0, 3, dtype=torch.float64)
    camera = Camera(800, 600, (700.0, 700.0), (400.0, 300.0))
    return Scene({1: camera}, images, empty, empty.to(torch.uint8), empty[:, 0], Tracks.empty())


NAMES = [f"{i}.jpg" for i in range(5)]


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / "truth" / "cameras.json"
    write_cameras_json(path, known_cameras(_scene(NAMES)))
    return path


def _result(folder, names, form="cameras.json"):
    """A result that knows some of the photos exactly."""
    scene = _scene(NAMES)
    known = known_cameras(scene)
    if form == "cameras.json":
        write_cameras_json(folder / form, {name: known[name] for name in names})
        return folder / form
    part = Scene(
        scene.cameras, {n: scene.images[n] for n in names}, scene.points, scene.colors, scene.errors, scene.tracks
    )
    if form == "transforms.json":
        write_transforms(folder / form, part)
        return folder / form
    write_colmap(folder / "sparse", part)
    return folder if form == "run" else folder / "sparse"


@pytest.mark.parametrize("form", ["cameras.json", "transforms.json", "colmap", "run"])
def test_every_form_of_input(form, truth, tmp_path):
    report = report_poses(_result(tmp_path / "r", NAMES[:4], form), truth)
    assert (report.evaluation.registered, len(report.evaluation.photos)) == (4, 5)
    assert report.evaluation.auc[30] == pytest.approx(60, abs=1e-3)  # 6 of 10 pairs
    assert report.counted == "pairs of all 5 photos of the ground truth"


@pytest.mark.parametrize("form", ["cameras.json", "colmap", "run"])
def test_photos_of_the_run(form, truth, tmp_path):
    """A run on three photos, one of them left out by it and one unknown to the truth, is not blamed for the rest."""
    folder = tmp_path / "r"
    result = _result(folder, NAMES[:2], form)
    (folder / "run.json").write_text(json.dumps({"photos": [*NAMES[:3], "other.jpg"]}))
    report = report_poses(result, truth)
    assert [photo.name for photo in report.evaluation.photos] == NAMES[:3]
    assert report.evaluation.auc[30] == pytest.approx(100 / 3, abs=1e-3)
    assert "4 photos given to the run (run.json), 1 without ground truth left out" in report.counted
    # --photos overrides; names match without folder or ending
    named = report_poses(result, truth, ["0", "x/1.jpg"])
    assert [photo.name for photo in named.evaluation.photos] == NAMES[:2]
    assert named.evaluation.auc[30] == pytest.approx(100, abs=1e-3)


def test_names_with_other_folders_and_endings_match(truth, tmp_path):
    known = known_cameras(_scene(NAMES))
    write_cameras_json(tmp_path / "r.json", {f"images/{n[0]}.png": known[n] for n in NAMES})
    assert report_poses(tmp_path / "r.json", truth).evaluation.registered == 5


def test_run_file_of_another_folder_does_not_count(truth, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"photos": NAMES[:2]}))
    assert run_photos(_result(tmp_path / "deep", NAMES)) is None


def test_broken_run_file(truth, tmp_path):
    result = _result(tmp_path / "r", NAMES)
    (tmp_path / "r" / "run.json").write_text("{}")
    with pytest.raises(Vision3DError, match="name them with --photos"):
        report_poses(result, truth)


def test_errors(truth, tmp_path):
    result = _result(tmp_path / "r", NAMES)
    with pytest.raises(UsageError, match="no pose of zebra"):
        report_poses(result, truth, ["0.jpg", "zebra"])
    with pytest.raises(Vision3DError, match="at least 2"):
        report_poses(result, truth, ["0.jpg"])
    with pytest.raises(UsageError, match="does not exist"):
        report_poses(tmp_path / "nothing", truth)


def test_command_line(truth, tmp_path, capsys):
    result = _result(tmp_path / "r", NAMES[:3])
    out = tmp_path / "new" / "poses.json"
    assert main(["evaluate", "poses", str(result), str(truth), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "3 of 5 photos registered, 10 pairs",
        "180 deg",
        "exact integral",
        "1-degree bins",
        "CO3D AUC",
        "Umeyama",
    ):
        assert text in printed
    assert main(["evaluate", "poses", str(result), str(truth), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values == json.loads(out.read_text())
    assert values["auc"]["30"] == pytest.approx(30, abs=1e-3)
    assert (values["photos"], values["registered"], values["pairs"]) == (5, 3, 10)
    assert values["per_photo"][4] == {
        "name": "4.jpg", "registered": False, "rotation_deg": None, "direction_deg": None, "center": None,
        "center_relative": None, "focal_relative": None, "principal_px": None,
    }  # fmt: skip
    assert len(values["per_pair"]) == 10
    assert "unregistered photo counts as 180 deg" in values["protocol"]
    assert main(["evaluate", "poses", str(tmp_path / "nothing"), str(truth)]) == 2
