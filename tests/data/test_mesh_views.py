"""Rendered meshes: depth, normals, texture and masks in closed form; cameras around an object; the dataset on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from vision3d.core import Camera, RigidTransform, Vision3DError
from vision3d.data.mesh_dataset import look_at, orbit, write_mesh_dataset
from vision3d.data.mesh_raster import first_hits
from vision3d.data.mesh_views import TexturedMesh, read_textured_mesh, render_mesh
from vision3d.data.scenes import read_scene

CAMERA = Camera(61, 47, (50.0, 55.0), (30.2, 22.9))


def _plain(mesh: trimesh.Trimesh) -> TexturedMesh:
    faces = torch.from_numpy(np.array(mesh.faces, np.int64))
    uv = torch.zeros(len(faces), 3, 2, dtype=torch.float64)
    return TexturedMesh(torch.from_numpy(np.array(mesh.vertices)), faces, uv, torch.full((3, 1, 1), 0.25))


def _square(texture: torch.Tensor) -> TexturedMesh:
    """2 x 2 in the plane z = 0, u along x, v along y, texture as a picture with its first row at y = +1."""
    vertices = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return TexturedMesh(vertices, faces, (vertices[:, :2] / 2 + 0.5)[faces], texture)


def _from(z: float) -> RigidTransform:
    """Looks along -z of the world from (0, 0, z), x to the right and y up in the picture."""
    return RigidTransform(torch.diag(torch.tensor([1.0, -1, -1]).double()), torch.tensor([0.0, 0, z]).double())


def test_a_tilted_plane() -> None:
    pose = look_at(*(torch.tensor(v).double() for v in ([0.5, 0.3, 1.0], [0.1, 0.0, 0.0], [0.0, 1.0, 0.0])))
    view = render_mesh(_square(torch.full((3, 1, 1), 0.25)), CAMERA, pose)
    y, x = torch.nonzero(view.mask, as_tuple=True)
    z = view.depth[view.mask].double()[:, None]
    rays = CAMERA.unproject(torch.stack([x + 0.5, y + 0.5], dim=1).double())
    points = pose.inverse().apply(torch.cat([rays * z, z], dim=1))
    assert len(x) > 1000 and float(points[:, 2].abs().max()) < 1e-6 and float(points[:, :2].abs().max()) < 1
    # No crack along the diagonal: what should be hit is.
    every = torch.stack(torch.meshgrid(torch.arange(61.0), torch.arange(47.0), indexing="xy"), -1).reshape(-1, 2) + 0.5
    origin, ray = pose.center(), torch.cat([CAMERA.unproject(every.double()), torch.ones(len(every), 1)], 1)
    ray = ray @ pose.rotation
    t = -origin[2] / ray[:, 2]
    inside = ((origin + t[:, None] * ray)[:, :2].abs() < 1).all(1) & (t > 0)
    assert torch.equal(inside.reshape(47, 61), view.mask)
    normal = view.normal[:, view.mask].T.double() @ pose.rotation
    assert torch.allclose(normal, torch.tensor([0.0, 0, 1]).double().expand_as(normal), atol=1e-6)
    assert torch.allclose(view.rgb[:, view.mask][:, :5], torch.tensor(0.25))


def test_depth_agrees_with_ray_casting_by_another_library() -> None:
    mesh = trimesh.creation.torus(1.0, 0.4, major_sections=20, minor_sections=12)
    pose = look_at(*(torch.tensor(v).double() for v in ([1.5, 2.0, 1.7], [0.0, 0.1, 0.0], [0.0, 0.0, 1.0])))
    view = render_mesh(_plain(mesh), CAMERA, pose, supersampling=1)
    every = torch.stack(torch.meshgrid(torch.arange(61.0), torch.arange(47.0), indexing="xy"), -1).reshape(-1, 2) + 0.5
    rays = torch.cat([CAMERA.unproject(every.double()), torch.ones(len(every), 1)], 1)
    pixels = np.arange(0, len(every), 7)
    # Moller and Trumbore, Journal of Graphics Tools 1997, over all triangles
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    for i in pixels:
        d, o = (rays[i] @ pose.rotation).numpy(), pose.center().numpy()
        p = np.cross(d, c - a)
        det = ((b - a) * p).sum(1)
        s, q = o - a, np.cross(o - a, b - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v, t = (s * p).sum(1) / det, (q * d).sum(1) / det, (q * (c - a)).sum(1) / det
        hits = t[(u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)]
        expected = hits.min() if len(hits) else 0.0
        assert abs(float(view.depth.reshape(-1)[i]) - expected) < 1e-5


def test_the_camera_may_stand_inside() -> None:
    box = _plain(trimesh.creation.box((4, 4, 4)))
    view = render_mesh(box, CAMERA, _from(0.5), supersampling=1)
    assert bool(view.mask.all()) and abs(float(view.depth[23, 30]) - 2.5) < 1e-6
    assert float((view.normal[2] * view.depth).max()) <= 0  # towards the camera
    behind = render_mesh(box, CAMERA, _from(-3.0), supersampling=1)
    assert not behind.mask.any() and torch.equal(behind.rgb, torch.full((3, 47, 61), 0.5))


def test_texture_lies_upright_and_is_bilinear() -> None:
    texture = torch.zeros(3, 4, 4)
    texture[0, 0], texture[1, :, 3], texture[2] = 1.0, 1.0, torch.linspace(0, 1, 4)[None].expand(4, 4)
    # The square fills 48 x 48 px: a texel is 12 px wide.
    camera = Camera(48, 48, (48.0, 48.0), (24.0, 24.0))
    view = render_mesh(_square(texture), camera, _from(2.0), supersampling=1)
    assert bool(view.mask.all())
    rows, columns = view.rgb[0].mean(1), view.rgb[1].mean(0)
    assert float(rows[5]) > 0.95 and float(rows[20:40].max()) == 0
    assert float(columns[42]) > 0.95 and float(columns[10:30].max()) == 0
    expected = (torch.arange(6, 42) + 0.5 - 6) / 12 / 3  # between the centres of the first and last texel
    assert torch.allclose(view.rgb[2, 20, 6:42], expected, atol=1e-5)


def test_supersampling_smooths_the_outline_only() -> None:
    mesh, camera = _square(torch.full((3, 1, 1), 1.0)), Camera(48, 48, (48.0, 48.0), (24.0, 24.0))
    plain = render_mesh(mesh, camera, _from(4.1), supersampling=1, background=(0, 0, 0))
    smooth = render_mesh(mesh, camera, _from(4.1), supersampling=5, background=(0, 0, 0))
    assert torch.equal(plain.mask, smooth.mask) and torch.allclose(plain.depth, smooth.depth)
    covered = (2 * 48 / 4.1) ** 2
    assert abs(float(smooth.rgb[0].sum()) / covered - 1) < 0.02
    assert set(plain.rgb.unique().tolist()) == {0.0, 1.0} and len(smooth.rgb.unique()) > 2


def test_light_darkens_what_turns_away() -> None:
    mesh = _square(torch.full((3, 1, 1), 1.0))
    for light, expected in (((0, 0, 2.0), 1.0), ((0, 1.0, 1.0), 0.3 + 0.7 * 0.5**0.5), ((0, 0, -1.0), 0.3)):
        view = render_mesh(mesh, CAMERA, _from(1.5), supersampling=1, light=light)
        assert torch.allclose(view.rgb[:, view.mask], torch.tensor(expected), atol=1e-6)


def test_threads_do_not_matter() -> None:
    corners = np.random.default_rng(0).normal(size=(300, 3, 3))
    corners[..., 2] += 3
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(first_hits(corners, (50, 50, 32, 32), 64, 64))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True)) and (found[0][0] >= 0).mean() > 0.5


def test_an_orbit_has_the_object_in_every_picture() -> None:
    vertices = torch.from_numpy(np.array(trimesh.creation.capsule(2.0, 0.3).vertices)) + torch.tensor([5.0, 6.0, 7.0])
    cameras = orbit(vertices, 7, size=100, up=(0.2, 1.0, 0.0))
    largest = 0.0
    for camera, pose in cameras:
        pixels, front = camera.project(pose.apply(vertices))
        assert bool(front.all()) and float(pixels.min()) >= 0 and float(pixels.max()) <= 100
        largest = max(largest, float((pixels - 50).abs().max()))
        down = pose.rotation @ torch.tensor([0.2, 1.0, 0.0], dtype=torch.float64)
        assert float(down[1]) < 0 and abs(float(down[0])) < 1e-9
        assert torch.allclose(torch.linalg.det(pose.rotation), torch.tensor(1.0).double())
    assert largest > 45
    with pytest.raises(ValueError, match="looking along"):
        look_at(torch.tensor([0.0, 0, 1]), torch.zeros(3), torch.tensor([0.0, 0, 1]))
    with pytest.raises(ValueError, match="odd"):
        render_mesh(_square(torch.zeros(3, 1, 1)), CAMERA, _from(2.0), supersampling=2)


def test_the_dataset_is_a_scene(tmp_path: Path) -> None:
    mesh = _plain(trimesh.creation.box())
    views = write_mesh_dataset(tmp_path / "box", mesh, orbit(mesh.vertices, 3, size=40))
    scene = read_scene(tmp_path / "box")
    assert [photo.name for photo in scene.photos] == ["000.png", "001.png", "002.png"]
    assert all(photo.mask is not None for photo in scene.photos) and len(scene.scene.images) == 3
    pose = scene.scene.images["001.png"].cam_from_world
    assert torch.allclose(pose.matrix(), views[1].cam_from_world.matrix())
    assert np.array_equal(np.load(tmp_path / "box" / "depth" / "002.npy"), views[2].depth.numpy())


def test_reading_textured_meshes(tmp_path: Path, test_data: Path) -> None:
    cow = read_textured_mesh(test_data / "meshes" / "cow" / "cow.obj")
    assert cow.texture.shape == (3, 1024, 1024) and cow.uv.shape == (5856, 3, 2) and len(cow.uv.unique()) > 1000
    camera, pose = orbit(cow.vertices, 1, size=64)[0]
    view = render_mesh(cow, camera, pose)
    assert 0.05 < float(view.mask.float().mean()) < 0.8 and float(view.rgb[:, view.mask].std()) > 0.1
    trimesh.creation.box().export(tmp_path / "box.ply")
    assert read_textured_mesh(tmp_path / "box.ply").texture.shape == (3, 1, 1)
    for name, content in (("bad.obj", b"v 1"), ("bad.glb", b"x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Vision3DError):
            read_textured_mesh(tmp_path / name)
    with pytest.raises(Vision3DError, match="no such file"):
        read_textured_mesh(tmp_path / "absent.obj")
