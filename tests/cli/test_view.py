"""`vision3d view` without a browser: what is found, where it stands, ports, errors, and a clean end."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from view_folder import sphere_surfels, write_view_folder

from vision3d.cli.view import ViewConfig, run
from vision3d.core import Camera, PointCloud, RigidTransform, Surfels, UsageError, Vision3DError
from vision3d.geometry.rotation import quaternion_to_matrix, rotation_exp
from vision3d.io.colmap import write_colmap
from vision3d.io.mesh import write_mesh_glb
from vision3d.io.ply import write_ply
from vision3d.io.surfels_ply import write_surfels
from vision3d.view import display as display_module
from vision3d.view.contents import Contents, PosedPhoto, load_contents
from vision3d.view.display import RADIUS, Frustum, display_of, even_subset, point_at, splats
from vision3d.view.photo_panel import read_depth_file
from vision3d.view.server import Viewer, free_port
from vision3d.view.unlit_glb import unlit_glb

RUN = "import sys; from vision3d.config import parse; from vision3d.cli.view import ViewConfig, run; "
RUN += "sys.exit(run(parse(ViewConfig, sys.argv[1:])))"


def test_a_whole_folder(tmp_path: Path) -> None:
    scene = write_view_folder(tmp_path / "out")
    found = load_contents(tmp_path / "out")
    assert [p.name for p in found.photos] == list(scene.images) and found.left_out == ()
    assert found.cloud is not None and len(found.cloud.points) == 300
    assert found.surfels is not None and len(found.surfels) == 600
    assert found.mesh is not None and found.mesh.colors is not None and len(found.mesh.faces) == 1280
    # The rendered photo where there is one, else the one that the run was given.
    assert found.photos[0].photo_file == tmp_path / "out/renders/train/IMG_000_photo.png"
    assert found.photos[0].depth_file is not None and found.photos[0].depth_picture is not None
    assert found.photos[4].photo_file == tmp_path / "out-photos/IMG_004.jpg" and found.photos[4].depth_file is None


def test_parts_of_a_folder(tmp_path: Path) -> None:
    scene = write_view_folder(tmp_path / "out")
    poses = tmp_path / "poses"
    poses.mkdir()
    shutil.copy(tmp_path / "out/cameras.json", poses)
    found = load_contents(poses)
    assert len(found.photos) == 5 and found.photos[0].photo_file is None
    assert found.cloud is None and found.surfels is None and found.mesh is None
    write_colmap(tmp_path / "model/sparse", scene)
    found = load_contents(tmp_path / "model")
    assert len(found.photos) == 5 and found.cloud is not None and len(found.cloud.points) == 300
    for name in ("surfels.ply", "points.ply", "mesh.ply", "cameras.json"):
        found = load_contents(tmp_path / "out" / name)
        there = {"surfels.ply": found.surfels, "points.ply": found.cloud, "mesh.ply": found.mesh}
        assert [key for key, value in there.items() if value is not None] == [name] * (name != "cameras.json")
        with Viewer(found, port=19000) as viewer:
            assert (viewer.photos is None) == (name != "cameras.json")


def test_a_glb_stands_where_its_scene_does(tmp_path: Path) -> None:
    scene = write_view_folder(tmp_path / "out")
    mesh = load_contents(tmp_path / "out").mesh
    assert mesh is not None
    write_mesh_glb(tmp_path / "out/mesh.glb", mesh, scene)
    (tmp_path / "out/mesh.ply").unlink()
    turned = load_contents(tmp_path / "out").mesh
    assert turned is not None and torch.allclose(turned.vertices, mesh.vertices, atol=1e-5)


def test_subfolders_of_photos(tmp_path: Path) -> None:
    write_view_folder(tmp_path / "out")
    text = (tmp_path / "out/cameras.json").read_text().replace("IMG_000.jpg", "left/IMG.000.jpg")
    (tmp_path / "out/cameras.json").write_text(text)
    renders = tmp_path / "out/renders/heldout"
    renders.mkdir()
    shutil.copy(tmp_path / "out/renders/train/IMG_000_depth.npz", renders / "left_IMG.000_depth.npz")
    assert load_contents(tmp_path / "out").photos[0].depth_file == renders / "left_IMG.000_depth.npz"


def test_damaged_parts_are_left_out_and_named(tmp_path: Path) -> None:
    write_view_folder(tmp_path / "out")
    for name in ("surfels.ply", "mesh.ply", "run.json"):
        data = (tmp_path / "out" / name).read_bytes()
        (tmp_path / "out" / name).write_bytes(data[: len(data) // 2])
    found = load_contents(tmp_path / "out")
    assert found.surfels is None and found.mesh is None and found.cloud is not None
    assert len(found.left_out) == 2 and "surfels.ply is cut off" in found.left_out[0]
    with pytest.raises(Vision3DError, match="cut off"):
        load_contents(tmp_path / "out/surfels.ply")
    shutil.copy(tmp_path / "out/surfels.ply", tmp_path / "alone.ply")
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(tmp_path / "out/surfels.ply", only)
    with pytest.raises(Vision3DError, match=r"nothing in .* can be shown: .*cut off"):
        load_contents(only)


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds nothing to show"):
        load_contents(tmp_path)
    with pytest.raises(UsageError, match="there is no"):
        load_contents(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="can be shown"):
        load_contents(tmp_path / "notes.txt")
    write_ply(tmp_path / "empty.ply", PointCloud(torch.full((3, 3), float("nan"))))
    with pytest.raises(UsageError, match="no points"):
        load_contents(tmp_path / "empty.ply")
    write_surfels(tmp_path / "none.ply", sphere_surfels(1).select(torch.zeros(600, dtype=torch.bool)))
    with pytest.raises(UsageError, match="no surfels"):
        load_contents(tmp_path / "none.ply")
    (tmp_path / "cameras.json").write_text('{"images": {"a.jpg": {}}}')
    with pytest.raises(UsageError, match="no camera poses"):
        load_contents(tmp_path / "cameras.json")
    with pytest.raises(UsageError, match="--port 0"):
        run(ViewConfig(path=tmp_path, port=0))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_scenes_of_any_unit_fill_the_view(tmp_path: Path, scale: float) -> None:
    write_view_folder(tmp_path / "out", scale)
    found = load_contents(tmp_path / "out")
    shown = display_of(found)
    centers = torch.stack([p.cam_from_world.center() for p in found.photos])
    assert np.linalg.norm(shown.apply(centers), axis=1).max() == pytest.approx(RADIUS, rel=0.05)
    assert torch.allclose(shown.undo(torch.from_numpy(shown.apply(centers))), centers, rtol=1e-5, atol=1e-5 * scale)
    assert float(shown.up @ torch.tensor([0.0, -1, 0]).double()) > 0.95
    assert found.surfels is not None
    thin = splats(found.surfels, shown)
    half = thin.covariances.astype(np.float16)  # as it is sent
    eigenvalues = np.linalg.eigvalsh(half.astype(np.float64))
    size = (found.surfels.scales[0, 0] * shown.scale) ** 2
    assert np.allclose(eigenvalues[:, 1:], float(size), rtol=0.02) and eigenvalues[:, 0].max() < 0.02 * float(size)
    normal = quaternion_to_matrix(found.surfels.quats)[:, :, 2].numpy()
    assert np.allclose(np.einsum("nij,nj->ni", thin.covariances, normal), 0, atol=0.01 * float(size))
    assert np.allclose(thin.colors, [0.9, 0.1, 0.1], atol=1e-3)


def test_big_scenes_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = even_subset(1000, 100)
    assert int(keep.sum()) == 100 and bool((even_subset(1000, 100) == keep).all())
    assert bool(even_subset(10, 100).all())
    monkeypatch.setattr(display_module, "MAX_SURFELS", 50)
    surfels = sphere_surfels(1.0)
    opacities = torch.linspace(0, 1, 600)
    surfels = Surfels(surfels.means, surfels.quats, surfels.scales, opacities, surfels.sh)
    shown = splats(surfels, display_of(Contents("x", surfels=surfels)))
    assert len(shown.centers) == 50 and shown.opacities.min() >= float(opacities[-50])


def test_degenerate_scenes_have_a_place() -> None:
    point = Contents("x", cloud=PointCloud(torch.full((1, 3), 7.0)))
    assert display_of(point).scale == 1 and display_of(point).apply(torch.full((3,), 7.0)).tolist() == [0, 0, 0]
    alone = Contents("x", photos=(PosedPhoto("a", Camera(4, 3, (4, 4), (2, 1.5)), RigidTransform.identity()),))
    assert display_of(alone).frustum > 0


def test_clicks_on_a_photo_find_the_pixel_and_its_point() -> None:
    camera = Camera(800, 600, (700.0, 650.0), (400.0, 300.0))
    pose = RigidTransform(rotation_exp(torch.tensor([0.3, -0.2, 0.5]).double()), torch.tensor([1.0, 2, 3]).double())
    photo = PosedPhoto("a", camera, pose)
    shown = display_of(Contents("x", photos=(photo,), cloud=PointCloud(torch.randn(50, 3) * 5)))
    frustum = Frustum.of(photo, shown)
    world = point_at(photo, 0.25, 0.75, 6.0)
    pixel, front = camera.project(pose.apply(world[None]))
    assert bool(front[0]) and pixel[0].tolist() == pytest.approx([200, 450])
    # From the camera itself the ray to that point meets the picture where the point is seen, at any depth of it.
    ray = shown.apply(world).astype(np.float64) - frustum.position
    assert frustum.hit(frustum.position, ray, 0.7) == pytest.approx((0.25, 0.75), abs=1e-5)
    assert frustum.hit(frustum.position, ray + 3 * np.linalg.norm(ray) * shown.up.numpy(), 0.7) is None
    # From elsewhere too: aim at a point of the picture.
    corner = frustum.position + 0.7 / (frustum.forward @ ray) * ray
    eye = frustum.position - 2 * frustum.forward + 0.3
    assert frustum.hit(eye, corner - eye, 0.7) == pytest.approx((0.25, 0.75), abs=1e-5)


def test_depth_at_a_click(tmp_path: Path) -> None:
    write_view_folder(tmp_path / "out")
    depth = np.full((48, 64), 3.5, np.float32)
    depth[:24] = 0
    np.savez(tmp_path / "out/renders/train/IMG_001_depth.npz", depth=depth)
    (tmp_path / "out/renders/train/IMG_000_depth.npz").write_bytes(b"PK")
    with Viewer(load_contents(tmp_path / "out"), port=19100) as viewer:
        assert viewer.photos is not None
        assert "**depth 3.5** at (320, 432) px" in viewer.photos.read_depth(1, 0.5, 0.9)
        assert "nothing was reconstructed" in viewer.photos.read_depth(1, 0.5, 0.1)
        assert "holds no depth" in viewer.photos.read_depth(0, 0.5, 0.5)
        assert "no rendered depth" in viewer.photos.read_depth(4, 0.5, 0.5)
        (tmp_path / "out-photos/IMG_004.jpg").write_bytes(b"no photo")
        assert len(viewer.photos.load_pictures()) == 1  # it names the photo that cannot be read
        viewer.photos.choose(4)
        assert "IMG_004" in viewer.photos.text.content
    np.savez(tmp_path / "other.npz", depth=np.zeros(3))
    with pytest.raises(Vision3DError, match=r"shape is \(3,\)"):
        read_depth_file(tmp_path / "other.npz")


def test_colored_glb_is_read_by_others() -> None:
    ball = trimesh.creation.icosphere(1)
    colors = np.random.default_rng(0).uniform(size=(len(ball.vertices), 3))
    data = unlit_glb(np.asarray(ball.vertices, np.float32), ball.faces, colors)
    read = trimesh.load(trimesh.util.wrap_as_stream(data), file_type="glb", force="mesh", process=False)
    assert np.allclose(read.vertices, ball.vertices, atol=1e-6) and np.array_equal(read.faces, ball.faces)
    assert b"KHR_materials_unlit" in data and len(data) % 4 == 0


def test_ports(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 100
    with pytest.raises(Vision3DError, match="no host"):
        free_port("no-such-host.invalid", 8080)
    with pytest.raises(Vision3DError, match=r"cannot listen on 192\.0\.2\.1"):
        free_port("192.0.2.1", 8080)  # an address of nobody (RFC 5737)


def _heed_interrupts() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_serves_and_ends_on_signals(number: int, tmp_path: Path) -> None:
    write_view_folder(tmp_path / "out")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", RUN, str(tmp_path / "out"), "--port", str(port)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
            preexec_fn=_heed_interrupts,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            found = re.fullmatch(r"open (http://127\.0\.0\.1:(\d+)) in a browser; Ctrl-C ends it\n", line)
            assert found and int(found[2]) != port
            with urllib.request.urlopen(found[1], timeout=20) as answer:
                assert answer.status == 200 and b"<html" in answer.read()
        finally:
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "" and err == ""
