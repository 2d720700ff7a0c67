"""gt.log, gt.info and gt_overlap.log: the published files, round trips, and what is said of broken ones."""

import numpy as np
import pytest
import torch

from vision3d.core import RigidTransform, Vision3DError
from vision3d.geometry.rotation import rotation_exp
from vision3d.io.gt_log import read_gt_info, read_gt_log, read_gt_overlap, write_gt_log

LOG = "0\t 1\t 60\t\n 0 -1 0 0.5\n1 0 0 -2\n0 0 1 0.25\n0 0 0 1\n"
KITCHEN = "7-scenes-redkitchen"


def test_published_files(test_data) -> None:
    """Counts of pairs as in the benchmarks' own tables; numbers as NumPy reads them."""
    counts = {}
    for benchmark in ("3DMatch", "3DLoMatch"):
        folder = test_data / "scans" / "benchmarks" / benchmark / KITCHEN
        poses, information = read_gt_log(folder / "gt.log"), read_gt_info(folder / "gt.info")
        assert list(poses) == list(information)
        counts[benchmark] = len(poses)
        lines = [np.fromstring(line, sep=" ") for line in (folder / "gt.log").read_text().splitlines()]
        for block, ((i, j), pose) in enumerate(poses.items()):
            head, rows = lines[5 * block], np.stack(lines[5 * block + 1 : 5 * block + 5])
            assert (head[0], head[1]) == (i, j)
            np.testing.assert_allclose(pose.matrix(), rows, atol=2e-3)
            torch.testing.assert_close(pose.rotation @ pose.rotation.mT, torch.eye(3).double())
        assert all(matrix[0, 0] > 0 and torch.equal(matrix, matrix.mT) for matrix in information.values())
        assert set(poses) <= set(read_gt_overlap(folder / "gt_overlap.log"))
    assert counts == {"3DMatch": 506, "3DLoMatch": 525}


def test_round_trip(tmp_path) -> None:
    random = torch.Generator().manual_seed(0)
    poses = {
        (i, i + 2): RigidTransform(
            rotation_exp(torch.randn(3, generator=random).double()), torch.randn(3, generator=random).double()
        )
        for i in range(3)
    }
    write_gt_log(tmp_path / "gt.log", poses, 5)
    again = read_gt_log(tmp_path / "gt.log")
    assert list(again) == list(poses)
    for pair, pose in poses.items():
        torch.testing.assert_close(again[pair].matrix(), pose.matrix(), atol=1e-11, rtol=0)


def test_rows_are_rows(tmp_path) -> None:
    (tmp_path / "gt.log").write_text(LOG)
    pose = read_gt_log(tmp_path / "gt.log")[0, 1]
    point = torch.tensor([[1.0, 0, 0]]).double()
    torch.testing.assert_close(pose.apply(point), torch.tensor([[0.5, -1.0, 0.25]]).double())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 60\n1 0 0 0\n0 1 0 0\n", "cut off: 3 lines"),
        (LOG.replace("60", "sixty"), r"gt.log:1: `i j n` is needed, got 0 1 sixty|'0 1 sixty'"),
        (LOG.replace("0.25", "nan"), r"gt.log:4: 4 finite numbers"),
        (LOG.replace("1 0 0 -2", "1 0 -2"), r"gt.log:3: 4 finite numbers"),
        (LOG + LOG, "the pair 0 1 comes twice"),
        (LOG.replace("1 0 0 -2", "-1 0 0 -2"), "0 1 is not a rigid transform"),
        (LOG.replace("0 0 0 1\n", "0 0 1 1\n"), "0 1 is not a rigid transform"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_broken_logs_are_named(tmp_path, text, message) -> None:
    path = tmp_path / "gt.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Vision3DError, match=message):
        read_gt_log(path)


def test_broken_information_and_overlap(tmp_path) -> None:
    path = tmp_path / "gt.info"
    path.write_text("0 1 60\n" + "0 0 0 0 0 0\n" * 6)
    with pytest.raises(Vision3DError, match="over no points"):
        read_gt_info(path)
    path.write_text("0,1,0.5\n0,2,1.5\n")
    with pytest.raises(Vision3DError, match=r"gt.info:2: an overlap lies in \[0, 1\]"):
        read_gt_overlap(path)
    path.write_text("0,1\n")
    with pytest.raises(Vision3DError, match="i,j,overlap are needed"):
        read_gt_overlap(path)
    with pytest.raises(Vision3DError, match="cannot read"):
        read_gt_log(tmp_path / "none.log")
