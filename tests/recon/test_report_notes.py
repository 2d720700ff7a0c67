"""What the report points out: photos that hang on few points, sizes in the curves, terms that count."""

from dataclasses import replace

from report_html import written
from report_scenes import arc_scene, report_data

from vision3d.core import Tracks
from vision3d.recon.fit_config import FitCurves
from vision3d.recon.report.statistics import weakly_tied
from vision3d.recon.surface_report import size_marks


def test_a_weakly_tied_photo_is_pointed_out(tmp_path):
    scene = arc_scene(5, 400)
    assert weakly_tied(scene) == {}
    tracks = scene.tracks
    keep = (tracks.image != 2) | (tracks.point < 12)
    thin = replace(scene, tracks=Tracks(tracks.images, tracks.point[keep], tracks.image[keep], tracks.xy[keep]))
    assert weakly_tied(thin) == {"IMG_002.jpg": 12}
    assert "weakly tied" in written(report_data(thin), tmp_path).text
    by_outlines = replace(report_data(thin), held_by_points=False)
    assert "weakly tied" not in written(by_outlines, tmp_path).text


def test_a_change_of_size_is_marked():
    curves = FitCurves()
    for step, size in ((10, 192.0), (20, 192.0), (30, 384.0)):
        curves.add(step, float(step), {"longer_side_px": size})
    assert size_marks(curves) == [(0, "192 px"), (20, "384 px")]
    assert size_marks(FitCurves([1], [0.1], {"longer_side_px": [384.0]})) == []


def test_no_switch_for_photos_left_out_where_none_is(tmp_path):
    page = written(report_data(arc_scene(14, 40)), tmp_path).text
    assert "Photo" in page and "left out" not in page
