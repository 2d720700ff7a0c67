"""Verified pairs come back from disk as they were."""

from pathlib import Path

import torch

from vision3d.core import Correspondences, RigidTransform
from vision3d.recon.verification import TwoViewGeometry
from vision3d.recon.verified_file import read_verified, write_verified
from vision3d.recon.view_graph import VerifiedPair


def _pair(count: int, kept: int, calibrated: bool) -> VerifiedPair:
    matches = Correspondences(torch.rand(count, 2), torch.rand(count, 2), torch.rand(count))
    inliers = torch.zeros(count, dtype=torch.bool)
    inliers[torch.randperm(count)[:kept]] = True
    pose = RigidTransform.identity() if calibrated else None
    fundamental = torch.rand(3, 3, dtype=torch.float64) if kept else None
    kind = "rejected" if not kept else "calibrated" if calibrated else "uncalibrated"
    return VerifiedPair.of(matches, TwoViewGeometry(kind, inliers, pose, fundamental, -12.5, None if kept else "few"))


def test_round_trip(tmp_path: Path) -> None:
    pairs = {
        ("ä b.jpg", "c.jpg"): _pair(30, 20, True),
        ("c.jpg", "d.jpg"): _pair(5, 0, False),
        ("ä b.jpg", "d.jpg"): _pair(40, 40, False),
        ("d.jpg", "e.jpg"): _pair(0, 0, False),
    }
    write_verified(tmp_path / "v.npz", pairs)
    back = read_verified(tmp_path / "v.npz")
    assert back.keys() == pairs.keys()
    for name, pair in pairs.items():
        other = back[name]
        assert torch.equal(other.matches.points0, pair.matches.points0)
        assert torch.equal(other.matches.points1, pair.matches.points1)
        assert torch.equal(other.matches.scores, pair.matches.scores)
        assert torch.equal(other.geometry.inliers, pair.geometry.inliers)
        assert (other.geometry.kind, other.geometry.reason) == (pair.geometry.kind, pair.geometry.reason)
        assert (other.putative, other.accepted) == (pair.putative, pair.accepted)
        assert (other.geometry.cam1_from_cam0 is None) == (pair.geometry.cam1_from_cam0 is None)
        assert (other.geometry.fundamental is None) == (pair.geometry.fundamental is None)


def test_no_pairs(tmp_path: Path) -> None:
    write_verified(tmp_path / "v.npz", {})
    assert read_verified(tmp_path / "v.npz") == {}
