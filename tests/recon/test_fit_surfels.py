"""Fitting surfels to rendered photos: colours and cameras come back, resuming changes nothing, bad input is named."""

import math
from dataclasses import replace

import pytest
import torch
from surfel_scenes import arc_views, scene_of, wall

from vision3d.core import RigidTransform, Surfels, UsageError, View, Vision3DError
from vision3d.geometry.rigid import se3_exp
from vision3d.geometry.rotation import angle_between
from vision3d.recon import fit_surfels as module
from vision3d.recon.fit_config import FitConfig
from vision3d.recon.fit_file import read_fit, write_fit
from vision3d.recon.fit_state import FitState
from vision3d.recon.fit_surfels import fit_surfels, view_of_step
from vision3d.recon.relocation import relocate_dead
from vision3d.recon.view_matches import matches_from_tracks


def _problem(seed: int = 0, turn: float = 0.0) -> tuple[Surfels, list[View], list[View], object]:
    """True surfels disturbed, true views, views with disturbed poses, exact matches."""
    torch.manual_seed(seed)
    surfels = wall()
    views = arc_views(surfels, 4, (40, 30))
    matches = matches_from_tracks(scene_of(views, surfels.means.double()), views)
    start = replace(surfels, means=surfels.means + 0.01 * torch.randn_like(surfels.means), sh=0.6 * surfels.sh)
    noise = [torch.zeros(6, dtype=torch.float64)] + [turn * torch.randn(6, dtype=torch.float64) for _ in views[1:]]
    moved = [
        replace(view, cam_from_world=se3_exp(xi) @ view.cam_from_world) for view, xi in zip(views, noise, strict=True)
    ]
    return start, views, moved, matches


def _relative_deg(poses: dict[str, RigidTransform], views: list[View]) -> list[float]:
    first = views[0]
    out = []
    for view in views[1:]:
        found = (poses[view.name] @ poses[first.name].inverse()).rotation
        true = (view.cam_from_world @ first.cam_from_world.inverse()).rotation
        out.append(math.degrees(float(angle_between(found, true))))
    return out


def test_colours_come_back():
    start, views, _, matches = _problem()
    result = fit_surfels(start, views, matches, FitConfig(iterations=60, coarse=(1.0,), rate_sh=0.02, tolerance=0))
    psnr = result.curves.values["psnr"]
    assert psnr[-1] > psnr[0] + 2
    assert result.curves.steps[-1] == 60 and result.ended == "all steps done"
    assert all(values == values for values in result.surfels.means.flatten().tolist())


def test_cameras_come_back():
    start, views, moved, matches = _problem(turn=0.006)
    before = _relative_deg({v.name: v.cam_from_world for v in moved}, views)
    config = FitConfig(iterations=80, coarse=(1.0,), rate_poses=1e-3, correspondence=0.02, tolerance=0)
    after = _relative_deg(fit_surfels(start, moved, matches, config).poses, views)
    assert sum(after) < 0.6 * sum(before)
    still = fit_surfels(start, moved, matches, replace(config, refine_cameras=False, iterations=4))
    assert _relative_deg(still.poses, views) == pytest.approx(before, abs=1e-6)


def test_a_run_that_goes_on_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    start, views, _, matches = _problem()
    config = FitConfig(iterations=14, tolerance=0)
    whole = fit_surfels(start, views, matches, config, key="a")
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "fit.checkpoint"

    class Killed(Exception):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        if done == 9:
            raise Killed

    with pytest.raises(Killed):
        fit_surfels(start, views, matches, config, checkpoint=checkpoint, key="a", progress=kill)
    seen: list[int] = []
    resumed = fit_surfels(
        start, views, matches, config, checkpoint=checkpoint, key="a", progress=lambda s, done, t: seen.append(done)
    )
    assert seen[0] == 8  # the ninth step was done, but not yet on disk
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(whole.surfels, name), getattr(resumed.surfels, name)), name
    assert whole.curves.values["photometric"] == resumed.curves.values["photometric"]
    other = fit_surfels(
        start, views, matches, config, checkpoint=checkpoint, key="b", progress=lambda s, done, t: seen.append(done)
    )
    assert seen.count(0) == 1 and other.curves.steps[-1] == 14  # another key starts anew

    write_fit(tmp_path, whole)
    back = read_fit(tmp_path)
    assert torch.equal(back.surfels.sh, whole.surfels.sh) and back.ended == whole.ended
    assert torch.allclose(back.poses["1.png"].matrix(), whole.poses["1.png"].matrix(), atol=1e-12)


def test_masked_pixels_and_held_out_photos_teach_nothing():
    start, views, _, matches = _problem()
    config = FitConfig(iterations=8, coarse=(1.0,), exposure=False, ssim=0.0, correspondence=0.0)
    matches = matches.of_view(99)  # none
    mask = torch.ones_like(views[1].mask)
    mask[:, :20] = False
    changed = views[1].rgb.clone()
    changed[:, :, :20] = 1 - changed[:, :, :20]
    results = [
        fit_surfels(start, [views[0], replace(views[1], rgb=rgb, mask=mask)], matches, config, held_out=held)
        for rgb, held in ((views[1].rgb, []), (changed, [views[2]]))
    ]
    # The background is the mean colour under the masks, and nothing else may see the hidden half.
    assert torch.equal(results[0].surfels.sh, results[1].surfels.sh)
    held = results[1].curves.values["psnr_held_out"]
    assert math.isfinite(held[0]) and math.isnan(results[0].curves.values["psnr_held_out"][0])


def test_time_limit_and_scales(tmp_path):
    start, views, _, matches = _problem()
    result = fit_surfels(start, views, matches, FitConfig(iterations=500), max_time=0.01)
    assert result.ended.startswith("--max-time 0.01 s is over after 1 of 500")
    reference = fit_surfels(start, views, matches, FitConfig(iterations=8, tolerance=0))
    for unit in (1e-4, 1e5):
        small = replace(start, means=start.means * unit, scales=start.scales * unit)
        far = [
            replace(v, cam_from_world=RigidTransform(v.cam_from_world.rotation, v.cam_from_world.translation * unit))
            for v in views
        ]
        scaled = fit_surfels(small, far, matches, FitConfig(iterations=8, tolerance=0))
        torch.testing.assert_close(scaled.surfels.means / unit, reference.surfels.means, rtol=1e-3, atol=2e-3)


def test_every_view_once_a_round():
    for seed in (0, 5):
        rounds = [[view_of_step(step, 7, seed) for step in range(7 * r, 7 * r + 7)] for r in range(3)]
        assert all(sorted(order) == list(range(7)) for order in rounds)
        assert rounds[0] != rounds[1]


def test_relocation_splits_living_surfels():
    surfels = wall(4, 5)
    opacities = surfels.opacities.clone()
    opacities[::4] = 1e-4
    state = FitState.start(replace(surfels, opacities=opacities), 1, 0)
    adam = torch.optim.Adam(list(state.parameters.values()))
    alive = opacities > 0.5
    assert relocate_dead(state.parameters, adam, 0) == 5
    moved = state.surfels(0)
    assert bool((moved.opacities > 0.01).all())
    # A dead surfel takes color and size of a living one, and stays within a few sizes of it.
    distance = torch.cdist(moved.means[~alive], surfels.means[alive])
    nearest = distance.argmin(dim=1)
    assert float(distance.amin(dim=1).max()) < 0.12 * 4
    parents = [int(((moved.sh[k] - surfels.sh).abs().amax(dim=(1, 2)) < 1e-6).nonzero()[0]) for k in range(0, 20, 4)]
    assert all(bool(alive[p]) for p in parents) and len(nearest) == 5
    # What is split in n has the opacity that n of them together had.
    for p in set(parents):
        parts = 1 + parents.count(p)
        assert 1 - (1 - float(moved.opacities[p])) ** parts == pytest.approx(0.9, abs=1e-4)
    assert relocate_dead(state.parameters, adam, 0) == 0


def test_bad_input():
    start, views, _, matches = _problem()
    with pytest.raises(Vision3DError, match="no surfels to start from"):
        fit_surfels(start.select(torch.zeros(len(start), dtype=torch.bool)), views, matches, FitConfig())
    hidden = [replace(view, mask=torch.zeros_like(view.mask)) for view in views]
    with pytest.raises(Vision3DError, match="masks that hide everything"):
        fit_surfels(start, hidden, matches, FitConfig())
    with pytest.raises(ValueError, match="match views"):
        fit_surfels(start, views[:2], matches, FitConfig())
    for wrong in ({"iterations": 0}, {"coarse": ()}, {"coarse": (2.0,)}, {"sh_degree": 4}):
        with pytest.raises(UsageError):
            fit_surfels(start, views, matches, FitConfig(**wrong))
