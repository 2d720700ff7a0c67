"""Dense warps of a matcher become depth maps and surfels: exact warps give the true surface, wrong ones nothing."""

import numpy as np
import pytest
import torch
from textured_planes import render, ring_poses, scene_of

from vision3d.core import Correspondences, Image, UsageError, View, Warp
from vision3d.matching.base import DenseMatcher
from vision3d.recon import dense_init
from vision3d.recon.dense_init import DenseInitConfig, initialise_surfels
from vision3d.recon.stereo.warped import triangulate_warp, warped_planes

NEAR = (np.array([0.0, 0.0, -1.0]), -1.6)  # ends at x = 0.1
FAR = (np.array([0.3, 0.2, -np.sqrt(0.87)]), -2.2)


class TrueWarps:
    """Knows the planes: where each pixel of a grid lies in the other view, certain where it is seen there.

    wrong: share of the pixels that are sent elsewhere with the same certainty.
    """

    name, max_size = "true warps", 128

    def __init__(self, planes, views: list[View], grid: tuple[int, int], wrong: float = 0.0) -> None:
        self.planes, self.views, self.grid, self.wrong = planes, views, grid, wrong
        self.calls: list[tuple[str, str]] = []

    @property
    def settings(self) -> dict[str, object]:
        return {"name": self.name}

    def match(self, image0: Image, image1: Image) -> Correspondences:
        raise AssertionError("a matcher that has warps is not asked for matches")

    def warp(self, image0: Image, image1: Image) -> tuple[Warp, Warp]:
        self.calls.append((image0.name, image1.name))
        first, second = (next(v for v in self.views if v.name == i.name) for i in (image0, image1))
        return self._one(first, second), self._one(second, first)

    def _one(self, view: View, other: View) -> Warp:
        width, height = self.grid
        scale = (view.camera.width / width, view.camera.height / height)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        pixels = torch.stack([x * scale[0], y * scale[1]], -1).double()
        world, _ = self._hit(view, pixels)
        target, front = other.camera.project(other.cam_from_world.apply(world))
        seen, _ = self._hit(other, target)
        visible = front & ((seen - world).norm(dim=-1) < 0.01)
        inside = (target > 0).all(-1) & (target[..., 0] < other.camera.width) & (target[..., 1] < other.camera.height)
        rng = np.random.default_rng(0)
        bad = torch.from_numpy(rng.random((height, width)) < self.wrong)
        target[bad] += torch.from_numpy(rng.uniform(-15, 15, (int(bad.sum()), 2)))
        target /= target.new_tensor(scale)  # both views have one size
        return Warp(target.float(), 0.9 * (visible & inside).float(), (scale, scale))

    def _hit(self, view: View, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest plane's point on each ray, and its distance."""
        ray = torch.nn.functional.pad(view.camera.unproject(pixels), (0, 1), value=1.0)
        direction, center = ray @ view.cam_from_world.rotation, view.cam_from_world.center()
        best = torch.full(pixels.shape[:-1], torch.inf, dtype=torch.float64)
        for number, (n, d) in enumerate(self.planes):
            normal = torch.from_numpy(n)
            z = (d - center @ normal) / (direction @ normal)
            x = (center + direction * z[..., None])[..., 0]
            take = (z > 0) & (z < best) & ((x < 0.1) | (number == len(self.planes) - 1))
            best = torch.where(take, z, best)
        return center + direction * best[..., None], best


def test_exact_warps_give_the_true_depth_at_any_grid() -> None:
    views, depths, normals = render([FAR], ring_poses(3))
    matcher = TrueWarps([FAR], views, (96, 80))
    assert isinstance(matcher, DenseMatcher)
    maps = warped_planes(views, [(1, 2), (0, 2), (1,)], matcher)
    assert matcher.calls == [("0.png", "1.png"), ("0.png", "2.png"), ("1.png", "2.png")]
    for found, depth, normal in zip(maps, depths, normals, strict=True):
        known = found.depth > 0
        assert known.mean() > 0.75
        np.testing.assert_allclose(found.depth[known], depth[known], rtol=2e-3)
        inner = known & np.roll(known, 2, 0) & np.roll(known, -2, 0) & np.roll(known, 2, 1) & np.roll(known, -2, 1)
        assert np.median(np.abs((found.normal * normal).sum(-1)[inner])) > 0.999
        np.testing.assert_allclose(found.cost[inner], 0.1, atol=1e-6)
        assert (found.cost[~known] == np.float32(1.2)).all()


def test_what_cannot_be_a_point_has_no_depth() -> None:
    views = render([FAR], ring_poses(2))[0]
    truth = TrueWarps([FAR], views, (128, 96))._one(views[0], views[1])
    right = triangulate_warp(views[0], views[1], truth).depth > 0
    off = Warp(truth.target + torch.tensor([0.0, 5.0]), truth.certainty)  # across the epipolar lines
    unsure = Warp(truth.target, truth.certainty * 0.01)
    behind = Warp(truth.target + torch.tensor([200.0, 0.0]), truth.certainty)
    same = Warp(TrueWarps([FAR], views, (128, 96))._one(views[0], views[0]).target, truth.certainty)
    assert right.double().mean() > 0.7
    for warp in (off, unsure, behind):
        assert not bool((triangulate_warp(views[0], views[1], warp).depth > 0).any())
    assert not bool((triangulate_warp(views[0], views[0], same).depth > 0).any())  # no baseline


@pytest.mark.parametrize("wrong", [0.0, 0.2])
def test_warps_give_surfels_where_the_truth_is(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    planes = [NEAR, FAR]
    views = render(planes, ring_poses(3))[0]
    monkeypatch.setattr(dense_init, "make_matcher", lambda name: TrueWarps(planes, views, (128, 96), wrong))
    init = initialise_surfels(views, scene_of(views), DenseInitConfig(source="dkm", target=1500, fill=False))
    points = init.surfels.means.double()
    assert len(points) > 700
    away = torch.stack([(points @ torch.from_numpy(n) - d).abs() for n, d in planes]).amin(0)
    assert float((away < 0.01).double().mean()) > 0.99
    on = [((points @ torch.from_numpy(n) - d).abs() < 0.01).double().mean().item() for n, d in planes]
    assert min(on) > 0.2  # both planes are there
    assert bool(torch.isfinite(init.surfels.sh).all())
    assert float(init.confidence.min()) >= 0.25
    assert any(bool((m.depth > 0).any()) for m in init.depth_maps)


def test_weights_are_of_a_matcher() -> None:
    with pytest.raises(UsageError, match="patchmatch takes none"):
        DenseInitConfig(weights="w.pth")
    views = render([FAR], ring_poses(2), size=(32, 24))[0]
    with pytest.raises(UsageError, match="does not exist"):
        initialise_surfels(views, scene_of(views), DenseInitConfig(source="dkm", weights="nowhere.pth"))
    with pytest.raises(UsageError, match="belongs to one of"):
        initialise_surfels(views, scene_of(views), DenseInitConfig(source="sift", weights="nowhere.pth"))
