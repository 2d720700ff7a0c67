"""Surfels from posed views: on the surface, facing it, once per patch; bad input; a real pair with ground truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from textured_planes import render, ring_poses, scene_of

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks, UsageError, View, Vision3DError
from vision3d.eval import motorcycle
from vision3d.geometry.rotation import quaternion_to_matrix
from vision3d.recon.dense_init import DenseInit, DenseInitConfig, initialise_surfels
from vision3d.recon.stereo.completion import complete, push_pull
from vision3d.recon.stereo.consistency import without_specks
from vision3d.recon.stereo.neighbours import choose_neighbours
from vision3d.recon.stereo.point_patches import oriented_patches, sparse_patches
from vision3d.recon.stereo.sampling import Patches, without_obstacles

PLANE = (np.array([0.5, 0.2, -np.sqrt(1 - 0.29)]), -1.7)


def _finite(init: DenseInit) -> bool:
    s = init.surfels
    fields = (s.means, s.quats, s.scales, s.opacities, s.sh, init.confidence)
    return all(bool(torch.isfinite(f).all()) for f in fields) and bool((s.scales > 0).all())


@pytest.fixture(scope="module")
def plane_views() -> list[View]:
    return render([PLANE], ring_poses(3))[0]


@pytest.fixture(scope="module")
def plane_init(plane_views: list[View]) -> DenseInit:
    return initialise_surfels(plane_views, scene_of(plane_views), DenseInitConfig(target=1500))


def test_surfels_lie_on_the_plane_and_face_the_cameras(plane_views: list[View], plane_init: DenseInit) -> None:
    init, (n, d) = plane_init, PLANE
    assert _finite(init)
    sure = init.confidence >= 0.25
    assert 1200 < int(sure.sum()) < 1800
    distance = (init.surfels.means.double() @ torch.from_numpy(n) - d).abs()[sure]
    assert float(distance.median()) < 0.002
    assert float((distance < 0.02).double().mean()) > 0.98
    frame = quaternion_to_matrix(init.surfels.quats)
    toward = torch.stack([plane_views[int(v)].cam_from_world.center().float() for v in init.view]) - init.surfels.means
    assert bool(((frame[..., 2] * toward).sum(1) > 0).all())
    assert float((frame[sure][..., 2].double() @ torch.from_numpy(n)).abs().median()) > 0.998
    assert ((init.surfels.opacities[sure] >= 0.5) & (init.surfels.opacities[sure] <= 0.8)).all()


def test_surfels_are_sampled_once_and_close_the_surface(plane_views: list[View], plane_init: DenseInit) -> None:
    sure = plane_init.confidence >= 0.25
    view = plane_views[1]
    pixels, _ = view.camera.project(view.cam_from_world.apply(plane_init.surfels.means[sure].double()))
    inner = ((pixels > 20) & (pixels < torch.tensor([108, 76]))).all(dim=1)
    share = float((plane_init.view[sure][inner] == 1).double().mean())
    assert share > 0.9 or share < 0.1  # one view owns the middle, the others do not repeat it
    cell = (pixels[inner] / 8).floor().long().unique(dim=0)
    assert len(cell) >= 0.98 * 11 * 7
    z = view.cam_from_world.apply(plane_init.surfels.means[sure].double())[inner, 2]
    footprint = plane_init.surfels.scales[sure][inner].double() * view.camera.focal[0] / z[:, None]
    density = (88 * 56 / int(inner.sum())) ** 0.5  # px between surfels
    assert 0.4 * density < float(footprint[:, 1].median()) < 0.9 * density
    assert bool((footprint[:, 0] >= footprint[:, 1] - 1e-6).all())


def test_colours_are_those_of_the_photo(plane_views: list[View], plane_init: DenseInit) -> None:
    for index, view in enumerate(plane_views):
        mine = (plane_init.view == index) & (plane_init.confidence >= 0.25)
        pixels, _ = view.camera.project(view.cam_from_world.apply(plane_init.surfels.means[mine].double()))
        column, row = pixels.floor().long().unbind(1)
        color = 0.5 + 0.28209479177387814 * plane_init.surfels.sh[mine, 0]
        assert torch.allclose(color, view.rgb[:, row, column].T, atol=1e-5)


def test_fill_adds_surfels_of_low_confidence_only(plane_views: list[View], plane_init: DenseInit) -> None:
    bare = initialise_surfels(plane_views, scene_of(plane_views), DenseInitConfig(target=1500, fill=False))
    assert float(bare.confidence.min()) >= 0.25
    assert torch.equal(bare.surfels.means, plane_init.surfels.means[: len(bare.surfels)])
    assert bool((plane_init.confidence[len(bare.surfels) :] < 0.2).all())


def test_one_view_is_an_error(plane_views: list[View]) -> None:
    with pytest.raises(Vision3DError, match="at least two"):
        initialise_surfels(plane_views[:1], scene_of(plane_views), DenseInitConfig())


def test_unknown_matcher_is_an_error(plane_views: list[View]) -> None:
    with pytest.raises(UsageError, match="no-such"):
        initialise_surfels(plane_views, scene_of(plane_views), DenseInitConfig(source="no-such"))


def test_views_that_share_nothing_give_an_empty_result_with_a_reason(plane_views: list[View]) -> None:
    away = RigidTransform(torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)), torch.zeros(3).double())
    back = replace(plane_views[1], name="back", cam_from_world=away @ plane_views[1].cam_from_world)
    init = initialise_surfels([plane_views[0], back], scene_of(plane_views), DenseInitConfig())
    assert len(init.surfels) == 0
    assert "same part of the scene" in init.reason
    assert len(init.depth_maps) == 2


def test_no_baseline_and_hidden_views_give_an_empty_result(plane_views: list[View]) -> None:
    twins = [plane_views[0], replace(plane_views[0], name="twin")]
    assert "far enough apart" in initialise_surfels(twins, scene_of(twins), DenseInitConfig()).reason
    hidden = [replace(view, mask=torch.zeros_like(view.mask)) for view in plane_views]
    init = initialise_surfels(hidden, scene_of(hidden), DenseInitConfig())
    assert len(init.surfels) == 0
    assert "masks" in init.reason


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (20, 16)])
def test_tiny_photos_do_no_harm(size: tuple[int, int]) -> None:
    views = render([PLANE], ring_poses(2), size=size)[0]
    assert _finite(initialise_surfels(views, scene_of(views), DenseInitConfig()))


def test_flat_photos_give_nothing_rather_than_noise(plane_views: list[View]) -> None:
    flat = [replace(view, rgb=torch.full_like(view.rgb, 0.5)) for view in plane_views]
    init = initialise_surfels(flat, scene_of(flat), DenseInitConfig())
    assert len(init.surfels) == 0
    assert init.reason


@pytest.mark.parametrize("scale", [1e-4, 1e5])
def test_unit_of_the_scene_does_not_matter(plane_init: DenseInit, scale: float) -> None:
    views = render([PLANE], ring_poses(3), scale=scale)[0]
    init = initialise_surfels(views, scene_of(views), DenseInitConfig(target=1500))
    assert _finite(init)
    assert abs(len(init.surfels) - len(plane_init.surfels)) < 0.05 * len(plane_init.surfels)
    ratio = init.surfels.scales.median() / plane_init.surfels.scales.median() / scale
    assert float(ratio) == pytest.approx(1, abs=0.05)


def test_points_choose_neighbours_and_range() -> None:
    views = render([PLANE], ring_poses(5))[0]
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform((-0.4, -0.3, 1.8), (0.4, 0.3, 2.6), (40, 3)))
    # views 0 and 4 share all points; 1, 2, 3 see none of them
    tracks = Tracks(
        tuple(v.name for v in views),
        torch.arange(40).repeat(2),
        torch.tensor([0] * 40 + [4] * 40),
        torch.zeros(80, 2, dtype=torch.float64),
    )
    scene = replace(
        scene_of(views),
        points=points,
        colors=torch.zeros(40, 3, dtype=torch.uint8),
        errors=torch.zeros(40, dtype=torch.float64),
        tracks=tracks,
    )
    hood = choose_neighbours(views, scene, 1)
    assert hood.sources[0] == (4,)
    low, high = hood.inverse_depths[0]
    assert low < 1 / 2.8
    assert high > 1 / 1.7
    assert high / low < 10
    assert choose_neighbours(views, scene_of(views), 1).sources[0] in ((1,), (2,))


def test_specks_go_and_pieces_stay() -> None:
    depth = np.zeros((40, 40), np.float32)
    depth[5:25, 5:25] = 2.0
    depth[10:12, 10:12] = 1.0  # a speck within the piece
    depth[30, 30] = 2.0
    out = without_specks(depth, 10)
    assert (out[30, 30], out[10, 10], out[6, 6]) == (0, 0, 2)
    assert (without_specks(depth * 1e-30, 10) > 0).sum() == (out > 0).sum()


def test_push_pull_keeps_what_is_known_and_continues_it() -> None:
    rng = np.random.default_rng(0)
    value, weight = rng.uniform(2, 3, (13, 7)), (rng.uniform(size=(13, 7)) > 0.7).astype(float)
    out = push_pull(np.where(weight > 0, value, np.nan_to_num(0.0)), weight)
    assert np.array_equal(out[weight > 0], value[weight > 0])
    assert (out >= 2).all()
    assert (out <= 3).all()


def test_completion_fills_the_mask_and_nothing_else() -> None:
    view = render([PLANE], ring_poses(1), size=(20, 16))[0][0]
    view.mask[:4] = False
    kept = np.zeros((16, 20), np.float32)
    kept[8:, :10] = 2.0
    depth, normal = complete(view, None, kept)
    assert ((depth > 0) == (view.mask.numpy() & (kept == 0))).all()
    assert np.allclose(depth[depth > 0], 2.0)
    assert np.allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)


def test_normals_of_points_are_those_of_their_plane_and_lone_points_go() -> None:
    views = render([PLANE], ring_poses(2), size=(32, 24))[0]
    n, d = PLANE
    rng = np.random.default_rng(0)
    points = rng.uniform((-0.5, -0.5, 1.5), (0.5, 0.5, 2.5), (300, 3))
    points -= ((points @ n) - d)[:, None] * n
    lone = np.array([[0.0, 5.0, 9.0]])
    patches = oriented_patches(np.concatenate([points, lone]), np.zeros(301, np.int64), np.ones(301), views)
    assert 200 < len(patches) <= 300
    assert np.abs(patches.normals @ n).min() > 0.999
    center = views[0].cam_from_world.center().numpy()
    assert ((patches.normals * (center - patches.points)).sum(1) > 0).all()


def test_sparse_points_fill_where_no_patch_is_near() -> None:
    views = render([PLANE], ring_poses(2), size=(32, 24))[0]
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.5, 0.5, 12), np.linspace(-0.4, 0.4, 10)))
    points = np.stack([x, y, (PLANE[1] - x * PLANE[0][0] - y * PLANE[0][1]) / PLANE[0][2]], axis=1)
    count = len(points)
    tracks = Tracks(
        (views[0].name, "not loaded", views[1].name),
        torch.arange(count).repeat(2),
        torch.tensor([0] * count + [1] * count),
        torch.zeros(2 * count, 2, dtype=torch.float64),
    )
    scene = replace(
        scene_of(views),
        points=torch.from_numpy(points),
        colors=torch.zeros(count, 3, dtype=torch.uint8),
        errors=torch.zeros(count, dtype=torch.float64),
        tracks=tracks,
    )
    left = points[:, 0] < 0
    accepted = oriented_patches(points[left], np.zeros(int(left.sum()), np.int64), np.ones(int(left.sum())), views)
    patches = sparse_patches(scene, views, accepted)
    assert 0.5 * (~left).sum() < len(patches) <= (~left).sum()
    assert (patches.points[:, 0] > 0).all()
    assert (patches.confidence < 0.2).all()
    assert (patches.view == 0).all()
    every = oriented_patches(points, np.zeros(count, np.int64), np.ones(count), views)
    assert len(sparse_patches(scene, views, Patches.empty())) == len(every)
    assert len(sparse_patches(scene_of(views), views, accepted)) == 0


def test_obstacles_before_a_measured_surface_go() -> None:
    views, depths, _ = render([PLANE], ring_poses(3), size=(32, 24))
    center = views[1].cam_from_world.center().numpy()
    on_plane = np.array([[0.0, 0.0, PLANE[1] / PLANE[0][2]]])
    points = np.concatenate([on_plane, center + (on_plane - center) * 0.8, center + (on_plane - center) * 1.2])
    patches = Patches(
        points, np.tile(-PLANE[0], (3, 1)), np.full(3, 0.1), np.zeros((3, 3)), np.full(3, 0.3), np.zeros(3, np.int64)
    )
    kept = without_obstacles(patches, views, [d.astype(np.float32) for d in depths])
    assert np.array_equal(kept.points, points[[0, 2]])


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(UsageError, match="neighbours"):
        DenseInitConfig(neighbours=0)
    with pytest.raises(UsageError, match="target"):
        DenseInitConfig(target=0)


def test_matches_give_surfels(plane_views: list[View], monkeypatch: pytest.MonkeyPatch) -> None:
    """A matcher that knows the truth, with a tenth of its matches wrong."""
    from vision3d.core import Correspondences, Image
    from vision3d.recon import dense_init

    class Oracle:
        name, max_size = "oracle", 128

        @property
        def settings(self) -> dict[str, object]:
            return {"name": self.name}

        def match(self, image0: Image, image1: Image) -> Correspondences:
            view0, view1 = (next(v for v in plane_views if v.name == i.name) for i in (image0, image1))
            rng = np.random.default_rng(0)
            pixels = torch.from_numpy(rng.uniform((20, 5), (108, 90), (800, 2)))
            rays = torch.nn.functional.pad(view0.camera.unproject(pixels), (0, 1), value=1.0)
            direction, center = rays @ view0.cam_from_world.rotation, view0.cam_from_world.center()
            n, d = torch.from_numpy(PLANE[0]), PLANE[1]
            world = center + direction * ((d - center @ n) / (direction @ n))[:, None]
            there, _ = view1.camera.project(view1.cam_from_world.apply(world))
            there[::10] += torch.from_numpy(rng.uniform(10, 20, (80, 2)))
            return Correspondences(pixels.float(), there.float(), torch.ones(800))

    monkeypatch.setattr(dense_init, "make_matcher", lambda name: Oracle())
    init = initialise_surfels(plane_views, scene_of(plane_views), DenseInitConfig(source="oracle", fill=False))
    assert _finite(init)
    assert len(init.surfels) > 800
    n, d = PLANE
    distance = (init.surfels.means.double() @ torch.from_numpy(n) - d).abs()
    assert float((distance < 0.01).double().mean()) > 0.97
    assert any(bool((m.depth > 0).any()) for m in init.depth_maps)


def test_motorcycle_pair_against_its_disparity() -> None:
    data = pytest.importorskip("skimage.data")
    left, right, _ = data.stereo_motorcycle()
    step = 2  # half the size: a quarter of the work
    views = []
    for k, (photo, cx) in enumerate(((left, 0.0), (right, motorcycle.DOFFS))):
        height, width = (size // step for size in photo.shape[:2])
        rgb = torch.from_numpy(photo[: height * step, : width * step].astype(np.float32) / 255)
        rgb = rgb.reshape(height, step, width, step, 3).mean(dim=(1, 3)).permute(2, 0, 1).contiguous()
        center = ((motorcycle.CENTER_LEFT[0] + cx) / step, motorcycle.CENTER_LEFT[1] / step)
        camera = Camera(width, height, (motorcycle.FOCAL / step,) * 2, center)
        shift = torch.tensor([-k * motorcycle.BASELINE_M, 0, 0], dtype=torch.float64)
        pose = RigidTransform(torch.eye(3, dtype=torch.float64), shift)
        views.append(View(f"{k}.png", camera, pose, rgb, torch.ones(height, width, dtype=torch.bool)))
    cameras = {k: view.camera for k, view in enumerate(views)}
    images = {view.name: PosedImage(k, view.cam_from_world) for k, view in enumerate(views)}
    scene: Scene = replace(scene_of(views), cameras=cameras, images=images)
    init = initialise_surfels(views, scene, DenseInitConfig(target=8000))
    depth = init.depth_maps[0].depth.numpy()
    truth = motorcycle.disparity()[::step, ::step][: depth.shape[0], : depth.shape[1]]
    known = np.isfinite(truth)
    expected = motorcycle.BASELINE_M * motorcycle.FOCAL / (np.where(known, truth, 1) + motorcycle.DOFFS)
    relative = np.abs(depth / expected - 1)[known & (depth > 0)]
    assert (depth[known] > 0).mean() > 0.65
    assert np.median(relative) < 0.008
    assert _finite(init)
    assert 6000 < int((init.confidence > 0.2).sum()) < 10000
