"""What surfels and meshes add to the report: pictures of views, the slider's data, curves, the surface, files."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from report_html import NAMES, Checked, written
from report_scenes import arc_scene, ball_mesh, ball_surfels, flat, photo, rendered, report_data, some_curves

from vision3d.core import Camera, Mesh, Rendering, RigidTransform, View
from vision3d.recon.report import Curve, OptimisationCurves, ReportData, ResultFile, SurfaceFigures
from vision3d.recon.report.render_section import PICTURE_BYTES, chosen_views
from vision3d.recon.report.scene_view import view_of
from vision3d.recon.report.surface_view import clustered, mesh_state, surfel_state
from vision3d.recon.report.view_pictures import (
    UNKNOWN,
    depth_limits,
    depth_picture,
    error_picture,
    normal_picture,
    rendered_view,
    rgb_picture,
    with_legend,
)

NEAR_GREY = np.array(UNKNOWN)


def full(**changes: object) -> ReportData:
    """A report with everything that surfels and meshes add."""
    added = {
        "mesh": ball_mesh(),
        "surfels": ball_surfels(),
        "surface": SurfaceFigures(voxel_size=0.0125, notes={"fused views": "7"}),
        "renders": [rendered("IMG_000.jpg"), rendered("IMG_001.jpg", held_out=True, psnr=24.0, ssim=0.9)],
        "curves": some_curves(),
        "files": [ResultFile(path="mesh.ply", note="triangles", bytes=12_345_678)],
    }
    return replace(report_data(arc_scene(3), **added), **changes)


def state(folder, name: str) -> dict:
    html = (folder / "report.html").read_text(encoding="utf-8")
    return json.loads(re.search(rf'<script type="application/json" id="data-{name}">(.*?)</script>', html)[1])


def test_everything_is_on_the_page(tmp_path):
    page = written(full(), tmp_path)
    faces = len(ball_mesh().faces)
    for words in (
        f"surface of {faces:,} faces, PSNR 24.0 dB on 1 held-out photo",
        "500 surfels",
        "PSNR 24.00 dB , SSIM 0.900 on 1 photo held out",
        "PSNR 20.00 dB , SSIM 0.750 on 1 photo used",
        "0.0125 scene units",
        "fused views 7",
        "mesh.ply",
        "12.3 MB",
        "999 iterations in 100 s",
        "Cameras and surface",
        "log scale",
        "finer",
    ):
        assert words in page.text, words
    assert {"renders", "surface", "optimisation", "compare", "curves"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "./mesh.ply" in page.sources
    views = state(tmp_path, "renders")["views"]
    assert [set(v["pictures"]) for v in views] == [{"photo", "render", "depth", "normal", "error"}] * 2
    assert views[1]["pictures"]["photo"] == "" and views[1]["pictures"]["depth"].startswith("data:image/jpeg")
    assert state(tmp_path, "renders")["first"] == 1, "a held-out photo is shown first"
    assert state(tmp_path, "optimisation")["plots"][1]["lines"][0]["values"].count(None) > 200


def test_without_them_the_page_stays_as_it_was(tmp_path):
    page = written(report_data(arc_scene(3)), tmp_path)
    assert not {"renders", "surface", "optimisation", "compare"} & set(page.ids)
    assert "Cameras and points" in page.text and "surf" not in page.text.lower() and "PSNR" not in page.text
    assert state(tmp_path, "scene")["surface"] is None


def nothing() -> OptimisationCurves:
    return OptimisationCurves(iteration=np.arange(0), seconds=np.zeros(0), curves=())


@pytest.mark.parametrize(
    "changes",
    [
        {"renders": [rendered(psnr=float("nan"), ssim=None)]},
        {"renders": [rendered(photo=None)]},
        {"renders": [rendered(render=None, depth=None, normal=None, error=None)]},
        {"renders": [rendered(photo=None, render=None, depth=None, normal=None, error=None, psnr=None)]},
        {"renders": [rendered(depth_limits=None), rendered(normal=None, photo=np.zeros((0, 4, 3), np.uint8))]},
        {"renders": [rendered(depth=lambda: flat(1, 2, 3), error=lambda: (_ for _ in ()).throw(OSError("gone")))]},
        {"mesh": None, "surfels": None, "surface": None, "files": (), "renders": (), "curves": nothing()},
        {"mesh": Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))},
        {"mesh": Mesh(torch.full((3, 3), float("nan")), torch.tensor([[0, 1, 2]]))},
        {"mesh": Mesh(torch.zeros(3, 3), torch.tensor([[0, 0, 0]])), "surfels": ball_surfels(1)},
        {"surfels": replace(ball_surfels(5), opacities=torch.full((5,), float("nan")))},
        {"surfels": replace(ball_surfels(5), scales=torch.zeros(5, 2))},
        {"surfels": ball_surfels(0)},
        {"scene": None},
    ],
)
def test_missing_and_broken_pieces_cost_only_themselves(tmp_path, changes):
    page = written(full(**changes), tmp_path)
    assert "nan" not in page.text.lower().split("settings")[0]
    assert not re.search(r'"[^"]*\bNaN\b', (tmp_path / "report.html").read_text(encoding="utf-8").split("<script>")[0])


@pytest.mark.parametrize("values", [[np.nan], [0.0], [-1.0], [np.inf], [1e300], [1e-300, 5.0], [1.0, np.nan, 3.0]])
@pytest.mark.parametrize("log", [None, True, False])
def test_curves_of_anything(tmp_path, values, log):
    curve = Curve(name="<x>", plot="<y>", values=np.array(values), unit="&", log=log)
    steps = np.arange(len(values))
    curves = OptimisationCurves(iteration=steps, seconds=steps * np.nan, curves=[curve], marks=[(0, "<z>"), (9, "w")])
    written(full(curves=curves), tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    svg = re.findall(r'<svg viewBox="0 0 460 236".*?</svg>', html, re.DOTALL)
    assert len(svg) == int(0 < np.abs(np.nan_to_num(values, posinf=0))[-1] < 1e30 or values == [0.0])
    assert not any("nan" in s or "inf" in s or "<z>" in s for s in svg)


def test_curves_need_a_value_per_iteration():
    with pytest.raises(ValueError, match="'loss' has 2 values for 3"):
        curve = Curve(name="loss", plot="Loss", values=np.zeros(2))
        OptimisationCurves(iteration=np.arange(3), seconds=np.zeros(3), curves=[curve])


def test_names_cannot_become_markup(tmp_path):
    def page(names: list[str]) -> Checked:
        curves = [Curve(name=n, plot=n, values=np.ones(1), unit=n) for n in names]
        data = full(
            renders=[rendered(n) for n in names],
            curves=OptimisationCurves(iteration=np.arange(1), seconds=np.zeros(1), curves=curves),
            surface=SurfaceFigures(notes={n: n for n in names}),
            files=[ResultFile(path=n.replace("\udce9", ""), note=n) for n in names],
        )
        found = written(data, tmp_path)
        (tmp_path / "report.html").unlink()
        return found

    wild, tame = page(NAMES), page([f"n{i}" for i in range(len(NAMES))])
    for tag in ("script", "img", "a"):
        assert wild.tags.count(tag) == tame.tags.count(tag)
    assert "<script>alert(1)</script>.jpg" in wild.text


def test_pictures_keep_to_their_budget(tmp_path):
    noise = [photo(i, 400, 300) for i in range(4)]
    views = [
        rendered(f"{i}", photo=noise[0], render=noise[1], depth=noise[2], normal=noise[3], error=noise[0])
        for i in range(70)
    ]
    views[69] = replace(views[69], held_out=True)
    page = written(full(renders=views), tmp_path)
    assert "64 of 70 photos are shown" in page.text
    size = len((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert 0.3 * PICTURE_BYTES < size < PICTURE_BYTES + 1_500_000
    assert state(tmp_path, "renders")["views"][-1]["name"] == "69"


def test_views_are_chosen_evenly_and_held_out_ones_first():
    views = [rendered(f"{i}", held_out=i % 10 == 0) for i in range(40)]
    names = [int(v.name) for v in chosen_views(views, 14)]
    assert names == sorted(names) and len(names) == 14
    assert {0, 10, 20, 30} <= set(names)
    others = [n for n in names if n % 10]
    assert min(others) < 5 and max(others) > 33 and np.diff(others).max() <= 5
    assert [v.name for v in chosen_views(views, 2)] == ["0", "20"]


def test_depth_is_coloured_by_its_inverse_and_unknown_is_grey():
    depth = torch.tensor([[1.0, 4.0 / 2.5, 4.0, 0.0, float("nan"), -1.0, float("inf"), 100.0]])
    picture = depth_picture(depth, (1.0, 4.0))[0].astype(int)
    near, middle, far = picture[:3]
    assert near[0] > 100 and near[1:].max() < 30, "dark red"
    assert middle[1] > 200, "green half way in 1/depth"
    assert far[2] == far.max() and far[0] < 60
    assert (picture[3:7] == NEAR_GREY).all()
    assert (picture[7] == far).all()
    assert (depth_picture(depth, None) == NEAR_GREY).all()
    for scale in (1e-4, 1e5):
        assert np.abs(depth_picture(depth * scale, (scale, 4 * scale))[0].astype(int) - picture).max() <= 8


def test_depth_limits_are_robust():
    depth = torch.linspace(2, 3, 5000).reshape(50, 100)
    depth[0, :20] = torch.tensor([1e-9, 1e9]).repeat(10)
    depth[1] = float("nan")
    near, far = depth_limits([depth, torch.zeros(2, 2)])
    assert near == pytest.approx(2.04, abs=0.02) and far == pytest.approx(2.98, abs=0.02)
    assert depth_limits([torch.zeros(3, 3)]) is None


def test_normals_are_coloured_towards_the_viewer():
    normals = torch.tensor([[0, 0, -3.0], [1, 0, 0], [0, -1, 0], [0, 0, 0], [float("nan"), 0, 0]]).T[:, None]
    picture = normal_picture(normals)[0].astype(int)
    assert np.abs(picture[:3] - [[128, 128, 255], [255, 128, 128], [128, 255, 128]]).max() <= 1
    assert (picture[3:] == NEAR_GREY).all()
    assert (normal_picture(normals, torch.zeros(1, 5, dtype=torch.bool)) == NEAR_GREY).all()


def test_errors_have_a_fixed_scale():
    photo_, render = torch.zeros(3, 1, 4), torch.zeros(3, 1, 4)
    render[:, 0] = torch.tensor([0.0, 0.05, 0.25, float("nan")])
    picture = error_picture(photo_, render)[0].astype(int).sum(axis=1)
    assert picture[0] < 15 < picture[1] < picture[2] - 300 and picture[3] == NEAR_GREY.sum()


def test_a_view_and_its_rendering_become_pictures():
    camera, pose = Camera(4, 3, (5.0, 5.0), (2.0, 1.5)), RigidTransform.identity()
    rgb, one = torch.full((3, 3, 4), 0.5), torch.ones(3, 4)
    alpha = one.clone()
    alpha[0, 0] = 0.2
    normal = torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(3, 3, 4)
    view = View("a", camera, pose, rgb, torch.ones(3, 4, dtype=torch.bool))
    rendering = Rendering(rgb + 0.1, alpha, 2 * one, 2 * one, normal, 0 * one, 0 * one)
    shown = rendered_view(view, rendering, held_out=True, limits=(1.0, 2.0), psnr=20.0)
    assert shown.held_out and shown.depth_limits == (1.0, 2.0)
    assert (shown.photo == 128).all() and (shown.render == 153).all()
    for picture in (shown.depth, shown.normal):
        assert (picture[0, 0] == NEAR_GREY).all() and (picture[1, 1] != NEAR_GREY).any()
    small = replace(view, rgb=torch.zeros(3, 2, 2), mask=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="rendering of a is 4 x 3 px, the photo 2 x 2"):
        rendered_view(small, rendering, held_out=False, limits=None)
    assert (rgb_picture(torch.full((3, 1, 1), float("nan"))) == 0).all()
    assert with_legend(shown.depth, "depth", "1 m", "2 m").shape[1:] == (4, 3)
    assert with_legend(flat(0, 0, 0, 300, 20), "error", "0", "0.25").shape == (46, 300, 3)


def test_meshes_are_thinned_evenly():
    mesh = ball_mesh(90)
    vertices, faces, colors = clustered(mesh.vertices.numpy(), mesh.faces.numpy(), mesh.colors.numpy(), 3000)
    assert 1200 < len(faces) <= 3000 and len(colors) == len(vertices)
    assert np.abs(np.linalg.norm(vertices, axis=1) - 0.6).max() < 0.05
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(axis=1)).sum(axis=1) > 0).mean() > 0.98, "the outside stays outside"
    assert np.linalg.norm(normals, axis=1).sum() / 2 == pytest.approx(4 * np.pi * 0.36, rel=0.05)
    line = np.linspace(0, 1, 300)[:, None].repeat(3, axis=1)
    assert len(clustered(line, np.arange(300).reshape(100, 3), line, 5)[1]) <= 5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_the_surface_is_packed_in_the_frame_of_the_view(scale):
    scene = arc_scene(5, 400, scale)
    view = view_of(scene)
    mesh, surfels = ball_mesh(12), ball_surfels(300)
    mesh = replace(mesh, vertices=mesh.vertices * scale)
    mesh.vertices[0] = 1e6 * scale  # far away: dropped with its faces
    packed, faces = mesh_state(view, mesh)
    points = _points(packed, "vertices")
    assert faces < len(mesh.faces) and np.abs(points).max() < 3
    expected = view.of_world(mesh.vertices.double().numpy())
    nearest = np.linalg.norm(points[:, None] - expected[None], axis=2).min(axis=1)
    assert nearest.max() < 1e-4
    surfels = replace(surfels, means=surfels.means * scale, scales=surfels.scales * scale)
    packed, count = surfel_state(view, surfels, 100)
    assert count == 100 and packed["longest"] == pytest.approx(0.08 * scale * view.scale * 1.482 * 3**0.5, rel=1e-2)
    tangents = np.frombuffer(base64.b64decode(packed["tangents"]), np.int8).reshape(-1, 2, 3) / 127
    normals = np.cross(tangents[:, 0], tangents[:, 1])
    middle = view.of_world(np.zeros((1, 3)))
    outwards = _points(packed, "means") - middle
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    assert ((normals * outwards).sum(axis=1) > 0.95).all()


def _points(packed: dict, key: str) -> np.ndarray:
    raw = np.frombuffer(base64.b64decode(packed[key]), np.uint16).reshape(-1, 3)
    return np.array(packed["low"]) + np.array(packed["span"]) * raw / 65_535


def test_small_videos_are_in_the_page_and_large_ones_beside_it(tmp_path):
    small, large, gone = tmp_path / "orbit.mp4", tmp_path / "a b.mp4", tmp_path / "gone.mp4"
    small.write_bytes(b"x" * 999)
    large.write_bytes(b"x" * 3_500_000)
    folder = tmp_path / "out"
    folder.mkdir()
    page = written(full(orbit=small), folder)
    assert any(s.startswith("data:video/mp4;base64,eHh4") for s in page.sources) and "./orbit.mp4" in page.sources
    assert page.sources.count("./orbit.mp4") == 1
    (folder / "report.html").unlink()
    assert written(full(orbit=large), folder).sources.count("./a%20b.mp4") == 2
    (folder / "report.html").unlink()
    assert "video" not in written(full(orbit=gone), folder).tags
