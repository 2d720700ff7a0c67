"""Empty, degenerate and wrong surfels: finite pictures and gradients, or an error that names them."""

import pytest
import torch
from splat_scenes import FIELDS, OUTPUTS, camera, flat, gradients, join, random_surfels, still, to

from vision3d.core.surfels import Rendering, Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d import Engine, render_surfels

ENGINES: tuple[Engine, ...] = ("torch", "numba")
SIZE = (33, 18)
BACKGROUND = torch.tensor([0.2, 0.4, 0.6])


def _finite(picture: Rendering) -> bool:
    return all(bool(torch.isfinite(getattr(picture, name)).all()) for name in OUTPUTS)


def _only_background(picture: Rendering) -> bool:
    shown = torch.equal(picture.color, BACKGROUND[:, None, None].expand_as(picture.color))
    return shown and not any(bool(getattr(picture, name).any()) for name in OUTPUTS if name != "color")


@pytest.mark.parametrize("engine", ENGINES)
def test_no_surfels(engine: Engine) -> None:
    pose, k = camera()
    picture = render_surfels(random_surfels(0), pose, k, SIZE, background=BACKGROUND, engine=engine)
    assert _only_background(picture)
    _, found = gradients(random_surfels(0), pose, k, SIZE, engine, "color")
    assert found["means"].shape == (0, 3) and float(found["rotation"].abs().max()) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_all_behind_or_on_the_camera_plane(engine: Engine) -> None:
    pose, k = still(torch.float32), camera()[1]
    surfels = random_surfels(8)
    means = surfels.means * torch.tensor([1.0, 1.0, -1.0])
    means[:4, 2] = 0
    hidden = Surfels(means, surfels.quats, surfels.scales, surfels.opacities, surfels.sh)
    assert _only_background(render_surfels(hidden, pose, k, SIZE, background=BACKGROUND, engine=engine))
    _, found = gradients(join(hidden, random_surfels(8, seed=1)), pose, k, SIZE, engine, "color")
    assert all(bool(torch.isfinite(g).all()) for g in found.values())
    assert float(found["means"][:8].abs().max()) == 0 and float(found["means"][8:].abs().max()) > 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20])
def test_degenerate_scales(engine: Engine, scale: float) -> None:
    surfels = random_surfels(10)
    scales = surfels.scales.clone()
    scales[:5, 0] = scale
    scales[3:8, 1] = scale
    degenerate = Surfels(surfels.means, surfels.quats, scales, surfels.opacities, surfels.sh)
    pose, k = camera()
    for output in OUTPUTS:
        picture, found = gradients(degenerate, pose, k, SIZE, engine, output)
        assert _finite(picture)
        assert all(bool(torch.isfinite(g).all()) for g in found.values()), output
    assert float(picture.alpha.detach().max()) > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_point_is_as_wide_as_the_low_pass_filter(engine: Engine) -> None:
    k = torch.tensor([20.0, 20.0, 10.5, 8.5])
    picture = render_surfels(to(flat((0, 0, 4.0), 0.0, 0.9), torch.float32), still(torch.float32), k, (21, 17))
    assert float(picture.alpha[8, 10]) == pytest.approx(0.9, rel=1e-5)
    assert float(picture.alpha[9, 10]) == pytest.approx(0.9 * 0.36787944, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_edge_on_surfels_have_finite_gradients(engine: Engine) -> None:
    for tilt in (0.70710678, 0.7071067, 0.70715, 0.708):
        surfel = to(flat((0.0, 0, 4.0), 1.0, 0.9, quat=(0.70710678, 0.0, tilt, 0.0)), torch.float32)
        for output in OUTPUTS:
            picture, found = gradients(surfel, still(torch.float32), camera()[1], SIZE, engine, output)
            assert _finite(picture) and all(bool(torch.isfinite(g).all()) for g in found.values())


@pytest.mark.parametrize("name", FIELDS)
def test_numbers_that_are_not_finite_are_named(name: str) -> None:
    surfels = random_surfels(9)
    values = {field: getattr(surfels, field).clone() for field in FIELDS}
    values[name].view(9, -1)[[2, 5], 0] = torch.tensor([torch.nan, torch.inf])
    pose, k = camera()
    with pytest.raises(ValueError, match=rf"{name} of 2 of 9 surfels are not finite: surfels 2, 5"):
        render_surfels(Surfels(**values), pose, k, SIZE)


def test_other_wrong_input() -> None:
    surfels, (pose, k) = random_surfels(4), camera()
    values = {field: getattr(surfels, field).clone() for field in FIELDS}
    with pytest.raises(ValueError, match="scales of 1 of 4 surfels are negative: surfels 1"):
        wrong = values["scales"].clone()
        wrong[1, 0] = -1
        render_surfels(Surfels(**{**values, "scales": wrong}), pose, k, SIZE)
    with pytest.raises(ValueError, match=r"opacities of 4 of 4 surfels lie outside \[0, 1\]"):
        render_surfels(Surfels(**{**values, "opacities": values["opacities"] + 2}), pose, k, SIZE)
    with pytest.raises(ValueError, match="positive focal lengths"):
        render_surfels(surfels, pose, torch.tensor([0.0, 1, 1, 1]), SIZE)
    with pytest.raises(ValueError, match="at least 1 x 1 px, got 0 x 5"):
        render_surfels(surfels, pose, k, (0, 5))
    with pytest.raises(ValueError, match="near must be"):
        render_surfels(surfels, pose, k, SIZE, near=-1.0)
    with pytest.raises(ValueError, match="cam_from_world"):
        render_surfels(surfels, RigidTransform(pose.rotation * torch.nan, pose.translation), k, SIZE)


@pytest.mark.parametrize("scale", [1e-4, 1e5])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_scene_may_have_any_scale(engine: Engine, scale: float) -> None:
    surfels, (pose, k) = random_surfels(60), camera()
    larger = Surfels(surfels.means * scale, surfels.quats, surfels.scales * scale, surfels.opacities, surfels.sh)
    far = RigidTransform(pose.rotation, pose.translation * scale)
    first = render_surfels(surfels, pose, k, SIZE, engine=engine)
    second, found = gradients(larger, far, k, SIZE, engine, "depth")
    torch.testing.assert_close(second.alpha, first.alpha, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(second.depth / scale, first.depth, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(second.distortion / scale, first.distortion, rtol=1e-2, atol=1e-5)
    assert all(bool(torch.isfinite(g).all()) for g in found.values())
    assert float(found["means"].abs().max()) > 0


@pytest.mark.parametrize("size", [(1, 1), (17, 1), (15, 33)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    surfels = random_surfels(40)
    pose, k = camera(size=size)
    slow = render_surfels(surfels, pose, k, size, engine="torch")
    fast = render_surfels(surfels, pose, k, size, engine="numba")
    assert fast.alpha.shape == (size[1], size[0])
    for output in OUTPUTS:
        a, b = getattr(fast, output), getattr(slow, output)
        assert float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max())), output


@pytest.mark.parametrize("engine", ENGINES)
def test_surfels_nearer_than_near_are_left_out(engine: Engine) -> None:
    pair = to(join(flat((0, 0, 0.01), 0.01, 0.9), flat((0, 0, 4.0), 1.0, 0.5)), torch.float32)
    k = torch.tensor([20.0, 20.0, 10.5, 8.5])
    depth = render_surfels(pair, still(torch.float32), k, (21, 17), near=0.02, engine=engine).depth
    assert float(depth[8, 10]) == pytest.approx(4.0, rel=1e-5)
    depth = render_surfels(pair, still(torch.float32), k, (21, 17), near=0.001, engine=engine).depth
    assert float(depth[8, 10]) < 1
