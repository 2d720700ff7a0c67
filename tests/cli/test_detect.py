"""`vision3d detect` on small scans with untrained weights: files, going on after a stop, wrong use, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from safetensors.torch import save_file

from vision3d.cli.main import main
from vision3d.config import dump_config
from vision3d.core import Boxes3D, Image, PointCloud, RigidTransform
from vision3d.detection.backbone import BackboneConfig
from vision3d.detection.bev_backbone import BevConfig
from vision3d.detection.detector import Detector, DetectorConfig
from vision3d.detection.grid import VoxelGrid
from vision3d.detection.pictures import cloud_with_boxes, color_of, draw_from_above, draw_in_photo
from vision3d.detection.suppression import SuppressionConfig
from vision3d.io.kitti import KittiCalibration, level_from_rect, write_calibration
from vision3d.io.kitti_labels import read_results
from vision3d.io.ply import read_ply
from vision3d.io.scans import write_bin

TINY = DetectorConfig(
    grid=VoxelGrid(low=(0.0, -8.0, -3.0), high=(16.0, 8.0, 1.0), size=(0.2, 0.2, 0.2)),
    backbone=BackboneConfig(channels=(8, 8, 16, 16, 16), strides=((2, 2, 2), (1, 1, 1), (2, 2, 2))),
    bev=BevConfig(layers=(1, 1), channels=(16, 16), up_channels=(16, 16)),
    suppression=SuppressionConfig(min_score=0.0, max_overlap=0.1, most=20),
)
CALIBRATION = KittiCalibration(
    torch.tensor([[[500.0, 0, 320, 0], [0, 500, 120, 0], [0, 0, 1, 0]]], dtype=torch.float64).repeat(4, 1, 1),
    RigidTransform.identity(),
    level_from_rect().inverse(),
)
CAR = Boxes3D(
    torch.tensor([[10.0, 1.0, 0.0]]),
    torch.tensor([[4.0, 1.6, 1.5]]),
    torch.tensor([0.0]),
    torch.tensor([0]),
    torch.tensor([0.9]),
)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder in KITTI's layout with two scans, and the files of an untrained detector."""
    generator = torch.Generator().manual_seed(0)
    for folder in ("velodyne", "calib", "image_2"):
        (tmp_path / "kitti" / folder).mkdir(parents=True)
    for name in ("a", "b"):
        points = torch.rand(3000, 3, generator=generator) * torch.tensor([16.0, 12, 2]) - torch.tensor([0, 6.0, 2])
        cloud = PointCloud(points, torch.rand(3000, 1, generator=generator), "lidar")
        write_bin(tmp_path / "kitti/velodyne" / f"{name}.bin", cloud)
        write_calibration(tmp_path / "kitti/calib" / f"{name}.txt", CALIBRATION)
        Pictures.fromarray(np.full((240, 640, 3), 90, np.uint8)).save(tmp_path / "kitti/image_2" / f"{name}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(Detector(TINY).state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "config.yaml").write_text(dump_config(TINY))
    return tmp_path


def _detect(frames: Path, *more: str, scan: str = "kitti", out: str = "out") -> int:
    command = ["detect", str(frames / scan), "--weights", str(frames / "weights.safetensors")]
    return main([*command, "--out", str(frames / out), "--min-score", "0.0", "--quiet", *more])


def test_writes_boxes_pictures_clouds_and_goes_on(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _detect(frames, "--json") == 0
    found = json.loads(capsys.readouterr().out)["scans"]
    out = frames / "out"
    assert sorted(found) == ["a", "b"] and len(found["a"]["boxes"]) == 20
    assert sorted(p.name for p in (out / "pictures").iterdir()) == [
        "a_above.png", "a_photo.png", "b_above.png", "b_photo.png",
    ]  # fmt: skip
    lines = read_results(out / "results/a.txt")
    assert len(lines.types) == 20 and lines.scores is not None
    scores = [box["score"] for box in found["a"]["boxes"]]
    np.testing.assert_allclose(sorted(lines.scores, reverse=True), scores, atol=1e-4)
    assert len(read_ply(out / "clouds/a.ply").cloud.points) > 3000

    (out / "boxes/b.json").unlink()
    kept = (out / "boxes/a.json").stat().st_mtime_ns
    assert _detect(frames, "--json") == 0
    assert json.loads(capsys.readouterr().out)["scans"] == found
    assert (out / "boxes/a.json").stat().st_mtime_ns == kept

    assert _detect(frames, "--whole") == 2
    assert "another whole" in capsys.readouterr().err


def test_the_folder_above_training_is_known(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (frames / "root").mkdir()
    (frames / "kitti").rename(frames / "root/training")
    assert _detect(frames, scan="root") == 0
    assert "boxes, pictures, clouds and KITTI lines (results) are in" in capsys.readouterr().out
    assert sorted(p.name for p in (frames / "out/results").iterdir()) == ["a.txt", "b.txt"]


def test_another_scan_of_the_same_name_is_not_taken_for_done(frames: Path) -> None:
    more = ("--image", str(frames / "kitti/image_2/a.png"), "--calib", str(frames / "kitti/calib/a.txt"))
    assert _detect(frames, *more, scan="kitti/velodyne/a.bin") == 0
    out = frames / "out"
    first = json.loads((out / "boxes/a.json").read_text())
    (frames / "kitti/velodyne/a.bin").write_bytes((frames / "kitti/velodyne/b.bin").read_bytes())
    assert _detect(frames, scan="kitti/velodyne/a.bin") == 0
    second = json.loads((out / "boxes/a.json").read_text())
    assert second["boxes"] != first["boxes"]
    assert not (out / "pictures/a_photo.png").exists() and not (out / "results/a.txt").exists()
    kept = (out / "boxes/a.json").stat().st_mtime_ns
    (out / "boxes/a.json").write_text('{"boxes": []}')  # as an earlier version wrote it
    assert _detect(frames, scan="kitti/velodyne/a.bin") == 0
    assert json.loads((out / "boxes/a.json").read_text()) == second
    assert (out / "boxes/a.json").stat().st_mtime_ns != kept


def test_one_photo_or_calibration_is_not_for_many_scans(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _detect(frames, "--calib", str(frames / "kitti/calib/a.txt"), scan="kitti/velodyne") == 2
    assert "one file for 2 scans" in capsys.readouterr().err


def test_a_scan_alone_has_no_kitti_lines(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _detect(frames, "--no-clouds", "--no-quiet", scan="kitti/velodyne/a.bin") == 0
    said = capsys.readouterr()
    assert "need a calibration" in said.err and f"boxes and pictures are in {frames / 'out'}" in said.out
    out = frames / "out"
    assert (out / "boxes/a.json").is_file() and (out / "pictures/a_above.png").is_file()
    assert not any((out / "results").iterdir()) and not any((out / "clouds").iterdir())


def test_wrong_use_and_broken_scans(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _detect(frames, scan="nowhere") == 2
    assert _detect(frames, "--config", str(frames / "nothing.yaml")) == 2
    assert _detect(frames, "--image", str(frames / "kitti/image_2"), scan="kitti/velodyne") == 2
    assert "--calib" in capsys.readouterr().err
    assert _detect(frames, "--min-score", "2") == 2
    (frames / "kitti/calib/b.txt").unlink()
    assert _detect(frames) == 2
    said = capsys.readouterr().err
    assert "b.txt; every scan of a KITTI folder has one" in said and "--calib" not in said

    one = "kitti/velodyne/a.bin"
    for calib, code, expected in (
        ("nowhere.txt", 2, f"there is no {frames / 'nowhere.txt'}; --calib: a calibration file of KITTI, or a folder"),
        ("kitti/image_2", 2, f"there is no {frames / 'kitti/image_2/a.txt'}; --calib: a calibration file of KITTI"),
        ("kitti/image_2/a.png", 1, "a.png is not a text file, as calibrations of KITTI are"),
        ("empty.txt", 1, "empty.txt has no P0: a calibration file of KITTI has lines P0 to P3, R0_rect and Tr_velo"),
    ):
        (frames / "empty.txt").write_text("")
        assert _detect(frames, "--calib", str(frames / calib), scan=one, out="calib") == code
        assert expected in capsys.readouterr().err

    (frames / "kitti/velodyne/b.bin").write_bytes(b"123")
    assert _detect(frames, scan="kitti/velodyne") == 1
    captured = capsys.readouterr()
    assert "b left out" in captured.err and captured.out.startswith("a: ")
    assert _detect(frames, scan="kitti/velodyne/b.bin", out="other") == 1
    (frames / "weights.safetensors").write_bytes(b"broken")
    assert _detect(frames, scan="kitti/velodyne", out="third") == 1


def test_picture_from_above_has_points_and_boxes_where_they_are() -> None:
    cloud = PointCloud(torch.tensor([[10.0, -5.0, 0.0], [20.0, 5.0, 1.0]]), None, "lidar")
    picture = draw_from_above(cloud, CAR, ("Car",), (0.0, -10.0, 40.0, 10.0), 200)
    assert picture.shape == (400, 200, 3)
    assert picture[300, 150].max() >= 70 and picture[200, 50].max() > 200  # 10 px a metre, x up, y left
    orange = (picture == color_of(0)).all(-1).nonzero()
    assert abs(np.median(orange[0][:1]) - 280) <= 2  # the far end of the car: x = 12
    assert len(draw_from_above(cloud, Boxes3D.empty("lidar"), ("Car",), (0.0, -10.0, 40.0, 10.0), 50)) == 100


def test_picture_in_the_photo_shows_projected_edges() -> None:
    image = Image(torch.zeros(3, 240, 640), "photo", (640, 240))
    picture = draw_in_photo(image, CALIBRATION, CAR, ("Car",))
    # the near face: x = 8, y from 0.2 to 1.8, z from -0.75 to 0.75
    left, right = 320.5 - 500 * 1.8 / 8, 320.5 - 500 * 0.2 / 8
    top, bottom = 120.5 - 500 * 0.75 / 8, 120.5 + 500 * 0.75 / 8
    for x, y in ((left, 120), (right, 120), ((left + right) / 2, top), ((left + right) / 2, bottom)):
        around = picture[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].reshape(-1, 3)
        assert (around.max(0) > 80).any()
    behind = Boxes3D(CAR.centers - torch.tensor([30.0, 0, 0]), CAR.sizes, CAR.yaw, CAR.labels)
    assert not draw_in_photo(image, CALIBRATION, behind, ("Car",)).any()
    through = Boxes3D(torch.tensor([[1.0, 0.0, 0.0]]), CAR.sizes, CAR.yaw, CAR.labels)
    assert draw_in_photo(image, CALIBRATION, through, ("Car",)).any()


def test_cloud_with_boxes_colours_what_is_inside() -> None:
    cloud = PointCloud(torch.tensor([[10.0, 1.0, 0.0], [20.0, 5.0, 1.0]]), None, "lidar")
    drawn = cloud_with_boxes(cloud, CAR, spacing=0.5)
    tint = torch.tensor(color_of(0)) / 255
    assert drawn.features is not None
    torch.testing.assert_close(drawn.features[0], tint)
    assert (drawn.features[1] == 0.55).all()
    edges = drawn.points[2:]
    half = CAR.sizes[0] / 2 + 1e-4
    assert len(edges) > 50 and ((edges - CAR.centers[0]).abs() <= half).all()
