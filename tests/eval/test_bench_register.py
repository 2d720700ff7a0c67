"""`bench register`: what its cases hold, how results are judged and compared, and that real scans run."""

import json

import pytest
import torch

from vision3d.bench import register as bench
from vision3d.bench.harness import measure
from vision3d.bench.register import BenchRegisterConfig, PairSet, case, pair_sets, run
from vision3d.core import Correspondences, PointCloud, RigidTransform
from vision3d.data.cloud_pairs import CloudPair
from vision3d.errors import UsageError
from vision3d.matching.hough.registration import Evidence, Registration


def at(x: float) -> RigidTransform:
    return RigidTransform(torch.eye(3).double(), torch.tensor([x, 0, 0], dtype=torch.float64))


def found(x: float, *, registered: bool = True, coarse: float = 0.0, matches: int = 0) -> Registration:
    return Registration(
        registered=registered, target_from_source=at(x), coarse=at(coarse), inliers=Correspondences.empty(3),
        evidence=Evidence(reason="", matches=matches),
    )  # fmt: skip


def pairs(count: int) -> PairSet:
    cloud = PointCloud(torch.zeros(1, 3))
    return PairSet("three", [CloudPair(f"s/0_{i}", "s", cloud, cloud, at(0)) for i in range(count)], 0.05, 15, 0.3)


def test_results_are_judged() -> None:
    three = pairs(3)
    ours, peer = [found(0.1, coarse=0.2), found(0.5, coarse=0.4), found(0.0, registered=False)], [found(9)] * 3
    assert three.right(ours) == [True, False, True]
    assert three.missed(ours, peer) == 0
    assert three.missed(peer, ours) == pytest.approx(2 / 3)
    words = three.describe(ours, judged=True)
    assert words == (
        "before ICP 2 of 3 right (RE 0.00 deg, TE 10.0 cm); after 2 of 3 right (RE 0.00 deg, TE 5.0 cm); "
        "2 called registered, 1 of them wrong"
    )
    assert three.describe(peer, judged=False) == "before ICP 3 of 3 right (RE 0.00 deg, TE 0.0 cm); after 0 of 3 right"


def test_a_better_peer_is_said(monkeypatch) -> None:
    def stand_in(name, source, target, voxel, seed):
        return found(9 if name == "hough" else 0, matches=5 if name == "hough" else 0)

    monkeypatch.setattr(bench, "run_method", stand_in)
    monkeypatch.setattr(bench, "why_not", lambda name: None if name == "fgr" else "absent")
    row = measure(case(pairs(2), 0), repeats=1)
    assert row.differences["fgr"] == 1
    assert not row.agrees
    assert row.peers["kiss"].note == "not installed"
    assert "called registered" in row.ours.note
    assert "called registered" not in row.peers["fgr"].note


def test_cases_of_the_test_data(test_data) -> None:
    config = BenchRegisterConfig(
        scans=test_data / "scans", drive=test_data / "kitti-tracking-0001" / "velodyne", cases=("3DMatch", "KITTI 10")
    )
    sets = {s.name: (len(s.pairs), s.voxel, s.limit_s) for s in pair_sets(config) if "KITTI 5" not in s.name}
    assert sets == {
        "3DMatch, 6 pairs": (6, 0.05, 3.0),
        "KITTI 10 frames apart, 2 pairs": (2, 0.3, None),
    }


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match="no pairs: give --scans, --drive or both"):
        run(BenchRegisterConfig())
    with pytest.raises(UsageError, match="--repeats must be at least 1"):
        run(BenchRegisterConfig(repeats=0))


@pytest.mark.slow
def test_the_drive_is_registered(test_data, monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench, "why_not", lambda name: "left out of this test")
    drive = test_data / "kitti-tracking-0001" / "velodyne"
    assert run(BenchRegisterConfig(drive=drive, cases=("10 frames",), repeats=1, json=True)) == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)["rows"]
    assert row["peers"]["fgr"]["ratio"] is None
    assert "after 2 of 2 right" in printed.err
