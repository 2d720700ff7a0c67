"""`vision3d bench sparseconv`: the 8x backbone on a real KITTI scan beside spconv (CPU), torch and its products.

Rulebooks are part of every call: each begins with sites that nothing is known about. spconv has no backward pass on the
CPU, so a training step is measured against our own forward pass.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vision3d.bench.harness import Case, Row, measure, report
from vision3d.errors import UsageError

MAX_PRODUCTS = 2.0
"""Our forward pass may take so many times its bare matrix products."""
MAX_STEP = 3.0
"""A training step may take so many times the forward pass."""
DENSE_STAGE = 9
"""The layer that is compared with a dense convolution: the first submanifold one at a stride of 8."""


@dataclass(frozen=True, kw_only=True)
class BenchSparseConvConfig:
    """Times sparse convolutions beside spconv (CPU), dense and plain torch, and their bare matrix products."""

    scan: Path
    """KITTI scan (.bin with x, y, z, intensity), as 000008.bin of the object training set"""
    repeats: int = 9
    """calls of each, of which the median is reported"""
    threads: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    """threads of each (spconv's CPU kernels use one)"""
    json: bool = False
    """print the figures as JSON"""


def run(config: BenchSparseConvConfig) -> int:
    """Measures and prints; 0 when results agree and limits are kept."""
    if not config.scan.is_file():
        raise UsageError(f"--scan {config.scan}: no such file")
    for name in ("repeats", "threads"):
        if getattr(config, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(config, name)}")
    import torch

    torch.set_num_threads(config.threads)
    rows = measure_all(config)
    return report("sparseconv", rows, as_json_text=config.json)


def measure_all(config: BenchSparseConvConfig) -> list[Row]:
    """Forward in float32 and bfloat16, training step, one layer beside the dense one, growth with voxels."""
    import torch

    from vision3d.bench import sparse_backbone as nets
    from vision3d.core.sparse_tensor import SparseTensor

    x = nets.voxelise(config.scan)
    model = nets.backbone().eval()
    has_spconv = importlib.util.find_spec("spconv") is not None
    rows = []
    for kind, name, tolerance in ((torch.float32, "float32", 1e-3), (torch.bfloat16, "bfloat16", 0.1)):
        products, gflop = nets.products_alone(model, x, kind)
        case = Case(
            name=f"forward, {len(x)} voxels, {gflop:.1f} GFLOP, {name}",
            ours=partial(_forward, model, x, kind),
            peers={
                "spconv float32": partial(_spconv_forward, model, x) if has_spconv else None,
                "torch": partial(_torch_forward, model, x, kind),
                "products alone": lambda products=products: products,  # type: ignore[misc]
            },
            difference=relative_difference,
            tolerance=tolerance,
        )
        rows.append(_limited(measure(case, config.repeats), "products alone", MAX_PRODUCTS))
    step = Case(
        name=f"training step (forward, backward, SGD), {len(x)} voxels, float32",
        ours=partial(_training_step, x),
        peers={"our forward": partial(_forward, model, x, torch.float32)},
        difference=lambda ours, peer: 0.0,
        tolerance=0.0,
    )
    rows.append(_limited(measure(step, config.repeats), "our forward", MAX_STEP))
    rows.append(measure(_dense_case(model, x), max(1, config.repeats // 3)))
    for part in (4, 2):
        some = torch.arange(0, len(x)) < len(x) // part
        less = SparseTensor(x.features[some], x.indices[some], x.spatial_shape, 1)
        rows.append(measure(_growth_case(model, less), config.repeats))
    second = x.indices + torch.tensor([1, 0, 0, 0], dtype=x.indices.dtype)
    twice = SparseTensor(x.features.repeat(2, 1), torch.cat([x.indices, second]), x.spatial_shape, 2)
    rows.append(measure(_growth_case(model, twice), config.repeats))
    return rows


def relative_difference(ours: Any, peer: Any) -> float:
    """Largest difference of features, by site, over the largest feature; 0 where a peer has no features to show.

    Infinite if the sites differ. A peer that adds "tenth" is compared on the best tenth of the sites: spconv 2.3.8's
    CPU kernels get single rows wrong, others in every call on the same input, and these spread from layer to layer.
    """
    import torch

    if peer is None:
        return 0.0
    (features, indices), (other, other_indices, *part) = ours, peer
    order, other_order = (
        torch.unique(sites.long(), dim=0, return_inverse=True)[1].argsort() for sites in (indices, other_indices)
    )
    if indices.shape != other_indices.shape or not torch.equal(indices[order].int(), other_indices[other_order].int()):
        return float("inf")
    by_site = (features[order].double() - other[other_order].double()).abs().amax(dim=1)
    difference = by_site.quantile(0.1) if part else by_site.max()
    return float(difference / features.double().abs().max())


def _forward(model: Any, x: Any, kind: Any) -> Callable[[], Any]:
    import copy

    import torch

    model = copy.deepcopy(model).to(kind)

    def call() -> Any:
        with torch.no_grad():
            y = model(_unknown(x, kind))
        return y.features, y.indices

    return call


def _torch_forward(model: Any, x: Any, kind: Any) -> Callable[[], Any]:
    import copy

    import torch

    from vision3d.bench.sparse_backbone import plain_torch

    model = copy.deepcopy(model).to(kind)

    def call() -> Any:
        with torch.no_grad():
            y = plain_torch(model, _unknown(x, kind))
        return y.features, y.indices

    return call


def _spconv_forward(model: Any, x: Any) -> Callable[[], Any]:
    import torch

    from vision3d.bench.sparse_backbone import spconv_backbone
    from vision3d.sparse import to_spconv

    theirs = spconv_backbone(model).eval()

    def call() -> Any:
        with torch.no_grad():
            y = theirs(to_spconv(x))
        return y.features, y.indices, "tenth"

    return call


def _training_step(x: Any) -> Callable[[], Any]:
    import torch

    from vision3d.bench.sparse_backbone import backbone

    model = backbone().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def call() -> Any:
        optimizer.zero_grad()
        model(_unknown(x, torch.float32)).features.square().mean().backward()
        optimizer.step()
        return None

    return call


def _dense_case(model: Any, x: Any) -> Case:
    """One submanifold layer at a stride of 8, where the dense grid fits into memory."""
    import torch

    from vision3d.sparse import to_dense

    with torch.no_grad():
        inner = model[: 3 * DENSE_STAGE](x)
    layer = model[3 * DENSE_STAGE]
    kernel = layer.weight.detach().movedim((-1, -2), (0, 1)).contiguous()
    grid = to_dense(inner)
    at = tuple(inner.indices.long().T)

    def ours() -> Any:
        with torch.no_grad():
            y = layer(_unknown(inner, torch.float32))
        return y.features, y.indices

    def dense() -> Any:
        full = torch.nn.functional.conv3d(grid, kernel, padding=1)
        return full.movedim(1, -1)[at], inner.indices

    return Case(
        name=f"one submanifold layer 64 -> 64, {len(inner)} of {grid[0, 0].numel()} sites active, float32",
        ours=lambda: ours,
        peers={"dense conv3d": lambda: dense},
        difference=relative_difference,
        tolerance=1e-4,
    )


def _growth_case(model: Any, x: Any) -> Case:
    import torch

    return Case(
        name=f"forward, {len(x)} voxels, float32",
        ours=partial(_forward, model, x, torch.float32),
        peers={},
        difference=relative_difference,
        tolerance=0.0,
    )


def _unknown(x: Any, kind: Any) -> Any:
    """The same tensor without rulebooks, its sites known to be right."""
    from vision3d.core.sparse_tensor import Sites, SparseTensor

    return SparseTensor.at(Sites(x.indices, x.spatial_shape, x.batch_size), x.features.to(kind))


def _limited(row: Row, peer: str, times: float) -> Row:
    """The row with `times` the peer's median as our limit."""
    return replace(row, case=replace(row.case, limit_s=times * row.peers[peer].median_s))
