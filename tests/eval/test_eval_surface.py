"""Distances between surfaces: closed forms, alignment, visible parts, depth maps, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from vision3d.cli.main import main
from vision3d.core import Mesh, RigidTransform, UsageError, Vision3DError
from vision3d.data.mesh_dataset import orbit, write_mesh_dataset
from vision3d.data.mesh_views import TexturedMesh
from vision3d.eval.surface import evaluate_surface
from vision3d.eval.surface_distance import Surface
from vision3d.eval.surface_report import report_surface
from vision3d.eval.surface_truth import visible_in
from vision3d.geometry.rotation import nearest_rotation
from vision3d.geometry.similarity import Similarity
from vision3d.io.cameras_json import KnownCamera, write_cameras_json
from vision3d.io.mesh import write_mesh_ply


def _sphere(radius: float, center: tuple[float, float, float] = (0, 0, 0), n: int = 4) -> Mesh:
    found = trimesh.creation.icosphere(subdivisions=n, radius=radius)
    return Mesh(torch.tensor(np.array(found.vertices) + center), torch.tensor(np.array(found.faces, np.int64)))


def _square(z: float, size: float = 1.0) -> Mesh:
    corners = [[-size, -size, z], [size, -size, z], [size, size, z], [-size, size, z]]
    return Mesh(torch.tensor(corners, dtype=torch.float64), torch.tensor([[0, 1, 2], [0, 2, 3]]))


def _moved(mesh: Mesh, scale: float, seed: int = 0) -> tuple[Mesh, Similarity]:
    generator = torch.Generator().manual_seed(seed)
    rotation = nearest_rotation(torch.eye(3).double() + 0.1 * torch.randn(3, 3, generator=generator).double())
    move = Similarity(torch.tensor(scale).double(), rotation, torch.tensor([0.1, -0.05, 0.08]).double() * scale)
    return Mesh(move.apply(mesh.vertices.double()), mesh.faces), move


def test_two_spheres() -> None:
    e = evaluate_surface(Surface(_sphere(1.1), 20_000, 0), Surface(_sphere(1.0), 20_000, 1), threshold=0.05)
    for distance in (e.accuracy, e.accuracy_median, e.completeness, e.completeness_median, e.chamfer):
        assert abs(distance - 0.1) < 0.002
    assert abs(e.diagonal - 2 * 3**0.5) < 0.01 and abs(e.chamfer_relative - e.chamfer / e.diagonal) < 1e-12
    assert e.precision == e.recall == e.f_score == 0 and e.normal_error_deg < 3 and e.normal_consistency > 0.998
    near = evaluate_surface(Surface(_sphere(1.1), 5000, 0), Surface(_sphere(1.0), 5000, 1), threshold=0.2)
    assert near.precision == near.recall == near.f_score == 1 and near.result_points == 5000


def test_shifted_planes_of_two_sizes() -> None:
    result, truth = Surface(_square(0.1, 1.0), 40_000, 0), Surface(_square(0.0, 2.0), 40_000, 1)
    e = evaluate_surface(result, truth, threshold=0.11)
    assert abs(e.accuracy - 0.1) < 1e-6 and e.precision == 1 and e.normal_error_deg < 1e-4
    # A quarter of the truth lies under the result; the rest is farther than sqrt(0.01 + d^2).
    assert abs(e.recall - (0.5 * (1 + 0.11**2 - 0.01)) ** 2) < 0.03
    x = np.linspace(-2, 2, 801)
    d = np.maximum(np.abs(x) - 1, 0)
    expected = np.sqrt(0.01 + d[:, None] ** 2 + d[None] ** 2).mean()
    assert abs(e.completeness - expected) < 0.01
    assert abs(e.f_score - 2 * e.recall / (1 + e.recall)) < 1e-12


def test_normals_of_crossing_planes() -> None:
    square = _square(0.0)
    tilted = Mesh(
        square.vertices @ torch.tensor([[1, 0, 0], [0, np.cos(0.5), np.sin(0.5)], [0, -np.sin(0.5), np.cos(0.5)]]),
        square.faces.flip(1),  # which way faces look does not count
    )
    e = evaluate_surface(Surface(tilted, 1000, 0), Surface(square, 1000, 1))
    assert abs(e.normal_error_deg - np.degrees(0.5)) < 1e-6 and abs(e.normal_consistency - np.cos(0.5)) < 1e-9


def test_closest_points_against_every_triangle() -> None:
    mesh = _sphere(1.0, n=1)
    points = np.random.default_rng(0).normal(size=(200, 3))
    found = Surface(mesh, 20_000, 0).closest(points)
    # trimesh's closest point on each of the 80 triangles
    triangles = mesh.vertices.numpy()[mesh.faces.numpy()]
    best = np.full(len(points), np.inf)
    for triangle in triangles:
        nearest = trimesh.triangles.closest_point(np.repeat(triangle[None], len(points), 0), points)
        best = np.minimum(best, np.linalg.norm(nearest - points, axis=1))
    assert np.abs(found.distance - best).max() < 1e-9
    assert np.allclose(np.linalg.norm(found.points - points, axis=1), found.distance)


def test_triangles_without_area_do_no_harm() -> None:
    square = _square(0.0)
    flat = Mesh(square.vertices, torch.cat([square.faces, torch.tensor([[0, 0, 1], [2, 2, 2]])]))
    e = evaluate_surface(Surface(flat, 1000, 0), Surface(square, 1000, 1))
    assert e.accuracy < 1e-12 and np.isfinite(e.normal_error_deg)
    with pytest.raises(ValueError, match="with an area"):
        Surface(Mesh(square.vertices, torch.tensor([[1, 1, 1]])), 100, 0)


def test_samples_are_even_and_seeded() -> None:
    mesh = trimesh.creation.box((1, 2, 3))
    vertices, faces = torch.tensor(np.array(mesh.vertices)), torch.tensor(np.array(mesh.faces, np.int64))
    a, b, c = (Surface(Mesh(vertices, faces), 2200, seed) for seed in (0, 0, 1))
    assert np.array_equal(a.samples.points, b.samples.points)
    assert not np.array_equal(a.samples.points, c.samples.points) and abs(a.area - 22) < 1e-9
    assert np.abs(np.bincount(a.samples.faces, minlength=12) - 100 * mesh.area_faces).max() <= 1
    size = np.abs(a.samples.points) / [0.5, 1, 1.5]
    assert np.allclose(size.max(1), 1) and size.min() >= 0


@pytest.fixture
def cow_like(tmp_path: Path) -> tuple[Path, Mesh]:
    """A folder with true cameras and depth, truth.ply, and a result moved with its cameras."""
    shape = trimesh.creation.icosphere(subdivisions=3)
    shape.vertices *= [1.0, 0.6, 0.5 + 0.2 * (np.array(shape.vertices[:, :1]) > 0).mean()]
    shape.vertices[:, 0] *= np.where(shape.vertices[:, 0] > 0, 1.4, 1.0)
    faces = torch.tensor(np.array(shape.faces, np.int64))
    truth = Mesh(torch.tensor(np.array(shape.vertices, np.float32)), faces)
    uv = torch.zeros(len(faces), 3, 2, dtype=torch.float64)
    textured = TexturedMesh(truth.vertices.double(), faces, uv, torch.full((3, 1, 1), 0.5))
    cameras = orbit(truth.vertices, 4, size=80, elevations_deg=(15.0,))
    write_mesh_dataset(tmp_path / "truth", textured, cameras, supersampling=1)
    write_mesh_ply(tmp_path / "truth.ply", truth)
    result, move = _moved(truth, 2.5)
    write_mesh_ply(tmp_path / "result" / "mesh.ply", result)
    known = {f"{i:03d}.jpg": KnownCamera(camera, move.move_pose(pose)) for i, (camera, pose) in enumerate(cameras)}
    write_cameras_json(tmp_path / "result" / "cameras.json", known)
    return tmp_path, truth


def test_alignment(cow_like: tuple[Path, Mesh]) -> None:
    folder, truth = cow_like
    options = {"truth_cameras": folder / "truth" / "cameras.json", "samples": 5000}
    plain = report_surface(folder / "result", folder / "truth.ply", samples=5000)
    by_cameras = report_surface(folder / "result", folder / "truth.ply", align="cameras", **options)
    assert plain.evaluation.chamfer_relative > 0.1 and "no alignment" in plain.protocol
    assert by_cameras.evaluation.chamfer_relative < 1e-4 and "from 4 cameras (scale 0.4)" in by_cameras.protocol
    # Slightly off, without cameras: closest points bring it back.
    off, _ = _moved(truth, 1.03, seed=3)
    write_mesh_ply(folder / "off.ply", off)
    before = report_surface(folder / "off.ply", folder / "truth.ply", samples=5000)
    after = report_surface(folder / "off.ply", folder / "truth.ply", align="icp", samples=5000)
    assert before.evaluation.chamfer_relative > 0.02 > 20 * after.evaluation.chamfer_relative
    assert "ICP" in after.protocol and "no alignment by cameras" in after.protocol
    with pytest.raises(UsageError, match="--align cameras"):
        report_surface(folder / "off.ply", folder / "truth.ply", align="cameras")


def test_truth_from_depth_maps(cow_like: tuple[Path, Mesh]) -> None:
    folder, _ = cow_like
    found = report_surface(folder / "truth.ply", folder / "truth", samples=5000)
    assert found.evaluation.chamfer_relative < 0.002 and "4 depth maps" in found.protocol
    np.save(folder / "truth" / "depth" / "000.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(Vision3DError, match="80x80 px"):
        report_surface(folder / "truth.ply", folder / "truth", samples=5000)


def test_only_what_cameras_see(cow_like: tuple[Path, Mesh]) -> None:
    folder, truth = cow_like
    camera, pose = orbit(truth.vertices, 1, size=80, elevations_deg=(0.0,))[0]
    surface = Surface(truth, 5000, 0)
    seen = visible_in(surface.samples.points, truth, [(camera, pose)])
    away = pose.center().numpy() - surface.samples.points
    facing = (surface.samples.normals * away).sum(1) / np.linalg.norm(away, axis=1)
    assert seen[facing > 0.15].all() and not seen[facing < -0.35].any()
    whole = report_surface(folder / "truth.ply", folder / "truth.ply", samples=5000)
    cameras = folder / "truth" / "cameras.json"
    part = report_surface(
        folder / "truth.ply", folder / "truth.ply", samples=5000, visible_only=True, truth_cameras=cameras
    )
    assert whole.evaluation.truth_points == 5000 and 3000 < part.evaluation.truth_points < 5000
    assert "that one of 4 true cameras sees" in part.protocol
    with pytest.raises(UsageError, match="--truth-cameras"):
        report_surface(folder / "truth.ply", folder / "truth.ply", visible_only=True)


def test_wrong_input(cow_like: tuple[Path, Mesh]) -> None:
    folder, _ = cow_like
    for result, truth, match in (
        (folder / "truth", folder / "truth.ply", "no mesh.ply"),
        (folder / "truth.ply", folder / "absent", "does not exist"),
        (folder / "truth.ply", folder / "result", "no folder `depth`"),
    ):
        with pytest.raises(UsageError, match=match):
            report_surface(result, truth)
    for options in ({"samples": 3}, {"threshold": -1.0}, {"threshold": float("nan")}):
        with pytest.raises(UsageError):
            report_surface(folder / "truth.ply", folder / "truth.ply", **options)


def test_the_command(cow_like: tuple[Path, Mesh], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = cow_like
    words = ["evaluate", "surface", str(folder / "truth.ply"), str(folder / "truth.ply"), "--samples", "2000"]
    assert main([*words, "--json", "--out", str(folder / "report.json")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["chamfer"] < 1e-4 and report["f_score"] == 1 and report["truth_points"] == 2000
    assert json.loads((folder / "report.json").read_text()) == report
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "chamfer" in out and "Protocol: truth is the mesh truth.ply" in out and "2000 points" in out
    assert main(["evaluate", "surface", str(folder / "none.ply"), str(folder / "truth.ply")]) == 1
    assert "none.ply" in capsys.readouterr().err


def test_frames_far_apart_are_named() -> None:
    with pytest.raises(Vision3DError, match="in one frame"):
        surface = Surface(_sphere(1.0, n=2), 100, 0)
        evaluate_surface(surface, surface, known=np.zeros(100, np.bool_))
    identity = RigidTransform.identity()
    assert not visible_in(np.array([[0.0, 0, -1]]), _square(1.0), [(orbit(torch.rand(9, 3), 1)[0][0], identity)]).any()
