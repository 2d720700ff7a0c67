"""The bench of the rasterizer: what it compares, and its scene."""

import numpy as np
import pytest
import torch

from vision3d.bench.splat import BenchSplatConfig, difference, render_once, run
from vision3d.bench.splat_scene import random_surfels
from vision3d.errors import UsageError
from vision3d.recon.splat2d.numba_engine import count_evaluations
from vision3d.recon.splat2d.project import Projection

SIZE = (32, 24)


def test_engines_agree_on_its_scene() -> None:
    ours, twin = (render_once(engine, 200, SIZE, True) for engine in ("numba", "torch"))
    assert difference(ours, twin) < 1e-3
    wrong = type(twin)(twin.channels + np.float32(0.1) * np.abs(twin.channels).max(), twin.gradients)
    assert difference(ours, wrong) > 1e-3


def test_its_scene_is_covered_and_seeded() -> None:
    assert torch.equal(random_surfels(50, SIZE).means, random_surfels(50, SIZE).means)
    assert render_once("numba", 500, SIZE, False).channels[3].mean() > 0.6


def test_evaluations_are_rows_of_tiles_times_their_width() -> None:
    """Two faint surfels: rows 2-5 in one tile; rows 14-17 in two by two tiles, the right ones 4 px wide."""
    rows = torch.zeros(2, 16)
    rows[:, 2], rows[:, 5], rows[:, 8], rows[:, 9] = 1.0, 1.0, 3.0, 0.1
    bounds = torch.tensor([[1.0, 6.0, 2.0, 6.0], [10.0, 18.0, 14.0, 18.0]])
    assert count_evaluations(Projection(rows, bounds, torch.arange(2), 0.1), (20, 30)) == 4 * 16 + 4 * (16 + 4)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UsageError, match="--repeats must be at least 1"):
        run(BenchSplatConfig(repeats=0))
