"""The Numba rasterizer against its dense twin, the twin against finite differences; order, threads and tile bands."""

import numpy as np
import pytest
import torch
from splat_scenes import FIELDS, OUTPUTS, camera, gradients, join, random_surfels
from torch import Tensor

from vision3d.core.surfels import Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d import render_surfels, tiles

SIZE = (40, 35)


def _relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-20))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(("n", "size"), [(12, 0.3), (150, 0.15)])
def test_numba_agrees_with_the_twin(output: str, n: int, size: float) -> None:
    surfels = random_surfels(n, size=size, seed=3)
    pose, k = camera(size=SIZE)
    slow, slow_gradients = gradients(surfels, pose, k, SIZE, "torch", output)
    fast, fast_gradients = gradients(surfels, pose, k, SIZE, "numba", output)
    assert float(slow.alpha.detach().max()) > 0.5
    assert _relative(getattr(fast, output), getattr(slow, output)) < 1e-5
    for name, expected in slow_gradients.items():
        if float(expected.abs().max()) == 0:
            assert float(fast_gradients[name].abs().max()) == 0, name
        else:
            assert _relative(fast_gradients[name], expected) < 1e-4, name


@pytest.mark.parametrize("output", OUTPUTS)
def test_twin_agrees_with_finite_differences(output: str) -> None:
    """Central differences in float64 along random directions of each parameter."""
    surfels = random_surfels(6, torch.float64, seed=4, k=9, size=0.5)
    pose, k = camera(torch.float64, (24, 20))
    _, found = gradients(surfels, pose, k, (24, 20), "torch", output, near=0.01)
    draw = torch.Generator().manual_seed(6)
    step = 1e-6
    weights: Tensor | None = None
    for name in (*FIELDS, "rotation", "translation", "intrinsics"):
        direction = torch.randn(found[name].shape, generator=draw, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            values = {field: getattr(surfels, field) for field in FIELDS}
            values |= {"rotation": pose.rotation, "translation": pose.translation, "intrinsics": k}
            values[name] = values[name] + sign * step * direction
            picture = render_surfels(
                Surfels(*(values[field] for field in FIELDS)),
                RigidTransform(values["rotation"], values["translation"]),
                values["intrinsics"],
                (24, 20),
                background=torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
                near=0.01,
                engine="torch",
            )
            value = getattr(picture, output)
            if weights is None:
                weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
            ends.append((value * weights).sum())
        slope = float(ends[0] - ends[1]) / (2 * step)
        analytic = float((found[name] * direction).sum())
        scale = float((found[name].abs() * direction.abs()).sum())
        assert abs(slope - analytic) <= 1e-6 * max(scale, 1e-3), name


def test_numba_gradients_agree_with_the_twin_in_float64() -> None:
    """Not only with the same projection in float32."""
    surfels, (pose, k) = random_surfels(40, torch.float64, seed=8), camera(torch.float64)
    for output in ("color", "depth", "distortion"):
        _, slow = gradients(surfels, pose, k, SIZE, "torch", output)
        _, fast = gradients(surfels, pose, k, SIZE, "numba", output)
        for name in slow:
            if float(slow[name].abs().max()) > 0:
                assert _relative(fast[name], slow[name]) < 1e-4, (output, name)


def test_branches_agree_where_many_pixels_sit_on_them() -> None:
    """Opaque, tiny and faint surfels: caps, low-pass filter and skipped contributions. All but a few pixels agree."""
    wide = random_surfels(300, size=0.05, seed=9)
    tiny = random_surfels(300, size=0.002, seed=10)
    solid = random_surfels(40, size=0.5, seed=11)
    solid = Surfels(solid.means, solid.quats, solid.scales, torch.ones(40), solid.sh)
    surfels = join(wide, tiny, solid)
    pose, k = camera(size=(70, 50))
    slow = render_surfels(surfels, pose, k, (70, 50), engine="torch")
    fast = render_surfels(surfels, pose, k, (70, 50), engine="numba")
    for output in OUTPUTS:
        a, b = getattr(fast, output), getattr(slow, output)
        off = (a - b).abs() > 1e-4 * b.abs().max()
        assert int(off.sum()) <= 0.002 * off.numel(), output


def test_same_bits_for_any_number_of_threads() -> None:
    surfels, (pose, k) = random_surfels(200, size=0.15), camera(size=(100, 70))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(gradients(surfels, pose, k, (100, 70), "numba", "color"))
    finally:
        torch.set_num_threads(before)
    for output in OUTPUTS:
        assert torch.equal(getattr(results[0][0], output), getattr(results[1][0], output)), output
    for name in FIELDS:
        assert torch.equal(results[0][1][name], results[1][1][name]), name


@pytest.mark.parametrize("engine", ["torch", "numba"])
def test_order_of_the_surfels_does_not_matter(engine: str) -> None:
    surfels, (pose, k) = random_surfels(80), camera()
    shuffle = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    first, g_first = gradients(surfels, pose, k, SIZE, engine, "color")  # type: ignore[arg-type]
    second, g_second = gradients(surfels.select(shuffle), pose, k, SIZE, engine, "color")  # type: ignore[arg-type]
    for output in OUTPUTS:
        torch.testing.assert_close(getattr(first, output), getattr(second, output), rtol=1e-5, atol=1e-6)
    for name in FIELDS:
        assert _relative(g_second[name], g_first[name][shuffle]) < 1e-5


def test_bands_of_tile_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for few pairs the picture is composited and differentiated in bands."""
    surfels, (pose, k) = random_surfels(120), camera(size=(50, 90))
    whole, g_whole = gradients(surfels, pose, k, (50, 90), "numba", "depth")
    monkeypatch.setattr(tiles, "MAX_PAIRS", 500)
    boxes = np.tile(np.array([0, 49, 0, 89], np.int32), (120, 1))
    assert len(tiles.bands(boxes, (50, 90))) == 6
    banded, g_banded = gradients(surfels, pose, k, (50, 90), "numba", "depth")
    for output in OUTPUTS:
        assert torch.equal(getattr(whole, output), getattr(banded, output)), output
    for name in FIELDS:
        assert _relative(g_banded[name], g_whole[name]) < 1e-5


def test_tile_lists_hold_every_surfel_in_depth_order() -> None:
    draw = torch.Generator().manual_seed(3)
    low = torch.rand(500, 2, generator=draw) * 120 - 20
    wide = 30 * torch.rand(500, generator=draw)
    bounds = torch.stack([low[:, 0], low[:, 0] + wide, low[:, 1], low[:, 1] + 20], dim=1)
    boxes = np.empty((500, 4), np.int32)
    for i, box in enumerate(bounds.numpy()):
        tiles.pixel_box(box, 90, 70, boxes[i])
    lists = tiles.list_tiles(boxes, (90, 70), 0, 5, with_slots=True)
    for tile in range(30):
        members = lists.members[lists.starts[tile] : lists.starts[tile + 1]].tolist()
        left, top = tile % 6 * 16, tile // 6 * 16
        x, y = torch.arange(left, min(left + 16, 90)) + 0.5, torch.arange(top, min(top + 16, 70)) + 0.5
        inside_x = ((x >= bounds[:, :1]) & (x <= bounds[:, 1:2])).any(1)
        inside_y = ((y >= bounds[:, 2:3]) & (y <= bounds[:, 3:])).any(1)
        assert members == (inside_x & inside_y).nonzero()[:, 0].tolist()
    assert sorted(lists.slots.tolist()) == list(range(len(lists.members)))
    for i in range(500):
        places = [place for place, member in enumerate(lists.members.tolist()) if member == i]
        owned = sorted(lists.slots[places].tolist())
        assert owned == list(range(int(lists.firsts[i]), int(lists.firsts[i + 1])))
