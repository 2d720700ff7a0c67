"""The compiled matching cost against its slow twin and against laws of NCC."""

import numpy as np
import pytest

from vision3d.recon.stereo.ncc import SAMPLES, WORST, load_window, pack_quads, plane_cost
from vision3d.recon.stereo.ncc_twin import plane_cost_twin


def _pictures(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rough = rng.uniform(0, 255, (60, 80))
    smooth = sum(np.roll(rough, (dy, dx), (0, 1)) for dy in range(3) for dx in range(3)) / 9
    return smooth.astype(np.uint8), np.roll(smooth, (1, -2), (0, 1)).astype(np.uint8)


def _fast(grey: np.ndarray, source: np.ndarray, warp: np.ndarray, x: int, y: int, plane: np.ndarray) -> float:
    value, weight = np.zeros(SAMPLES, np.float32), np.zeros(SAMPLES, np.float32)
    variance = load_window(grey, x, y, value, weight)
    # a second source of another size in front: its pixels must not be touched
    quads = np.concatenate([pack_quads(np.full((7, 9), 77, np.uint8)), pack_quads(source)])
    sizes = np.array([[9, 7, 0], [source.shape[1], source.shape[0], 63]], np.int32)
    warps = np.stack([np.zeros(12, np.float32), warp.astype(np.float32)])
    w, a, b = plane.astype(np.float32)
    return float(
        plane_cost(quads, sizes, warps, 1, np.float32(x), np.float32(y), w, a, b, value, weight, np.float32(variance))
    )


def _warp(rng: np.random.Generator) -> np.ndarray:
    matrix = np.eye(3) + rng.normal(scale=0.03, size=(3, 3)) * [[1, 1, 50], [1, 1, 50], [0.01, 0.01, 1]]
    return np.concatenate([matrix.ravel(), rng.normal(size=3) * (10, 10, 0.1)])


@pytest.mark.parametrize("seed", range(4))
def test_cost_is_that_of_the_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grey, source = _pictures(seed)
    seen = 0
    for _ in range(60):
        warp, x, y = _warp(rng), int(rng.integers(80)), int(rng.integers(60))
        plane = rng.normal(size=3) * (0.3, 0.02, 0.02)
        expected = plane_cost_twin(grey, source, warp, x, y, tuple(plane))
        assert _fast(grey, source, warp, x, y, plane) == pytest.approx(expected, abs=2e-3)
        seen += expected < WORST
    assert seen > 30  # most planes do project into the source


def test_cost_ignores_brightness_and_contrast_and_finds_the_shift() -> None:
    grey, _ = _pictures()
    darker = (np.roll(grey, (0, 3), (0, 1)) * 0.5 + 20).astype(np.uint8)
    identity_and_x = np.concatenate([np.eye(3).ravel(), [1.0, 0.0, 0.0]])  # w is then the disparity in px
    costs = [_fast(grey, darker, identity_and_x, 40, 30, np.array([d, 0, 0])) for d in range(8)]
    assert int(np.argmin(costs)) == 3
    assert costs[3] < 0.02
    assert min(costs[0], costs[6]) > 0.3


def test_flat_areas_correlate_with_nothing() -> None:
    flat = np.full((60, 80), 100, np.uint8)
    noise = (100 + np.random.default_rng(0).integers(0, 2, (60, 80))).astype(np.uint8)
    warp = np.concatenate([np.eye(3).ravel(), [1.0, 0.0, 0.0]])
    assert _fast(flat, flat, warp, 40, 30, np.zeros(3)) == pytest.approx(1, abs=0.01)
    assert _fast(noise, noise, warp, 40, 30, np.zeros(3)) > 0.8  # one grey level is no texture


def test_planes_behind_or_beside_the_source_cost_the_worst() -> None:
    grey, source = _pictures()
    behind = np.concatenate([np.eye(3).ravel(), [0.0, 0.0, -10.0]])
    assert _fast(grey, source, behind, 40, 30, np.array([1.0, 0, 0])) == pytest.approx(WORST)
    beside = np.concatenate([np.eye(3).ravel(), [1.0, 0.0, 0.0]])
    assert _fast(grey, source, beside, 40, 30, np.array([500.0, 0, 0])) == pytest.approx(WORST)
