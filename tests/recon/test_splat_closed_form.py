"""Pictures of surfels that can be worked out by hand, and spherical harmonics against SciPy."""

import math

import pytest
import torch
from scipy.special import sph_harm_y
from splat_scenes import camera, flat, join, random_surfels, still, to

from vision3d.core.surfels import Rendering, Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d import Engine, evaluate_sh, render_surfels

K = torch.tensor([20.0, 20.0, 10.5, 8.5], dtype=torch.float64)  # the principal point is the centre of pixel (10, 8)
SIZE = (21, 17)
ENGINES: tuple[Engine, ...] = ("torch", "numba")


def _render(surfels: Surfels, engine: Engine, background: torch.Tensor | None = None) -> Rendering:
    return render_surfels(surfels, still(), K, SIZE, engine=engine, background=background)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_frontal_surfel_is_a_gaussian(engine: Engine) -> None:
    picture = _render(flat((0, 0, 4.0), (0.6, 1.0), 0.8), engine)
    x, y = torch.arange(21.0)[None] - 10, torch.arange(17.0)[:, None] - 8  # px from the centre
    sx, sy = 0.6 * 20 / 4, 1.0 * 20 / 4
    alpha = 0.8 * torch.exp(-0.5 * ((x / sx) ** 2 + (y / sy) ** 2))
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0).double()
    seen = alpha > 0
    assert 0 < int(seen.sum()) < seen.numel()
    torch.testing.assert_close(picture.alpha, alpha, rtol=1e-5, atol=1e-6)
    color = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(picture.color, alpha * color, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(picture.depth, torch.where(seen, 4.0, 0.0).double())
    torch.testing.assert_close(picture.median_depth, torch.where(seen, 4.0, 0.0).double())
    torch.testing.assert_close(picture.normal[2], -alpha, rtol=1e-5, atol=1e-6)
    assert float(picture.normal[:2].abs().max()) < 1e-7
    assert float(picture.distortion.abs().max()) < 1e-6
    spread = (alpha - alpha**2) * float((color**2).sum())
    torch.testing.assert_close(picture.color_variance, spread, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_surfels_by_hand(engine: Engine) -> None:
    """Both centres project into pixel (8, 10), where G = 1; the order given is not the order of depth."""
    far, near = flat((0, 0, 6.0), 2.0, 0.5, (0.1, 0.9, 0.3)), flat((0, 0, 4.0), 1.0, 0.25, (0.8, 0.2, 0.6))
    background = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    picture = _render(join(far, near), engine, background)
    w1, w2 = 0.25, 0.75 * 0.5
    at = (..., 8, 10)
    c1, c2 = (torch.tensor(c, dtype=torch.float64) for c in ((0.8, 0.2, 0.6), (0.1, 0.9, 0.3)))
    shade = w1 * c1 + w2 * c2
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(picture.color[at], shade + (1 - w1 - w2) * background, **close)
    assert float(picture.alpha[at]) == pytest.approx(w1 + w2, rel=1e-6)
    assert float(picture.depth[at]) == pytest.approx((w1 * 4 + w2 * 6) / (w1 + w2), rel=1e-6)
    assert float(picture.median_depth[at]) == pytest.approx(6.0, rel=1e-6)  # 0.75 of the light is left before it
    assert float(picture.distortion[at]) == pytest.approx(2 * w1 * w2 * (6 - 4), rel=1e-5)
    variance = (w1 * c1**2 + w2 * c2**2 - shade**2).sum()
    assert float(picture.color_variance[at]) == pytest.approx(float(variance), rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_median_is_the_first_of_two_when_it_takes_half_the_light(engine: Engine) -> None:
    picture = _render(join(flat((0, 0, 4.0), 1.0, 0.6), flat((0, 0, 6.0), 1.0, 0.5)), engine)
    assert float(picture.median_depth[8, 10]) == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tilted_surfel_is_cut_by_the_ray(engine: Engine) -> None:
    """Turned by 60 degrees about y: depth along a row is that of the plane, also against a direct intersection."""
    angle = math.radians(60)
    quat = (math.cos(angle / 2), 0.0, math.sin(angle / 2), 0.0)
    picture = _render(flat((0, 0, 4.0), 1.0, 0.9, quat=quat), engine)
    normal = torch.tensor([math.sin(angle), 0, math.cos(angle)], dtype=torch.float64)
    for column in (8, 10, 11):
        ray = torch.tensor([(column - 10) / 20, 0, 1.0], dtype=torch.float64)
        z = 4 * normal[2] / (normal @ ray)
        point = ray * z - torch.tensor([0, 0, 4.0], dtype=torch.float64)
        assert float(picture.depth[8, column]) == pytest.approx(float(z), rel=1e-6)
        assert float(picture.alpha[8, column]) == pytest.approx(0.9 * math.exp(-0.5 * float(point @ point)), rel=1e-5)
    facing = picture.normal[:, 8, 10] / picture.alpha[8, 10]
    torch.testing.assert_close(facing, -normal, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_edge_on_surfel_is_drawn_by_the_low_pass_filter(engine: Engine) -> None:
    quat = (math.cos(math.pi / 4), 0.0, math.sin(math.pi / 4), 0.0)  # normal along x
    picture = _render(flat((0, 0, 4.0), 1.0, 0.9, quat=quat), engine)
    assert float(picture.alpha[8, 10]) == pytest.approx(0.9, rel=1e-6)
    assert float(picture.alpha[8, 11]) == pytest.approx(0.9 * math.exp(-1.0), rel=1e-5)
    assert float(picture.alpha[8, 14]) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_opaque_surfels_end_the_ray(engine: Engine) -> None:
    """After two at the cap of 0.999, 1e-6 of the light is left, too little for a third."""
    picture = _render(join(*(flat((0, 0, z), 1.0, 1.0, (z / 10, 0.0, 0.0)) for z in (3.0, 4.0, 5.0))), engine)
    assert float(picture.color[0, 8, 10]) == pytest.approx(0.999 * 0.3 + 0.001 * 0.999 * 0.4, rel=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_moving_scene_and_camera_together_changes_nothing(engine: Engine) -> None:
    surfels = random_surfels(30, torch.float64, k=1)
    pose, k = camera(torch.float64)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -1.1, 0.4], [1.1, 0, -0.7], [-0.4, 0.7, 0]], dtype=torch.float64))
    moved_from_world = RigidTransform(turn, torch.tensor([3.0, -8.0, 5.0], dtype=torch.float64))
    angle = torch.acos((turn.trace() - 1) / 2)
    skew = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    axis = torch.sin(angle / 2) * skew / (2 * torch.sin(angle))
    w0, v0 = torch.cos(angle / 2), axis
    w1, v1 = surfels.quats[:, :1], surfels.quats[:, 1:]
    vector = w0 * v1 + w1 * v0 + torch.linalg.cross(v0.expand_as(v1), v1)
    quats = torch.cat([w0 * w1 - v1 @ v0[:, None], vector], dim=1)
    moved = Surfels(moved_from_world.apply(surfels.means), quats, surfels.scales, surfels.opacities, surfels.sh)
    first = render_surfels(surfels, pose, k, (40, 35), engine=engine)
    second = render_surfels(moved, pose @ moved_from_world.inverse(), k, (40, 35), engine=engine)
    for name in ("color", "alpha", "depth", "median_depth", "normal", "distortion", "color_variance"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-4, atol=2e-6)


def test_spherical_harmonics_against_scipy() -> None:
    """Real harmonics from SciPy's complex ones; odd m carry the Condon-Shortley sign, as in 3DGS."""
    draw = torch.Generator().manual_seed(2)
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=draw, dtype=torch.float64), dim=1)
    x, y, z = directions.unbind(1)
    theta, phi = torch.acos(z).numpy(), torch.atan2(y, x).numpy()
    columns = []
    for degree in range(4):
        for m in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(m), theta, phi)
            part = value.imag if m < 0 else value.real
            columns.append(torch.from_numpy(part * (math.sqrt(2) if m else 1)))
    basis = torch.stack(columns, dim=1)
    for count in (1, 4, 9, 16):
        sh = torch.randn(40, count, 3, generator=draw, dtype=torch.float64)
        expected = 0.5 + (basis[:, :count, None] * sh).sum(1)
        torch.testing.assert_close(evaluate_sh(sh, 3 * directions), expected)


def test_spherical_harmonics_refuse_a_wrong_count() -> None:
    with pytest.raises(ValueError, match="1 or 4 or 9 or 16 coefficients, got 5"):
        evaluate_sh(torch.zeros(2, 5, 3), torch.ones(2, 3))


@pytest.mark.parametrize("engine", ENGINES)
def test_negative_colors_are_cut_and_view_dependence_follows_the_camera(engine: Engine) -> None:
    surfel = flat((0, 0, 4.0), 1.0, 0.5)
    sh = torch.zeros(1, 4, 3, dtype=torch.float64)
    sh[0, 2] = torch.tensor([1.0, -2.0, 0.0])  # grows with z of the direction, 0.4886 in front
    seen = Surfels(surfel.means, surfel.quats, surfel.scales, surfel.opacities, sh)
    color = _render(seen, engine).color[:, 8, 10]
    torch.testing.assert_close(color, 0.5 * torch.tensor([0.5 + 0.48860251, 0.0, 0.5], dtype=torch.float64))


def test_float32_and_float64_inputs_keep_their_type() -> None:
    for dtype in (torch.float32, torch.float64):
        pose, k = camera(dtype)
        assert render_surfels(to(random_surfels(5), dtype), pose, k, (40, 35)).color.dtype == dtype
