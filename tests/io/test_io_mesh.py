"""Meshes to PLY and GLB and back, files of other programs, broken files, a full disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from vision3d.core import Camera, Mesh, PointCloud, PosedImage, RigidTransform, Scene, Tracks, Vision3DError
from vision3d.io.mesh import read_mesh, read_mesh_ply, write_mesh_glb, write_mesh_ply
from vision3d.io.ply import write_ply


def _mesh(n: int = 3) -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=n)
    vertices = torch.from_numpy(np.array(sphere.vertices, np.float32))
    return Mesh(vertices, torch.from_numpy(np.array(sphere.faces, np.int64)), (vertices + 1) / 2)


@pytest.mark.parametrize("colored", [True, False])
def test_ply_round_trip(tmp_path: Path, colored: bool) -> None:
    mesh = _mesh()
    if not colored:
        mesh = Mesh(mesh.vertices, mesh.faces)
    write_mesh_ply(tmp_path / "m.ply", mesh)
    back = read_mesh_ply(tmp_path / "m.ply")
    assert torch.equal(back.vertices, mesh.vertices) and torch.equal(back.faces, mesh.faces)
    if colored:
        assert back.colors is not None and mesh.colors is not None
        assert float((back.colors - mesh.colors).abs().max()) <= 0.5 / 255 + 1e-6
    else:
        assert back.colors is None
    assert (tmp_path / "m.ply").read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 642\n")


def test_glb_stands_upright(tmp_path: Path) -> None:
    mesh = _mesh(1)
    write_mesh_glb(tmp_path / "m.glb", mesh)
    back = read_mesh(tmp_path / "m.glb")
    assert torch.allclose(back.vertices, mesh.vertices * torch.tensor([1.0, -1.0, -1.0]), atol=1e-6)
    assert torch.equal(back.faces, mesh.faces) and back.colors is not None and mesh.colors is not None
    assert float((back.colors - mesh.colors).abs().max()) < 0.01
    # A camera whose picture's down is the world's x: x of the world is down in the GLB.
    pose = RigidTransform(torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]).double(), torch.zeros(3).double())
    none = torch.zeros(0, 3, dtype=torch.float64)
    scene = Scene(
        {1: Camera(4, 4, (4, 4), (2, 2))},
        {"a": PosedImage(1, pose)},
        none,
        torch.zeros(0, 3, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.float64),
        Tracks.empty(),
    )
    write_mesh_glb(tmp_path / "m.glb", mesh, scene)
    assert torch.allclose(read_mesh(tmp_path / "m.glb").vertices[:, 1], -mesh.vertices[:, 0], atol=1e-6)


def test_meshes_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "quad.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty double x\nproperty double y\nproperty double z\n"
        "element face 1\nproperty list uchar uint vertex_index\nend_header\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n"
    )
    quad = read_mesh(tmp_path / "quad.ply")
    assert quad.faces.shape == (2, 3) and quad.colors is None
    (tmp_path / "t.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert read_mesh(tmp_path / "t.obj").faces.tolist() == [[0, 1, 2]]
    box = trimesh.creation.box()
    for ending in ("stl", "off"):
        box.export(tmp_path / f"box.{ending}")
        assert abs(trimesh.Trimesh(*_arrays(read_mesh(tmp_path / f"box.{ending}"))).volume - 1) < 1e-6


def _arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    return mesh.vertices.numpy(), mesh.faces.numpy()


def test_files_that_are_no_mesh(tmp_path: Path) -> None:
    write_ply(tmp_path / "points.ply", PointCloud(torch.rand(5, 3)))
    with pytest.raises(Vision3DError, match=r"without faces \(it holds 5 vertex\)"):
        read_mesh(tmp_path / "points.ply")
    (tmp_path / "text.ply").write_text("hello")
    with pytest.raises(Vision3DError, match="not a PLY"):
        read_mesh(tmp_path / "text.ply")
    with pytest.raises(Vision3DError, match="No such file"):
        read_mesh(tmp_path / "absent.ply")
    with pytest.raises(Vision3DError, match="No such file"):
        read_mesh(tmp_path / "absent.obj")
    with pytest.raises(Vision3DError, match="known kind"):
        read_mesh(tmp_path / "mesh.docx")
    for name in ("bad.obj", "bad.glb", "bad.stl", "bad.off"):
        (tmp_path / name).write_bytes(b"\x00\x01nonsense")
        with pytest.raises(Vision3DError):
            read_mesh(tmp_path / name)
    (tmp_path / "wrong.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    with pytest.raises(Vision3DError):
        read_mesh(tmp_path / "wrong.obj")


def test_a_ply_without_coordinates_is_refused(tmp_path: Path) -> None:
    lines = ["ply", "format ascii 1.0", "element vertex 3", "property float u", "property float y", "element face 1"]
    lines += ["property list uchar int vertex_indices", "end_header", "1 2", "1 3", "2 3", "3 0 1 2"]
    (tmp_path / "m.ply").write_text("\n".join(lines) + "\n")
    with pytest.raises(Vision3DError, match=r"m.ply: the vertices have no x, y and z \(they have u, y\)"):
        read_mesh(tmp_path / "m.ply")


def test_a_cut_off_ply_is_refused(tmp_path: Path) -> None:
    write_mesh_ply(tmp_path / "m.ply", _mesh())
    whole = (tmp_path / "m.ply").read_bytes()
    for share in (0.2, 0.5, 0.9, 0.99):
        (tmp_path / "cut.ply").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(Vision3DError):
            read_mesh(tmp_path / "cut.ply")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    mesh = _mesh(1)
    broken = mesh.vertices.clone()
    broken[3, 1] = float("nan")
    for wrong, why in (
        (Mesh(mesh.vertices, mesh.faces[:0]), "without faces"),
        (Mesh(broken, mesh.faces), "NaN"),
        (Mesh(mesh.vertices[:5], mesh.faces), "not there"),
    ):
        for write in (write_mesh_ply, write_mesh_glb):
            with pytest.raises(ValueError, match=why):
                write(tmp_path / "m", wrong)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_mesh(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_mesh_ply(tmp_path / "m.ply", _mesh(1))
    write_mesh_glb(tmp_path / "m.glb", _mesh(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        for write, name in ((write_mesh_ply, "m.ply"), (write_mesh_glb, "m.glb")):
            with pytest.raises(Vision3DError, match="cannot write"):
                write(tmp_path / name, _mesh(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.glb", "m.ply"]
    assert len(read_mesh(tmp_path / "m.ply").faces) == len(read_mesh(tmp_path / "m.glb").faces) == 80
