"""The 8x sparse backbone of SECOND (Yan et al., Sensors 2018, section 3.2) in ours, spconv and plain torch; its input.

Layers as OpenPCDet's VoxelBackBone8x: 12 convolutions with batch norm and ReLU, 711,872 numbers to train.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vision3d.core.sparse_tensor import SparseTensor
from vision3d.errors import UsageError
from vision3d.sparse import KernelMap, SparseConv, SparseSequential, SubmanifoldConv, products, weight_to_spconv2
from vision3d.sparse.layers import ConvolutionLayer

LOW = (0.0, -40.0, -3.0)
HIGH = (70.4, 40.0, 1.0)
VOXEL = (0.05, 0.05, 0.1)
SHAPE = (41, 1600, 1408)
# in, out, kernel size, stride, padding; None: submanifold
LAYERS: tuple[tuple[int, int, Any, Any, Any], ...] = (
    (4, 16, 3, None, None),
    (16, 16, 3, None, None),
    (16, 32, 3, 2, 1),
    (32, 32, 3, None, None),
    (32, 32, 3, None, None),
    (32, 64, 3, 2, 1),
    (64, 64, 3, None, None),
    (64, 64, 3, None, None),
    (64, 64, 3, 2, (0, 1, 1)),
    (64, 64, 3, None, None),
    (64, 64, 3, None, None),
    (64, 128, (3, 1, 1), (2, 1, 1), 0),
)
# Layers of the same stage share a rulebook in spconv by name.
SPCONV_KEYS = ("1", "1", "d2", "2", "2", "d3", "3", "3", "d4", "4", "4", "out")


def voxelise(path: Path) -> SparseTensor:
    """A KITTI scan (x, y, z, intensity as float32) as means of voxels of 0.05 x 0.05 x 0.1 m, in lexicographic order.

    UsageError for a file that is not such a scan or has no point in range.
    """
    raw = np.fromfile(path, np.float32)
    if len(raw) == 0 or len(raw) % 4:
        raise UsageError(f"{path}: a KITTI scan has 4 float32 per point, this file has {len(raw)}")
    points = raw.reshape(-1, 4)
    low, size = np.array(LOW, np.float32), np.array(VOXEL, np.float32)
    grid = np.rint((np.array(HIGH, np.float32) - low) / size).astype(np.int64)
    points = points[np.isfinite(points).all(axis=1)]
    cell = np.floor((points[:, :3] - low) / size).astype(np.int64)
    inside = ((cell >= 0) & (cell < grid)).all(axis=1)
    if not inside.any():
        raise UsageError(f"{path}: no point between {LOW} and {HIGH} m")
    x, y, z = cell[inside].T
    keys, voxel, counts = np.unique((z * grid[1] + y) * grid[0] + x, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(voxel, points[inside, c]) / counts for c in range(4)], axis=1)
    indices = np.stack([np.zeros_like(keys), *np.unravel_index(keys, grid[::-1])], axis=1)
    return SparseTensor(torch.from_numpy(means).float(), torch.from_numpy(indices).int(), SHAPE, 1)


def backbone(seed: int = 0) -> SparseSequential:
    """Ours, with seeded weights of a size that keeps features near 1."""
    generator = torch.Generator().manual_seed(seed)
    modules: list[nn.Module] = []
    for inputs, outputs, size, stride, padding in LAYERS:
        layer: ConvolutionLayer
        if stride is None:
            layer = SubmanifoldConv(3, inputs, outputs, size, bias=False)
        else:
            layer = SparseConv(3, inputs, outputs, size, stride, padding, bias=False)
        spread = (2 / (inputs * layer.window.volume)) ** 0.5
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 2 * spread
        modules += [layer, nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.01), nn.ReLU()]
    return SparseSequential(*modules)


def spconv_backbone(ours: SparseSequential) -> nn.Module:
    """spconv's layers with the same weights and its CPU algorithm."""
    import spconv.pytorch as spconv

    modules: list[nn.Module] = []
    for i, (inputs, outputs, size, stride, padding) in enumerate(LAYERS):
        settings = {"bias": False, "indice_key": SPCONV_KEYS[i], "algo": spconv.ConvAlgo.Native}
        if stride is None:
            layer = spconv.SubMConv3d(inputs, outputs, size, **settings)
        else:
            layer = spconv.SparseConv3d(inputs, outputs, size, stride, padding, **settings)
        layer.weight.data = weight_to_spconv2(ours[3 * i].get_parameter("weight").data)
        modules += [layer, nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.01), nn.ReLU()]
    theirs: nn.Module = spconv.SparseSequential(*modules)
    return theirs


def products_alone(model: SparseSequential, x: SparseTensor, kind: torch.dtype) -> tuple[Callable[[], None], float]:
    """A call that only multiplies the gathered rows of every layer and kernel element; and its GFLOP."""
    jobs: list[tuple[Tensor, Tensor, Tensor]] = []
    flop = 0
    with torch.no_grad():
        for i in range(0, len(model), 3):
            layer = model[i]
            assert isinstance(layer, ConvolutionLayer)
            rulebook = layer.find(x.sites)[1]
            weight = layer.weight.flatten(0, -3).to(kind)
            for k, (first, last) in enumerate(pairwise(rulebook.starts)):
                rows = x.features[rulebook.in_rows[first:last].long()].to(kind)
                jobs.append((rows, weight[k], torch.empty(last - first, weight.shape[2], dtype=kind)))
            flop += 2 * len(rulebook) * weight.shape[1] * weight.shape[2]
            x = model[i + 2 : i + 3](model[i + 1 : i + 2](layer(x)))

    def call() -> None:
        with torch.no_grad():
            for rows, block, out in jobs:
                torch.mm(rows, block, out=out)

    return call, flop / 1e9


def plain_torch(model: SparseSequential, x: SparseTensor) -> SparseTensor:
    """The forward pass with index_select, mm and index_add_; rulebooks are made by our hash table."""
    for i in range(0, len(model), 3):
        layer = model[i]
        assert isinstance(layer, ConvolutionLayer)
        sites, rulebook = layer.find(x.sites)
        assert isinstance(rulebook, KernelMap)
        features = products.convolve(x.features, layer.weight.flatten(0, -3).to(x.features.dtype), rulebook)
        x = SparseTensor.at(sites, model[i + 2](model[i + 1](features)))
    return x
