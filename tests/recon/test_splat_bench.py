"""The bench of the rasterizer: what it compares, and its scene."""

import numpy as np
import pytest
import torch

from vision3d.bench.splat import BenchSplatConfig, Rendered, difference, render_once, run
from vision3d.bench.splat_scene import random_surfels
from vision3d.errors import UsageError
from vision3d.recon.splat2d.lanes import LANES
from vision3d.recon.splat2d.numba_engine import composite
from vision3d.recon.splat2d.project_numba import Projected

SIZE = (32, 24)


def test_engines_agree_on_its_scene() -> None:
    ours, twin = (render_once(engine, 200, SIZE, True) for engine in ("numba", "torch"))
    assert difference(ours, twin) < 1e-3
    brighter = (twin.layers[0] + 0.1 * twin.layers[0].detach().abs().max(), *twin.layers[1:])
    assert difference(ours, Rendered(brighter, twin.gradients)) > 1e-3
    steeper = [g if g is None else g + 0.1 * g.abs().max() for g in twin.gradients]
    assert difference(ours, Rendered(twin.layers, tuple(steeper))) > 1e-3


def test_its_scene_is_covered_and_seeded() -> None:
    assert torch.equal(random_surfels(50, SIZE).means, random_surfels(50, SIZE).means)
    assert render_once("numba", 500, SIZE, False).layers[1].mean() > 0.6


def test_evaluations_are_strips_that_a_box_touches() -> None:
    """Two faint surfels: columns 1-5, rows 2-5 of a tile; rows 14-17 in two by two tiles, the right ones 4 px wide."""
    rows = np.zeros((2, 16), np.float32)
    rows[:, 2], rows[:, 5], rows[:, 8], rows[:, 9] = 1.0, 1.0, 3.0, np.log2(0.1)
    boxes = np.array([[1, 5, 2, 5], [10, 17, 14, 17]], np.int32)
    projected = Projected(rows, rows, boxes, np.arange(2, dtype=np.int32), np.float32(0.1))
    computed, listed = composite(projected, (20, 30), keep=False).evaluations
    assert computed == 4 * LANES + 4 * (LANES + 4)
    assert listed == 2 * 256 + 16 * 4 + 14 * 16 + 14 * 4  # both in the first tile, the second in all four


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="--repeats must be at least 1"):
        run(BenchSplatConfig(repeats=0))
