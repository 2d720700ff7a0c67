"""KITTI files: labels and results exactly, calibration chain, boxes between camera and LiDAR, planes, sequences."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.core import Boxes3D, RigidTransform, Vision3DError
from vision3d.io.kitti import (
    KittiCalibration,
    boxes_from_kitti,
    boxes_to_kitti,
    read_calibration,
    read_plane,
    read_split,
    wrap_angle,
    write_calibration,
)
from vision3d.io.kitti_labels import format_objects, parse_objects, read_labels, read_results, write_objects
from vision3d.io.kitti_sequences import read_poses, read_times, read_tracks

CLASSES = ("Car", "Pedestrian", "Cyclist")
CAR = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"
NOTHING = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def _objects(line, fields=15):
    return parse_objects(line, fields, Path("label.txt"))


def _calibration(tilt=0.0, turn=0.0) -> KittiCalibration:
    """A camera 0.3 m ahead of the LiDAR and 0.1 m below, focal length 700 px; right camera 0.5 m to the right."""
    projections = torch.zeros(4, 3, 4, dtype=torch.float64)
    projections[:, 0, 0] = projections[:, 1, 1] = 700
    projections[:, 0, 2], projections[:, 1, 2], projections[:, 2, 2] = 600, 180, 1
    projections[3, 0, 3] = -700 * 0.5
    axes = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=torch.float64)
    c, s, ct, st = math.cos(turn), math.sin(turn), math.cos(tilt), math.sin(tilt)
    about_z = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    about_y = torch.tensor([[ct, 0, st], [0, 1, 0], [-st, 0, ct]], dtype=torch.float64)
    from_velo = RigidTransform(axes @ about_y @ about_z, torch.tensor([0.0, -0.1, -0.3], dtype=torch.float64))
    return KittiCalibration(projections, RigidTransform.identity(), from_velo)


def test_labels_and_calibrations_come_back_byte_by_byte(test_data, tmp_path) -> None:
    folder = test_data / "kitti" / "training"
    paths = sorted((folder / "label_2").glob("*.txt"))
    assert len(paths) == 6
    for path in paths:
        write_objects(tmp_path / "label.txt", read_labels(path))
        assert (tmp_path / "label.txt").read_bytes() == path.read_bytes()
        calibration = folder / "calib" / path.name
        write_calibration(tmp_path / "calib.txt", read_calibration(calibration))
        assert (tmp_path / "calib.txt").read_bytes() == calibration.read_bytes()


def test_label_fields() -> None:
    objects = _objects(f"{CAR}\n\n{NOTHING}\n")
    assert objects.types == ("Car", "DontCare")
    assert objects.occlusion.tolist() == [0, -1]
    assert objects.alpha.tolist() == [-1.58, -10]
    assert objects.boxes_2d[0].tolist() == [587.01, 173.33, 614.12, 200.12]
    assert objects.dimensions[0].tolist() == [1.65, 1.67, 3.64]
    assert objects.locations[0].tolist() == [-0.65, 1.71, 46.70]
    assert objects.rotation_y[0] == -1.59
    assert objects.scores is None
    assert format_objects(objects.select(np.array([False, True]))) == NOTHING + "\n"


def test_results_are_written_with_scores(tmp_path) -> None:
    objects = _objects(f"{CAR} 0.98765", 16)
    assert objects.scores.tolist() == [0.98765]
    write_objects(tmp_path / "000001.txt", objects)
    text = (tmp_path / "000001.txt").read_text()
    assert text.split()[-3:] == ["46.7000", "-1.5900", "0.987650"]
    back = read_results(tmp_path / "000001.txt")
    assert back.locations.tolist() == objects.locations.tolist()
    (tmp_path / "000002.txt").write_text("")
    assert len(read_results(tmp_path / "000002.txt")) == 0
    write_objects(tmp_path / "000003.txt", objects.select(np.zeros(1, bool)))
    assert (tmp_path / "000003.txt").read_bytes() == b""
    with pytest.raises(ValueError, match="finite"):
        format_objects(replace(objects, alpha=np.full(1, np.nan)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CAR + " 0.5", r"label.txt:2: .*15 fields, found 16: is this a result"),
        ("0 1 " + CAR, r"label.txt:2: .*found 17: are these tracking labels"),
        (CAR.replace("Car", "Cra"), r"label.txt:2: the class 'Cra' is unknown, did you mean 'Car'"),
        (CAR.replace("Car", "Boat"), r"label.txt:2: .*known: Car, Van"),
        (CAR.replace("46.70", "nan"), r"label.txt:2: field 14 is nan"),
        (CAR.replace("46.70", "1e300"), r"label.txt:2: field 14 is 1e\+300"),
        (CAR.replace("46.70", "far"), r"label.txt:2: 'far' is not a number"),
        (CAR.replace("0.00 0 ", "0.00 0.5 "), r"label.txt:2: occlusion 0.5"),
    ],
)
def test_broken_labels(tmp_path, line, message) -> None:
    (tmp_path / "label.txt").write_text(f"{CAR}\n{line}\n")
    with pytest.raises(Vision3DError, match=message):
        read_labels(tmp_path / "label.txt")


def test_files_that_are_none(tmp_path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for read in (read_labels, read_calibration, read_plane, read_split, read_tracks, read_poses):
        with pytest.raises(Vision3DError, match="cannot read"):
            read(tmp_path / "nothing.txt")
        with pytest.raises(Vision3DError, match="text file"):
            read(tmp_path / "binary.txt")


def test_calibration_chain(test_data) -> None:
    """P2 @ R0_rect @ Tr_velo_to_cam by hand, and through the named transforms; half a pixel is ours."""
    path = test_data / "kitti" / "training" / "calib" / "000008.txt"
    calibration = read_calibration(path)
    rows = {line.split(":")[0]: np.array(line.split()[1:], float) for line in path.read_text().splitlines() if line}
    p2, rect, velo = (rows[k].reshape(3, -1) for k in ("P2", "R0_rect", "Tr_velo_to_cam"))
    point = np.array([12.0, 3, -1])
    u = p2 @ np.append(rect @ (velo @ np.append(point, 1)), 1)
    in_cam = calibration.cam_from_velo(2).apply(torch.from_numpy(point)[None])
    pixel, front = calibration.camera(2, 1242, 375).project(in_cam)
    assert front.all()
    assert pixel[0].tolist() == pytest.approx((u[:2] / u[2] + 0.5).tolist(), abs=1e-9)
    assert calibration.velo_from_imu is not None
    baseline = calibration.cam_from_rect(3).translation - calibration.cam_from_rect(2).translation
    assert float(baseline[0]) == pytest.approx(-0.5327, abs=1e-3)


def test_calibrations_of_tracking_and_odometry(tmp_path) -> None:
    write_calibration(tmp_path / "object.txt", _calibration(0.01))
    text = (tmp_path / "object.txt").read_text()
    expected = read_calibration(tmp_path / "object.txt")
    tracking = text.replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam")
    (tmp_path / "tracking.txt").write_text(tracking)
    odometry = "\n".join(line for line in text.splitlines() if not line.startswith("R0")).replace(
        "Tr_velo_to_cam", "Tr"
    )
    (tmp_path / "odometry.txt").write_text(odometry)
    for name in ("tracking", "odometry"):
        found = read_calibration(tmp_path / f"{name}.txt")
        torch.testing.assert_close(found.rect_from_velo.matrix(), expected.rect_from_velo.matrix())
        assert found.velo_from_imu is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P2", "Q2", "no P2"),
        ("Tr_velo_to_cam", "Tr_other", "no Tr_velo_to_cam"),
        ("R0_rect: 1", "R0_rect: x", "R0_rect has an entry that is not a number"),
        ("R0_rect: 1.000000000000e+00 ", "R0_rect: ", "R0_rect should have 9 finite numbers, got 8"),
        ("R0_rect: 1", "R0_rect: 7", "not a rotation"),
        ("P1: 7", "P1: -7", "P1 is not a projection"),
    ],
)
def test_broken_calibrations(tmp_path, old, new, message) -> None:
    write_calibration(tmp_path / "c.txt", _calibration())
    text = (tmp_path / "c.txt").read_text()
    assert old in text
    (tmp_path / "c.txt").write_text(text.replace(old, new))
    with pytest.raises(Vision3DError, match=message):
        read_calibration(tmp_path / "c.txt")


def test_box_in_the_lidar_frame_by_hand() -> None:
    """A car 20 m ahead and 2 m to the right, bottom 1.6 m below the camera, that drives away (rotation_y -pi/2)."""
    car = f"Car 0 0 0 0 0 9 9 1.5 1.6 4.0 2 1.6 20 {-math.pi / 2}"
    boxes, index = boxes_from_kitti(
        _objects(f"Van 0 0 0 0 0 9 9 2 2 5 9 9 9 0\n{car}\n{NOTHING}"), CLASSES, _calibration()
    )
    assert boxes.frame == "lidar"
    assert index.tolist() == [1]
    assert boxes.labels.tolist() == [0]
    assert boxes.centers[0].tolist() == pytest.approx([20 + 0.3, -2, -(1.6 - 0.75) - 0.1])
    assert boxes.sizes[0].tolist() == [4.0, 1.6, 1.5]
    assert float(wrap_angle(boxes.yaw)[0]) == pytest.approx(0)
    level, _ = boxes_from_kitti(_objects(car), CLASSES)
    assert level.frame == "level"
    assert level.centers[0].tolist() == pytest.approx([20, -2, -0.85])
    # rotation_y 0 looks to the camera's right, which is -y of the LiDAR
    side, _ = boxes_from_kitti(_objects(car.replace(str(-math.pi / 2), "0")), CLASSES, _calibration())
    assert float(wrap_angle(side.yaw)[0]) == pytest.approx(-math.pi / 2)
    with pytest.raises(ValueError, match="positive"):
        boxes_from_kitti(_objects("Car 0 0 0 0 0 9 9 -1 -1 -1 -1000 -1000 -1000 -10"), CLASSES)


@pytest.mark.parametrize(("tilt", "turn"), [(0.0, 0.0), (0.02, -0.03)])
def test_boxes_there_and_back(tilt, turn) -> None:
    rng = np.random.default_rng(0)
    n = 30
    centers = torch.from_numpy(np.stack([rng.uniform(8, 60, n), rng.uniform(-4, 4, n), rng.uniform(-2, 0, n)], 1))
    boxes = Boxes3D(
        centers,
        torch.from_numpy(rng.uniform(0.5, 4, (n, 3))),
        torch.from_numpy(rng.uniform(-3, 3, n)),
        torch.from_numpy(rng.integers(0, 3, n)),
        torch.from_numpy(rng.random(n)),
    )
    calibration = _calibration(tilt, turn)
    objects = boxes_to_kitti(boxes, CLASSES, calibration, 1242, 375)
    back, index = boxes_from_kitti(objects, CLASSES, calibration)
    assert index.tolist() == list(range(n))
    torch.testing.assert_close(back.centers, boxes.centers)
    torch.testing.assert_close(back.sizes, boxes.sizes)
    torch.testing.assert_close(wrap_angle(back.yaw - boxes.yaw), torch.zeros(n, dtype=torch.float64))
    torch.testing.assert_close(back.labels, boxes.labels)
    torch.testing.assert_close(back.scores, boxes.scores)


def test_image_boxes() -> None:
    """A cube 2 m wide whose near face is 10 m ahead fills 140 px; cut by the border, and behind the camera."""

    def seen(center, size=(2.0, 2, 2)):
        zero = torch.zeros(1, dtype=torch.float64)
        place, extent = torch.tensor([[*center], [*size]], dtype=torch.float64)
        box = Boxes3D(place[None], extent[None], zero, torch.zeros(1, dtype=torch.int64), None, "level")
        return boxes_to_kitti(box, CLASSES, _calibration(), 1201, 361)

    ahead = seen((11.0, 0, 0))
    assert ahead.boxes_2d[0].tolist() == pytest.approx([530, 110, 670, 250])
    assert ahead.truncation.tolist() == [0]
    assert ahead.alpha.tolist() == pytest.approx([-math.pi / 2])
    assert ahead.dimensions[0].tolist() == [2, 2, 2]
    assert ahead.locations[0].tolist() == pytest.approx([0, 1, 11])
    left = seen((11.0, 8, 0))  # 9 to 7 m to the left: the near face from -30 px to 110 px, the far one to 191.67 px
    assert left.boxes_2d[0].tolist() == pytest.approx([0, 110, 600 - 700 * 7 / 12, 250])
    assert left.truncation[0] == pytest.approx(30 / (30 + 600 - 700 * 7 / 12))
    through = seen((0.0, 0, -2), (8.0, 2, 2))  # from 4 m behind to 4 m ahead, below the camera
    assert through.boxes_2d[0].tolist() == pytest.approx([0, 180 + 700 / 4, 1200, 360])
    assert through.truncation[0] > 0.9
    for hidden in ((-20.0, 0, 0), (11.0, 100, 0), (11.0, 0, 50)):
        assert seen(hidden).boxes_2d[0].tolist() == [-1] * 4
        assert seen(hidden).truncation.tolist() == [1]
    none = boxes_to_kitti(Boxes3D.empty(scored=True), CLASSES, _calibration(), 1201, 361)
    assert len(none) == 0
    with pytest.raises(ValueError, match="frame"):
        boxes_to_kitti(Boxes3D.empty("world"), CLASSES, _calibration(), 1201, 361)
    one = torch.ones(1, 3)
    with pytest.raises(ValueError, match="label 3"):
        boxes_to_kitti(Boxes3D(one, one, one[0, :1], torch.tensor([3])), CLASSES, _calibration(), 1201, 361)


def test_planes_and_splits(tmp_path) -> None:
    (tmp_path / "p.txt").write_text("# Matrix\nWIDTH 4\nHEIGHT 1\n0.0 2.0 0.0 -3.3\n")
    assert read_plane(tmp_path / "p.txt").tolist() == pytest.approx([0, -1, 0, 1.65])
    (tmp_path / "p.txt").write_text("# Matrix\nWIDTH 4\nHEIGHT 1\n")
    with pytest.raises(Vision3DError, match="four numbers"):
        read_plane(tmp_path / "p.txt")
    (tmp_path / "val.txt").write_text("000001\n000007\n\n")
    assert read_split(tmp_path / "val.txt") == ("000001", "000007")
    for text, message in (("\n", "no frames"), ("000001 000002\n", "one frame name")):
        (tmp_path / "val.txt").write_text(text)
        with pytest.raises(Vision3DError, match=message):
            read_split(tmp_path / "val.txt")


def test_tracks(tmp_path) -> None:
    (tmp_path / "t.txt").write_text(f"0 4 {CAR}\n0 -1 {NOTHING}\n2 4 {CAR}\n")
    tracks = read_tracks(tmp_path / "t.txt")
    assert tracks.at(0).tracks.tolist() == [4, -1]
    assert tracks.at(2).objects.types == ("Car",)
    assert len(tracks.at(1).objects) == 0
    for line, message in ((CAR, "t.txt:2: .*17 fields, found 15"), (f"x 4 {CAR}", "t.txt:2: .*frame and track")):
        (tmp_path / "t.txt").write_text(f"0 4 {CAR}\n{line}\n")
        with pytest.raises(Vision3DError, match=message):
            read_tracks(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text(f"\n0 4 {CAR}\n0 4 {CAR.replace('Car', 'Care')}\n")
    with pytest.raises(Vision3DError, match=r"t.txt:3: the class"):
        read_tracks(tmp_path / "t.txt")


def test_poses_and_times(tmp_path) -> None:
    (tmp_path / "p.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n0 0 1 4 0 1 0 5 -1 0 0 6\n")
    poses = read_poses(tmp_path / "p.txt")
    assert poses.translation.tolist() == [[0, 0, 0], [4, 5, 6]]
    (tmp_path / "p.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n2 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(Vision3DError, match="pose 2"):
        read_poses(tmp_path / "p.txt")
    (tmp_path / "p.txt").write_text("1 0 0\n")
    with pytest.raises(Vision3DError, match=r"p.txt:1: 12 finite numbers"):
        read_poses(tmp_path / "p.txt")
    (tmp_path / "t.txt").write_text("0.0\n1.0e-1\n")
    assert read_times(tmp_path / "t.txt").tolist() == [0, 0.1]
