"""What the report computes about a scene: view frame, start view, still picture, statistics, histograms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from report_scenes import arc_scene, photo

from vision3d.core import Tracks
from vision3d.recon.report import draw_overview, write_overview
from vision3d.recon.report.plots import histogram
from vision3d.recon.report.scene_view import FIELD_OF_VIEW, fit, turn, view_of
from vision3d.recon.report.statistics import photo_statistics, track_lengths, triangulation_angles_deg


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_the_view_frame_is_upright_centred_and_of_size_one(scale):
    scene = arc_scene(9, 2000, scale)
    view = view_of(scene)
    assert np.allclose(np.median(view.points, axis=0), 0, atol=5e-3)
    assert 0.8 < np.percentile(np.linalg.norm(view.points, axis=1), 90) < 1.3
    # The world of the scene has y down and cameras at -z: in the view y is up and cameras come towards the viewer.
    assert np.allclose(view.axes, np.diag([1, -1, -1]), atol=0.15)
    assert all(frustum.center[2] > 1 for frustum in view.frustums)
    top_left, _, bottom_right, _ = view.frustums[4].corners
    assert top_left[0] < bottom_right[0] and top_left[1] > bottom_right[1]
    assert view.floor < -0.5


def test_outliers_do_not_change_the_view():
    scene = arc_scene(5, 1000)
    before = view_of(scene)
    scene.points[:10] = torch.tensor([1e6, -1e6, 1e6])
    scene.points[10:14] = float("nan")
    after = view_of(scene)
    assert len(after.points) == 996
    assert np.allclose(before.frustums[0].center, after.frustums[0].center, rtol=0.1)
    distances = [fit(v.framing, v.near, v.yaw, v.pitch, 1.6)[0] for v in (before, after)]
    assert distances[0] == pytest.approx(distances[1], rel=0.1)


def test_cameras_all_around_are_seen_upright():
    view = view_of(arc_scene(12, 500, degrees=330))
    assert view.axes[1] @ [0, 1, 0] < -0.9
    assert np.allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-9)


def test_points_are_thinned_evenly_and_always_alike():
    scene = arc_scene(2, 5000)
    view, again = view_of(scene, 1000), view_of(scene, 1000)
    assert len(view.points) == len(view.colors) == 1000
    assert (view.points == again.points).all()


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_the_start_view_shows_all_of_the_framing(aspect):
    framing = np.random.default_rng(0).normal(size=(50, 3)) * (1, 2, 0.5)
    distance, x, y = fit(framing, 0.2, 0.4, -0.2, aspect)
    seen = framing @ turn(0.4, -0.2).T - (x, y, distance)
    slopes = np.abs(seen[:, :2]) / -seen[:, 2:] / math.tan(FIELD_OF_VIEW / 2) / (aspect, 1)
    assert (seen[:, 2] < -0.19).all()
    assert 0.85 < slopes.max() < 1


@pytest.mark.parametrize("covered", [0.1, 0.3])
def test_the_start_view_keeps_free_what_the_tool_bar_covers(covered):
    framing = np.random.default_rng(1).normal(size=(50, 3)) * (0.5, 2, 0.5)
    distance, x, y = fit(framing, 0.2, 0.4, 0.3, 1.6, covered)
    seen = framing @ turn(0.4, 0.3).T - (x, y, distance)
    height = seen[:, 1] / -seen[:, 2] / math.tan(FIELD_OF_VIEW / 2)
    assert height.min() >= -1 + 2 * covered + 0.05 and height.max() == pytest.approx(0.94)
    assert height.min() == pytest.approx(-0.94 + 2 * covered)


def test_the_still_picture_shows_points_and_cameras(tmp_path):
    scene = arc_scene(5, 500)
    scene.colors[:] = torch.tensor([0, 255, 0], dtype=torch.uint8)
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 255
    picture = draw_overview(scene, (320, 200), dict.fromkeys(scene.images, red)).astype(int)
    assert picture.shape == (200, 320, 3)
    green = (picture[..., 1] > 120) & (picture[..., 0] < 60)
    assert green.sum() > 300
    assert ((picture[..., 0] > 150) & (picture[..., 1] < 60)).sum() > 100
    write_overview(scene, tmp_path / "overview.png", (320, 200))
    assert Image.open(tmp_path / "overview.png").size == (320, 200)


@pytest.mark.parametrize(("photos", "points"), [(0, 0), (1, 0), (0, 5), (1, 1), (2, 3)])
def test_scenes_with_next_to_nothing_are_drawn(photos, points):
    picture = draw_overview(arc_scene(photos, points), (64, 48), {"IMG_000.jpg": photo(0, 1, 1)})
    assert picture.shape == (48, 64, 3)


def test_a_picture_without_size_is_refused():
    with pytest.raises(ValueError, match="positive size"):
        draw_overview(arc_scene(1, 1), (0, 10))


def test_statistics_per_photo():
    scene = arc_scene(3, 50)
    shifted = replace(scene, tracks=replace(scene.tracks, xy=scene.tracks.xy + torch.tensor([3.0, 4.0])))
    assert photo_statistics(shifted) == {name: (50, pytest.approx(5.0)) for name in scene.images}
    assert track_lengths(scene).tolist() == [3] * 50
    empty = replace(scene, tracks=Tracks.empty())
    assert photo_statistics(empty) == {} and len(track_lengths(empty)) == 0
    assert len(triangulation_angles_deg(empty)) == 0


def test_triangulation_angle_is_the_largest_between_rays():
    scene = arc_scene(3, 20, degrees=60)
    scene.points[:] = 0
    offset, radius = 0.5, 4.0  # the cameras stand 0.5 above the plane of the arc
    chord = 2 * radius * math.sin(math.radians(30))
    expected = math.degrees(2 * math.asin(chord / 2 / math.hypot(radius, offset)))
    assert triangulation_angles_deg(scene) == pytest.approx(np.full(20, expected))
    assert len(triangulation_angles_deg(scene, limit=7)) == 7


@pytest.mark.parametrize("values", [[0.0], [1e-9, 1e9], [5, 5, 5], [float("nan")], [], [-1.0, 2.0], np.arange(1000)])
@pytest.mark.parametrize("integer", [True, False])
def test_histograms_of_anything(values, integer):
    svg = histogram(np.asarray(values, np.float64), "Errors <&>", "px", integer=integer)
    assert "Errors &lt;&amp;&gt;" in svg
    assert "nan" not in svg.lower() and "inf" not in svg.lower()
