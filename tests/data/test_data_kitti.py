"""KITTI's datasets: real frames whose labels, points and images must agree, and miniature folders of each layout."""

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from vision3d.core import UsageError, Vision3DError
from vision3d.data.collate import collate
from vision3d.data.kitti_object import KittiObjectDataset, crop_to_view
from vision3d.data.kitti_odometry import KittiOdometryDataset
from vision3d.data.kitti_tracking import KittiTrackingDataset
from vision3d.data.loader import make_loader
from vision3d.io.kitti import boxes_to_kitti
from vision3d.io.kitti_labels import KITTI_TYPES

CALIB = """P0: 700 0 100 0 0 700 50 0 0 0 1 0
P1: 700 0 100 0 0 700 50 0 0 0 1 0
P2: 700 0 100 0 0 700 50 0 0 0 1 0
P3: 700 0 100 -350 0 700 50 0 0 0 1 0
"""
FROM_VELO = "0 -1 0 0 0 0 -1 0 1 0 0 -0.5"
OBJECT_CALIB = (
    f"{CALIB}R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: {FROM_VELO}\nTr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0\n"
)
CAR = f"Car 0.00 0 -1.57 80.00 40.00 120.00 60.00 1.50 1.60 4.00 0.00 1.00 20.00 {-math.pi / 2:.6f}"
SCAN = np.array([[20, 0, 0, 0.5], [20.4, 0.1, -0.1, 0.2], [20, 9, 0, 0.1], [-20, 0, 0, 0.1]], np.float32)


def _image(path, size=(200, 100)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("RGB", size, (200, 100, 50)).save(path)


def _write(path, text) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def root(tmp_path):
    """Two frames of the object benchmark, without and with planes."""
    for name in ("000000", "000001"):
        part = tmp_path / "object" / "training"
        _write(part / "velodyne" / f"{name}.bin", SCAN.tobytes())
        _write(part / "calib" / f"{name}.txt", OBJECT_CALIB)
        _write(part / "label_2" / f"{name}.txt", f"{CAR}\n{CAR.replace('Car', 'Van')}\n")
        _image(part / "image_2" / f"{name}.png")
        _image(part / "image_3" / f"{name}.jpg")
    _write(part / "planes" / "000001.txt", "# Plane\nWIDTH 4\nHEIGHT 1\n0 -1 0 1.65\n")
    _write(tmp_path / "object" / "ImageSets" / "val.txt", "000001\n")
    return tmp_path / "object"


def test_real_frames_agree_with_themselves(test_data) -> None:
    """Labels, scans and calibrations of the six frames: points fill the boxes, stand where the image box is, and the
    boxes project onto the labels' image boxes."""
    classes = tuple(name for name in KITTI_TYPES if name != "DontCare")
    dataset = KittiObjectDataset(test_data / "kitti", "val", classes=classes, images=(2,))
    assert dataset.names == ("000001", "000002", "000004", "000008", "000142", "000217")
    points, errors = [], []
    for sample in (dataset[i] for i in range(len(dataset))):
        assert sample.image_left.size == (1242, 375)
        assert sample.boxes.frame == sample.cloud.frame == "lidar"
        inside = sample.boxes.contains(sample.cloud.points)
        points += inside.sum(1).tolist()
        care = np.array([name != "DontCare" for name in sample.objects.types])
        objects = sample.objects.select(care)
        projected = boxes_to_kitti(sample.boxes, classes, sample.calibration, *sample.image_left.size)
        errors += np.abs(projected.boxes_2d - objects.boxes_2d).max(1).tolist()
        np.testing.assert_allclose(projected.truncation, objects.truncation, atol=0.02)
        np.testing.assert_allclose(np.cos(projected.alpha - objects.alpha), 1, atol=1e-3)
        # Points in a box project into its image box.
        camera = sample.calibration.camera(2, *sample.image_left.size)
        for i, box in enumerate(objects.boxes_2d):
            seen, front = camera.project(
                sample.calibration.cam_from_velo(2).apply(sample.cloud.points[inside[i]].double())
            )
            assert front.all()
            seen = seen.numpy()
            in_image = ((seen >= 0) & (seen < sample.image_left.size)).all(1)
            near = ((seen >= box[:2] - 4) & (seen <= box[2:] + 5)).all(1)
            assert (near | ~in_image).all()
        # The road is 1.4 to 2 m below the LiDAR, and cars stand on it.
        bottoms = sample.boxes.centers[:, 2] - sample.boxes.sizes[:, 2] / 2
        assert ((bottoms > -2.6) & (bottoms < -0.5)).all()
    assert len(points) == 35
    assert min(points) >= 9
    assert np.median(points) > 100
    assert np.median(errors) < 1.5
    assert max(errors) < 6


def test_crop_to_view_of_a_real_frame(test_data) -> None:
    whole, cut = (KittiObjectDataset(test_data / "kitti", ("000008",), in_view=view)[0] for view in (False, True))
    share = len(cut.cloud.points) / len(whole.cloud.points)
    assert 0.1 < share < 0.2  # an image of 80 degrees, of a full turn
    assert (cut.cloud.points[:, 0] > 0).all()
    inside, kept = (s.boxes.contains(s.cloud.points).sum(1) for s in (whole, cut))
    truncation = torch.from_numpy(whole.objects.truncation)[:6]
    share = (kept / inside)[truncation == 0]
    assert len(share) == 4
    assert (share > 0.98).all()  # what the image shows in full stays
    assert (kept / inside)[0] < 0.3  # of the car that the image cuts to 12 %, most points go
    assert len(cut.cloud.features) == len(cut.cloud.points)


def test_sample_by_hand(root) -> None:
    dataset = KittiObjectDataset(root, images=(2, 3))
    assert len(dataset) == 2
    sample = dataset[0]
    assert sample.name == "000000"
    assert sample.cloud.points.tolist() == SCAN[:, :3].tolist()
    assert sample.cloud.features[:, 0].tolist() == SCAN[:, 3].tolist()
    assert len(sample.boxes) == 1  # the Van is no class of the dataset
    assert len(sample.objects) == 2
    torch.testing.assert_close(sample.boxes.centers, torch.tensor([[20.5, 0, -0.25]]))
    assert sample.boxes.contains(sample.cloud.points).tolist() == [[True, True, False, False]]
    assert sample.image_left.size == sample.image_right.size == (200, 100)
    assert sample.plane is None
    assert dataset[1].plane.tolist() == [0, -1, 0, 1.65]
    assert KittiObjectDataset(root, "val").names == ("000001",)
    # Only what is in front and less than 100/700 of its distance aside is in view.
    assert crop_to_view(sample.cloud, sample.calibration, (200, 100)).points.tolist() == SCAN[:2, :3].tolist()


def test_testing_part_has_no_labels(root) -> None:
    (root / "training" / "label_2").rename(root / "label_2")
    (root / "training").rename(root / "testing")
    sample = KittiObjectDataset(root, part="testing")[0]
    assert sample.objects is None
    assert sample.boxes is None
    assert sample.image_left is None


def test_batches(root) -> None:
    with_workers_or_not = make_loader(KittiObjectDataset(root, images=(2,)), batch_size=2, shuffle=True, seed=1)
    (batch,) = list(with_workers_or_not)
    assert len(batch) == 2
    assert batch.cloud.points.shape == (2, 4, 3)
    assert batch.calibration.projections.shape == (2, 4, 3, 4)
    names = sorted(batch.name)
    assert names == ["000000", "000001"]
    sample = batch[names.index(batch.name[0])]
    torch.testing.assert_close(sample.boxes.centers, KittiObjectDataset(root)[0].boxes.centers)
    assert sample.objects.types == ("Car", "Van")
    (root / "training" / "label_2" / "000001.txt").write_text("")
    mixed = collate([KittiObjectDataset(root)[i] for i in range(2)])
    assert [len(boxes) for boxes in (mixed[0].boxes, mixed[1].boxes)] == [1, 0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("velodyne/000000.bin", None, "cannot read .*000000.bin"),
        ("velodyne/000000.bin", b"", "no points"),
        ("velodyne/000000.bin", SCAN.tobytes()[:-3], "cut off"),
        ("velodyne/000000.bin", np.full((2, 4), np.nan, "<f4").tobytes(), "2 of 2 points are NaN"),
        ("calib/000000.txt", None, "cannot read .*calib"),
        ("calib/000000.txt", CALIB.encode(), "no R0_rect"),
        ("label_2/000000.txt", None, "cannot read .*label_2"),
        ("label_2/000000.txt", b"Car 1 2\n", r"000000.txt:1: .*15 fields, found 3"),
        ("label_2/000000.txt", CAR.replace("4.00 0.00", "-1 0.00").encode(), "label_2/000000.txt: box 0 has the size"),
        ("image_2/000000.png", None, "no image .*image_2"),
        ("image_2/000000.png", b"not", "not a photo"),
    ],
)
def test_broken_frames(root, file, content, message) -> None:
    path = root / "training" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    dataset = KittiObjectDataset(root, ("000000", "000001"), images=(2,))
    with pytest.raises(Vision3DError, match=message):
        dataset[0]
    assert dataset[1].name == "000001"


def test_wrong_folders(root, tmp_path) -> None:
    cases = [
        (lambda: KittiObjectDataset(tmp_path), "no folder velodyne"),
        (lambda: KittiObjectDataset(root, "train"), r"no split 'train' .*splits: val"),
        (lambda: KittiObjectDataset(root, part="all"), "parts of KITTI"),
        (lambda: KittiObjectDataset(root, images=(1,)), "colour cameras"),
        (lambda: KittiObjectDataset(root, ()), "no scans"),
        (lambda: KittiTrackingDataset(tmp_path), "no folder velodyne"),
        (lambda: KittiOdometryDataset(tmp_path), "no folder sequences"),
    ]
    for make, message in cases:
        with pytest.raises(UsageError, match=message):
            make()


def test_tracking(tmp_path) -> None:
    part = tmp_path / "training"
    for sequence in ("0000", "0001"):
        for frame in ("000000", "000002"):
            _write(part / "velodyne" / sequence / f"{frame}.bin", SCAN.tobytes())
            _image(part / "image_02" / sequence / f"{frame}.png")
        calib = OBJECT_CALIB.replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam")
        _write(part / "calib" / f"{sequence}.txt", calib)
        labels = f"0 3 {CAR.replace('Car', 'Van')}\n0 7 {CAR}\n2 7 {CAR.replace('20.00', '21.00')}\n"
        _write(part / "label_02" / f"{sequence}.txt", labels)
    dataset = KittiTrackingDataset(tmp_path, with_image=True, in_view=True)
    assert [(s.sequence, s.frame) for s in (dataset[i] for i in range(len(dataset)))] == [
        ("0000", 0), ("0000", 2), ("0001", 0), ("0001", 2)
    ]  # fmt: skip
    sample = dataset[1]
    assert sample.tracks.tolist() == [7]
    assert sample.boxes.centers[0].tolist() == pytest.approx([21.5, 0, -0.25])
    assert len(sample.cloud.points) == 2
    assert sample.image_left.size == (200, 100)
    assert dataset[0].objects.types == ("Van", "Car")
    assert dataset[0].tracks.tolist() == [7]
    assert len(collate([dataset[0], dataset[1]])) == 2
    shutil.rmtree(part / "label_02")
    assert KittiTrackingDataset(tmp_path, ("0001",))[0].boxes is None
    with pytest.raises(UsageError, match="no sequence 0005"):
        KittiTrackingDataset(tmp_path, ("0005",))


def test_odometry(tmp_path) -> None:
    folder = tmp_path / "sequences" / "04"
    for frame in ("000000", "000001"):
        _write(folder / "velodyne" / f"{frame}.bin", SCAN.tobytes())
        _image(folder / "image_2" / f"{frame}.png")
    _write(folder / "calib.txt", f"{CALIB}Tr: {FROM_VELO}\n")
    _write(folder / "times.txt", "0\n0.1\n")
    _write(tmp_path / "poses" / "04.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 1.5\n")
    dataset = KittiOdometryDataset(tmp_path, with_image=True)
    first, second = dataset[0], dataset[1]
    assert (second.sequence, second.frame, second.time) == ("04", 1, 0.1)
    # 1.5 m forward: seen from the first LiDAR, a point of the second scan lies 1.5 m further along x.
    moved = (first.first_from_lidar.inverse() @ second.first_from_lidar).apply(second.cloud.points.double())
    torch.testing.assert_close(moved, second.cloud.points.double() + torch.tensor([1.5, 0, 0], dtype=torch.float64))
    assert second.image_left.size == (200, 100)
    _write(folder / "velodyne" / "000002.bin", SCAN.tobytes())
    with pytest.raises(Vision3DError, match="2 poses, but a scan 000002"):
        KittiOdometryDataset(tmp_path)[2]
    shutil.rmtree(tmp_path / "poses")
    assert KittiOdometryDataset(tmp_path, ("04",))[0].first_from_lidar is None
    with pytest.raises(UsageError, match="no scans of 07"):
        KittiOdometryDataset(tmp_path, ("07",))


def test_real_drive(test_data) -> None:
    """Four scans of one drive: about 5 m apart, each a full turn of 64 beams."""
    from vision3d.io.scans import read_scan

    scans = sorted((test_data / "kitti-tracking-0001" / "velodyne").glob("*.bin"))
    assert len(scans) == 4
    for path in scans:
        cloud = read_scan(path)
        assert 100_000 < len(cloud.points) < 130_000
        assert 0 <= float(cloud.features.min()) <= float(cloud.features.max()) <= 1
