"""What `vision3d bench sparseconv` measures is what it says: the network, its input, and how results are compared."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.bench.sparse_backbone import SHAPE, backbone, plain_torch, products_alone, voxelise
from vision3d.bench.sparseconv import relative_difference
from vision3d.core import SparseTensor, UsageError


def write(path: Path, points: list[list[float]]) -> Path:
    np.array(points, np.float32).tofile(path)
    return path


def test_voxels_are_means_in_order(tmp_path: Path) -> None:
    points = [[10.01, 0.01, 0, 0.5], [10.03, 0.03, 0, 0.7], [5, -39.99, -2.95, 1], [-1, 0, 0, 1], [np.nan, 0, 0, 0]]
    x = voxelise(write(tmp_path / "scan.bin", points))
    assert x.indices.tolist() == [[0, 0, 0, 100], [0, 30, 800, 200]]
    torch.testing.assert_close(x.features[1], torch.tensor([10.02, 0.02, 0, 0.6]))


def test_bad_scans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 float32 per point"):
        voxelise(write(tmp_path / "odd.bin", [[1, 2, 3]]))
    with pytest.raises(UsageError, match="no point between"):
        voxelise(write(tmp_path / "behind.bin", [[-5, 0, 0, 0]]))


def test_backbone_is_openpcdets() -> None:
    assert sum(p.numel() for p in backbone().parameters()) == 711_872


def test_plain_torch_agrees_on_a_small_scene() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 24, (400, 3), generator=generator) + torch.tensor([8, 700, 600])
    indices = torch.unique(torch.cat([torch.zeros(400, 1, dtype=torch.int64), cells], 1), dim=0).int()
    x = SparseTensor(torch.randn(len(indices), 4, generator=generator), indices, SHAPE, 1)
    model = backbone().eval()
    with torch.no_grad():
        ours, twin = model(x), plain_torch(model, x)
    assert relative_difference((ours.features, ours.indices), (twin.features, twin.indices)) < 1e-5
    order = torch.randperm(len(ours))
    shuffled = (twin.features[order], twin.indices[order])
    assert relative_difference((ours.features, ours.indices), shuffled) < 1e-5
    assert relative_difference((ours.features, ours.indices), (twin.features + 1, twin.indices)) > 1e-3
    assert relative_difference((ours.features, ours.indices), (twin.features, twin.indices + 1)) == float("inf")
    assert products_alone(model, x, torch.float32)[1] > 0
