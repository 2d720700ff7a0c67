"""Image pairs with ground truth, the collate rule and the loader."""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from vision3d.core import RigidTransform, UsageError, Vision3DError
from vision3d.data.collate import Batch, collate
from vision3d.data.loader import make_loader
from vision3d.data.pairs import HomographyTruth, PairDataset, PointsTruth, PoseTruth, read_pairs
from vision3d.geometry.epipolar import essential_from_pose, sampson_distance
from vision3d.geometry.homography import apply_homography


def test_all_pairs_of_the_test_data(test_data: Path) -> None:
    pairs = read_pairs(test_data / "pairs")
    kinds = [type(pair.truth) for pair in pairs]
    assert (kinds.count(PointsTruth), kinds.count(HomographyTruth), kinds.count(PoseTruth)) == (12, 13, 2)
    assert {"v_dogman/1_2", "homography/ExtremeZoom", "megadepth-0022"} <= {pair.name for pair in pairs}
    for pair in pairs:
        if isinstance(pair.truth, PointsTruth):
            for points, path in ((pair.truth.points0, pair.path0), (pair.truth.points1, pair.path1)):
                size = torch.tensor(PIL.Image.open(path).size)
                assert bool(((points >= 0) & (points <= size)).all())


def _sift(path0: Path, path1: Path) -> tuple[torch.Tensor, torch.Tensor]:
    sift = cv2.SIFT.create(5000, enable_precise_upscale=True)
    grey = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (path0, path1)]
    (k0, d0), (k1, d1) = (sift.detectAndCompute(image, None) for image in grey)
    two = cv2.BFMatcher().knnMatch(d0, d1, k=2)
    good = [m for m, n in two if m.distance < 0.75 * n.distance]
    p0 = np.array([k0[m.queryIdx].pt for m in good]) + 0.5
    p1 = np.array([k1[m.trainIdx].pt for m in good]) + 0.5
    return torch.from_numpy(p0), torch.from_numpy(p1)


def test_the_pixel_convention_of_homographies_is_ours(test_data: Path) -> None:
    """A zoom by 6 tells the conventions apart: half a pixel more or less doubles the error."""
    [pair] = read_pairs(test_data / "pairs" / "homography" / "ExtremeZoom")
    assert isinstance(pair.truth, HomographyTruth)
    p0, p1 = _sift(pair.path0, pair.path1)

    def median_error(offset: float) -> float:
        distance = (apply_homography(pair.truth.h_1_from_0, p0 + offset) - offset - p1).norm(dim=1)  # type: ignore[union-attr]
        return float(distance[distance < 3].median())

    assert median_error(0) < 0.5
    assert median_error(0.5) > 1.4 * median_error(0) and median_error(-0.5) > 1.4 * median_error(0)


def test_relative_pose_truth(test_data: Path) -> None:
    [pair] = read_pairs(test_data / "pairs" / "megadepth-0015")
    truth = pair.truth
    assert isinstance(truth, PoseTruth) and truth.camera0.center == (800.0, 592.5) and truth.camera0.height == 1185
    p0, p1 = _sift(pair.path0, pair.path1)
    rays0, rays1 = truth.camera0.unproject(p0), truth.camera1.unproject(p1)

    def fitting(pose: RigidTransform) -> int:
        distance = sampson_distance(rays0, rays1, essential_from_pose(pose))
        return int((distance * truth.camera0.focal[0] < 2).sum())

    assert fitting(truth.cam1_from_cam0) > max(15, 3 * fitting(truth.cam1_from_cam0.inverse()))


def test_hpatches_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "v_x"
    folder.mkdir()
    for k in (1, 2, 3):
        PIL.Image.new("RGB", (40, 30), (k, 0, 0)).save(folder / f"{k}.ppm")
    for k in (2, 3):
        (folder / f"H_1_{k}").write_text(f"2 0 0\n0 {k} 0\n0 0 1\n\n")
    pairs = read_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["v_x/1_2", "v_x/1_3"] and pairs[1].path1.name == "3.ppm"
    assert isinstance(pairs[1].truth, HomographyTruth)
    mapped = apply_homography(pairs[1].truth.h_1_from_0, torch.tensor([[0.5, 0.5], [1.5, 1.5]], dtype=torch.float64))
    assert torch.allclose(mapped, torch.tensor([[0.5, 0.5], [2.5, 3.5]], dtype=torch.float64))
    (folder / "H_1_3").write_text("2 0 x\n")
    with pytest.raises(Vision3DError, match=r"H_1_3: a 3x3 matrix"):
        read_pairs(tmp_path)


def test_broken_pairs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image pairs"):
        read_pairs(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        read_pairs(tmp_path / "none")
    (tmp_path / "gt.json").write_text("{}")
    with pytest.raises(Vision3DError, match="has no photo 0"):
        read_pairs(tmp_path)
    for k in (0, 1):
        PIL.Image.new("RGB", (40, 30)).save(tmp_path / f"{k}.png")
    with pytest.raises(Vision3DError, match="has none of"):
        read_pairs(tmp_path)
    (tmp_path / "gt.json").write_text(json.dumps({"points0": [[1, 2], [3, 4]], "points1": [[1, 2]]}))
    with pytest.raises(Vision3DError, match=r"points1: a 2x2"):
        read_pairs(tmp_path)


@dataclass(frozen=True, slots=True)
class _Inner:
    values: torch.Tensor
    flag: bool


@dataclass(frozen=True, slots=True)
class _Sample:
    index: int
    name: str
    same: torch.Tensor
    ragged: torch.Tensor
    inner: _Inner
    nothing: None = None


class _Samples:
    """Sample k has k + 1 ragged rows."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, k: int) -> _Sample:
        return _Sample(k, f"s{k}", torch.full((2,), k), torch.zeros(k + 1, 3), _Inner(torch.ones(2, 2) * k, k > 1))


def test_collate_rule_and_back() -> None:
    samples = [_Samples(4)[k] for k in range(4)]
    batch = collate(samples)
    assert len(batch) == 4 and batch.kind is _Sample
    assert (
        batch.same.shape == (4, 2) and batch.index.tolist() == [0, 1, 2, 3] and batch.name == ["s0", "s1", "s2", "s3"]
    )
    assert [r.shape[0] for r in batch.ragged] == [1, 2, 3, 4] and batch.nothing == [None] * 4
    assert isinstance(batch.inner, Batch) and batch.inner.kind is _Inner
    assert batch.inner.flag.dtype == torch.bool
    third = batch.to("cpu")[2]
    assert (
        isinstance(third, _Sample) and third.name == "s2" and torch.equal(third.inner.values, samples[2].inner.values)
    )
    with pytest.raises(AttributeError, match="no field 'nme'"):
        _ = batch.nme
    with pytest.raises(IndexError):
        _ = batch[4]


def test_collate_refuses() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([])
    with pytest.raises(TypeError, match="dataclasses of one type, got Tensor"):
        collate([torch.zeros(1)])
    with pytest.raises(TypeError, match="_Inner, _Sample"):
        collate([_Samples(1)[0], _Samples(1)[0].inner])


def _order(workers: int, seed: int, epochs: int = 2) -> list[list[int]]:
    loader = make_loader(_Samples(10), batch_size=3, shuffle=True, seed=seed, workers=workers)
    return [[int(i) for batch in loader for i in batch.index] for _ in range(epochs)]


def test_order_depends_on_seed_and_epoch_only() -> None:
    first, second = _order(0, 7)
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert _order(0, 7) == [first, second] and _order(0, 8) != [first, second]
    plain = make_loader(_Samples(5), batch_size=2, drop_last=True)
    assert [batch.index.tolist() for batch in plain] == [[0, 1], [2, 3]]


def test_workers_give_the_same(test_data: Path) -> None:
    pairs = read_pairs(test_data / "pairs" / "v_dogman")
    alone, helped = (
        list(make_loader(PairDataset(pairs, 128), 2, shuffle=True, seed=1, workers=workers)) for workers in (0, 1)
    )
    assert [b.name for b in alone] == [b.name for b in helped]
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.image0.rgb, b.image0.rgb) and torch.equal(a.truth.h_1_from_0, b.truth.h_1_from_0)
        assert a[0].image0.rgb.shape[0] == 3
