"""Pairs for registration: official layouts in miniature, FCGF's rule, refined truth and its cache, crops, real data."""

import json

import numpy as np
import pytest
import torch

from vision3d.core import PointCloud, RigidTransform, UsageError, Vision3DError
from vision3d.data.cloud_pairs import CloudPair
from vision3d.data.drive_pairs import DrivePairs
from vision3d.data.kitti_registration import KittiRegistrationDataset, pairs_by_distance
from vision3d.data.overlap_crops import NEAR_M, OverlapCrops, crop_to_overlap
from vision3d.data.threedmatch import SCENES, ThreeDMatchDataset
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import angle_between
from vision3d.io.gt_log import write_gt_log
from vision3d.io.ply_table import write_vertices
from vision3d.io.scans import write_bin

KITCHEN, HOME = SCENES[0], SCENES[1]
P = "P{}: 700 0 100 0 0 700 50 0 0 0 1 0\n"
CALIB = "".join(P.format(i) for i in range(4)) + "Tr: 0 -1 0 0 0 0 -1 0 1 0 0 -0.5\n"


def write_cloud(path, points) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.zeros(len(points), [(axis, "<f4") for axis in "xyz"])
    for axis, column in zip("xyz", np.asarray(points, np.float32).T, strict=True):
        table[axis] = column
    write_vertices(path, table)


def write_scene(root, scene, pairs, fragments, benchmark="3DMatch"):
    """Fragments of one set of points, each in a frame of its own; returns world_from_fragment."""
    random = np.random.default_rng(0)
    points = torch.from_numpy(random.uniform(-1, 1, (50, 3)))
    poses = {i: se3_exp(torch.from_numpy(random.normal(size=6))) for i in range(8)}
    for i in fragments:
        write_cloud(root / scene / f"cloud_bin_{i}.ply", poses[i].inverse().apply(points))
    truth = root / "benchmarks" / benchmark / scene
    write_gt_log(truth / "gt.log", {(i, j): poses[i].inverse() @ poses[j] for i, j in pairs}, 8)
    information = "\n".join(" ".join(str(7.0 * (r == c)) for c in range(6)) for r in range(6))
    (truth / "gt.info").write_text("".join(f"{i} {j} 8\n{information}\n" for i, j in pairs))
    (truth / "gt_overlap.log").write_text("".join(f"{i},{j},0.4\n" for i, j in pairs))
    return poses


def test_fragments_in_miniature(tmp_path) -> None:
    """gt.log takes fragment j to i; the sample's source is i: its truth takes points of i onto the same of j."""
    write_scene(tmp_path, KITCHEN, [(0, 1), (0, 2), (1, 3)], fragments=(0, 1, 2))
    data = ThreeDMatchDataset(tmp_path)
    assert [data[i].name for i in range(len(data))] == [f"{KITCHEN}/0_1", f"{KITCHEN}/0_2"]
    assert [data[i].neighbours for i in range(2)] == [True, False]
    for pair in (data[0], data[1]):
        moved = pair.target_from_source.apply(pair.source.points.double())
        torch.testing.assert_close(moved, pair.target.points.double(), atol=1e-5, rtol=0)
        assert pair.overlap == 0.4
        assert float(pair.information[0, 0]) == 7
    assert data[1].source.frame == "cloud_bin_0"


def test_what_is_missing_is_named(tmp_path) -> None:
    write_scene(tmp_path, KITCHEN, [(0, 1), (0, 2), (1, 3)], fragments=(0, 1, 2))
    write_scene(tmp_path, HOME, [(4, 5)], fragments=(4,))
    data = ThreeDMatchDataset(tmp_path)
    assert [(s.name, s.pairs, len(s.usable), s.complete) for s in data.scenes] == [(KITCHEN, 3, 2, False)]
    assert set(data.missing) == set(SCENES[1:])
    notes = data.notes()
    assert len(notes) == 8
    assert f"{HOME} left out: none of the 1 pairs has both fragments" in notes[0]
    assert notes[-1] == f"{KITCHEN}: 2 of its 3 pairs, the other fragments are not there"
    with pytest.raises(UsageError, match=r"no pair of 3DLoMatch.*no gt.log of 3DLoMatch"):
        ThreeDMatchDataset(tmp_path, "3DLoMatch")


def test_archives_as_they_unpack(tmp_path) -> None:
    write_scene(tmp_path, KITCHEN, [(0, 2)], fragments=(0, 2))
    (tmp_path / "benchmarks" / "3DMatch" / KITCHEN).rename(tmp_path / f"{KITCHEN}-evaluation")
    (tmp_path / "fragments").mkdir()
    (tmp_path / KITCHEN).rename(tmp_path / "fragments" / KITCHEN)
    assert len(ThreeDMatchDataset(tmp_path)) == 1
    info = tmp_path / f"{KITCHEN}-evaluation" / "gt.info"
    info.write_text(info.read_text().replace("0 2 8", "0 3 8"))
    with pytest.raises(Vision3DError, match="different pairs"):
        ThreeDMatchDataset(tmp_path)


def test_real_kitchen(test_data) -> None:
    """Under the truth the fragments overlap as gt_overlap.log says (its own voxels and threshold: to 0.12)."""
    data = ThreeDMatchDataset(test_data / "scans")
    assert [pair for _, pair in data.pairs] == [(0, 1), (0, 4), (0, 5), (1, 4), (1, 5), (4, 5)]
    pair = data[3]
    moved = pair.target_from_source.apply(pair.source.points[::100].double())
    distance = torch.cdist(moved, pair.target.points[::4].double()).min(1).values
    assert abs(float((distance < NEAR_M).double().mean()) - pair.overlap) < 0.12


def test_rule_of_ten_metres() -> None:
    """On a straight line with a frame a metre: 10 m is not more than 10 m, so frame 11 is the first that is too far."""
    line = np.arange(40.0)[:, None] * [1, 0, 0]
    assert pairs_by_distance(line, range(40)) == [(0, 10), (11, 21), (22, 32)]
    # Standing still for 120 frames: frame 130 is the first 10 m away, and frame 31 the first that looks so far ahead.
    still = np.concatenate([np.zeros((120, 3)), line + np.eye(3)[0]])
    assert pairs_by_distance(still, range(160))[0] == (31, 129)
    # A jump of 20 m in one frame leaves no frame before it but the first itself: no pair of a scan with itself.
    jump = np.concatenate([line[:1], line[:15] + 20 * np.eye(3)[0]])
    assert pairs_by_distance(jump, range(16)) == [(1, 11)]
    assert pairs_by_distance(line, [0, 1, 2, 10, 30, 31]) == [(0, 10)]
    assert pairs_by_distance(line, []) == []


@pytest.fixture
def odometry(tmp_path):
    """Sequence 08 with scans of one street; the poses file is off by some centimetres, as the real one is."""
    random = np.random.default_rng(0)
    ground = np.stack([random.uniform(-10, 40, 6000), random.uniform(-8, 8, 6000), np.full(6000, -1.7)], 1)
    walls = np.stack(
        [random.uniform(-10, 40, 6000), random.choice([-8.0, 8.0], 6000), random.uniform(-1.7, 3, 6000)], 1
    )
    posts = np.stack([random.integers(-3, 10, 3000) * 4.0, random.choice([-5.0, 5.0], 3000)], 1)
    posts = np.concatenate([posts + random.normal(0, 0.03, (3000, 2)), random.uniform(-1.7, 2, (3000, 1))], 1)
    street = torch.from_numpy(np.concatenate([ground, walls, posts]))
    folder = tmp_path / "sequences" / "08"
    folder.mkdir(parents=True)
    (folder / "velodyne").mkdir()
    (folder / "calib.txt").write_text(CALIB)
    (tmp_path / "poses").mkdir()
    lines = []
    for frame in range(62):
        shift = 0.23 * frame + (0.05 if frame == 58 else 0)
        lines.append(f"1 0 0 {0.04 if frame == 44 else 0} 0 1 0 0 0 0 1 {shift}")
        seen = street - torch.tensor([0.23 * frame, 0, 0])
        if frame in (0, 15, 43, 44, 58, 59):
            write_bin(folder / "velodyne" / f"{frame:06d}.bin", PointCloud(seen))
    (tmp_path / "poses" / "08.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_odometry_pairs_are_refined(odometry, tmp_path) -> None:
    """0.23 m a frame: from frame 0 the pair is 43. Scans are the same points: the truth is exact, the poses are not."""
    data = KittiRegistrationDataset(odometry, tmp_path / "truth")
    assert data.pairs == [("08", 0, 43)]
    assert data.notes() == ["sequence 09 left out: no scans", "sequence 10 left out: no scans"]
    pair = data[0]
    assert (pair.name, pair.scene) == ("08/0_43", "08")
    expected = torch.tensor([-0.23 * 43, 0, 0]).double()
    torch.testing.assert_close(pair.target_from_source.translation, expected, atol=2e-3, rtol=0)
    assert float(angle_between(pair.target_from_source.rotation, torch.eye(3).double())) < 1e-3
    path = tmp_path / "truth" / "08_0_43.json"
    saved = json.loads(path.read_text())
    assert saved["fitness"] > 0.5
    saved["target_from_source"][0][3] = -9.0  # a mark that only the cache has
    path.write_text(json.dumps(saved))
    assert float(data[0].target_from_source.translation[0]) == -9.0
    saved["inputs"] = "of other scans"
    path.write_text(json.dumps(saved))
    torch.testing.assert_close(data[0].target_from_source.translation, expected, atol=2e-3, rtol=0)


def test_the_pair_that_everyone_drops(odometry, tmp_path) -> None:
    (odometry / "sequences" / "08" / "velodyne" / "000000.bin").unlink()
    poses = [f"1 0 0 0 0 1 0 0 0 0 1 {0.23 * frame}" for frame in range(62)]
    (odometry / "poses" / "08.txt").write_text("\n".join(poses) + "\n")
    positions = np.arange(62.0)[:, None] * [0, 0, 0.23]
    assert pairs_by_distance(positions, [15, 43, 44, 58, 59]) == [(15, 58)]
    with pytest.raises(UsageError, match="have no two scans 10 m apart"):
        KittiRegistrationDataset(odometry, tmp_path)


def test_odometry_errors(odometry, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"no sequence of the train split.*00, 01, 02, 03, 04, 05"):
        KittiRegistrationDataset(odometry, tmp_path, "train")
    (odometry / "poses" / "08.txt").unlink()
    with pytest.raises(UsageError, match="no sequence of the test split"):
        KittiRegistrationDataset(odometry, tmp_path)


def test_drive_truth_from_the_chain(test_data) -> None:
    """The drive is nearly straight: about 1.1 m a frame forward; two steps of the chain agree with a direct ICP."""
    data = DrivePairs(test_data / "kitti-tracking-0001" / "velodyne", 10)
    assert data.pairs == [(0, 10), (5, 14)]
    pair = data[1]
    assert pair.name == "kitti-tracking-0001/000014_000005"
    forward, left, up = pair.target_from_source.translation.tolist()
    assert 9.5 < forward < 10.5
    assert abs(left) < 0.3
    assert abs(up) < 0.3
    with pytest.raises(UsageError, match=r"no scans \(000123.bin\) 40 frames apart"):
        DrivePairs(test_data / "kitti-tracking-0001" / "velodyne", 40)


def room(seed: int) -> torch.Tensor:
    """Points 2 cm apart or so on floor and walls of 3 x 4 m."""
    random = np.random.default_rng(seed)
    points = random.uniform(0, 1, (40_000, 3)) * [3, 4, 2]
    side = random.integers(0, 3, 40_000)
    points[np.arange(40_000), side] = 0
    return torch.from_numpy(points)


@pytest.mark.parametrize("overlap", [0.1, 0.3])
def test_crops_overlap_as_asked(overlap) -> None:
    pose = se3_exp(torch.tensor([0.5, -0.2, 0.1, 0.3, 0.2, -0.1]).double())
    pair = CloudPair("a/0_1", "a", PointCloud(room(0).float()), PointCloud(pose.apply(room(1)).float()), pose)
    crop = crop_to_overlap(pair, overlap, seed=3)
    moved = crop.target_from_source.apply(crop.source.points.double())
    fractions = []
    for a, b in ((moved, crop.target.points.double()), (crop.target.points.double(), moved)):
        nearest = torch.cat([torch.cdist(part, b).min(1).values for part in a[::20].split(200)])
        fractions.append(float((nearest < NEAR_M).double().mean()))
    assert abs(max(fractions) - overlap) < 0.04
    assert abs(crop.overlap - overlap) < 0.02
    assert float(angle_between(crop.target_from_source.rotation, pose.rotation)) > 0.1
    assert not crop.neighbours
    assert torch.equal(crop_to_overlap(pair, overlap, seed=3).source.points, crop.source.points)
    assert not torch.equal(crop_to_overlap(pair, overlap, seed=4).source.points[:100], crop.source.points[:100])


def test_crops_that_cannot_be() -> None:
    apart = RigidTransform(torch.eye(3).double(), torch.tensor([100.0, 0, 0]).double())
    pair = CloudPair("a/0_1", "a", PointCloud(room(0)), PointCloud(room(1)), apart)
    with pytest.raises(ValueError, match="a/0_1 overlaps by 0%, less than 20%"):
        crop_to_overlap(pair, 0.2, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        crop_to_overlap(pair, 20, 0)
    assert len(OverlapCrops([pair], [0.2])) == 0
