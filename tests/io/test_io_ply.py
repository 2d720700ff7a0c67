"""PLY and GLB: exact round trips, other writers' layouts, and errors on damaged files."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vision3d.core import Camera, PointCloud, PosedImage, RigidTransform, Scene, Tracks, Vision3DError
from vision3d.io.glb import write_glb
from vision3d.io.ply import read_ply, write_ply


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_round_trip(tmp_path: Path, ascii: bool, dtype: torch.dtype, n: int) -> None:
    points, normals = torch.randn(n, 3, dtype=dtype) * 1e3, torch.randn(n, 3)
    colors = torch.randint(0, 256, (n, 3)) / 255
    write_ply(tmp_path / "x.ply", PointCloud(points, colors), normals, ascii=ascii)
    back = read_ply(tmp_path / "x.ply")
    assert torch.equal(back.cloud.points, points) and back.cloud.points.dtype == dtype
    assert back.normals is not None and torch.equal(back.normals, normals)
    assert back.cloud.features is not None and torch.equal(back.cloud.features, colors)


def test_trimesh_reads_what_we_write(tmp_path: Path) -> None:
    points, colors = torch.randn(20, 3), torch.rand(20, 3)
    write_ply(tmp_path / "x.ply", PointCloud(points, colors))
    cloud = trimesh.load(tmp_path / "x.ply")
    assert np.allclose(cloud.vertices, points.numpy())
    assert np.abs(cloud.colors[:, :3] / 255 - colors.numpy()).max() < 0.5 / 255 + 1e-6


def test_without_colour_and_colour_out_of_range(tmp_path: Path) -> None:
    write_ply(tmp_path / "x.ply", PointCloud(torch.randn(3, 3)))
    back = read_ply(tmp_path / "x.ply")
    assert back.cloud.features is None and back.normals is None
    write_ply(tmp_path / "x.ply", PointCloud(torch.zeros(1, 3), torch.tensor([[-1.0, 2.0, float("nan")]])))
    features = read_ply(tmp_path / "x.ply").cloud.features
    assert features is not None and features.tolist() == [[0.0, 1.0, 0.0]]
    with pytest.raises(ValueError, match="3 channels"):
        write_ply(tmp_path / "x.ply", PointCloud(torch.zeros(1, 3), torch.zeros(1, 5)))


@pytest.mark.parametrize("ascii", [False, True])
def test_nan_is_kept_or_dropped_on_request(tmp_path: Path, ascii: bool) -> None:
    points = torch.tensor([[1.0, 2, 3], [float("nan"), 0, 0], [0, float("-inf"), 0]])
    write_ply(tmp_path / "x.ply", PointCloud(points, torch.eye(3)), ascii=ascii)
    assert torch.equal(read_ply(tmp_path / "x.ply").cloud.points.isfinite(), points.isfinite())
    kept = read_ply(tmp_path / "x.ply", drop_invalid=True).cloud
    assert kept.points.tolist() == [[1, 2, 3]] and kept.features is not None and kept.features.tolist() == [[1, 0, 0]]


def test_other_writers_layouts(tmp_path: Path) -> None:
    header = (
        "ply\r\nformat binary_big_endian 1.0\r\ncomment made elsewhere\r\nelement camera 1\r\nproperty float fov\r\n"
        "element vertex 2\r\nproperty uchar red\r\nproperty uchar green\r\nproperty uchar blue\r\nproperty double x\r\n"
        "property double y\r\nproperty short z\r\n"
        "element face 1\r\nproperty list uchar int vertex_indices\r\nend_header\r\n"
    )
    table = np.array([(255, 0, 51, 1.5, 2.5, -3), (0, 255, 0, 4, 5, 6)], dtype=">u1,>u1,>u1,>f8,>f8,>i2")
    (tmp_path / "x.ply").write_bytes(header.encode() + np.array([60], ">f4").tobytes() + table.tobytes() + b"\x00")
    cloud = read_ply(tmp_path / "x.ply").cloud
    assert cloud.points.tolist() == [[1.5, 2.5, -3], [4, 5, 6]]
    assert cloud.features is not None and torch.allclose(cloud.features[0], torch.tensor([1.0, 0, 0.2]))


def _good() -> bytes:
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 9\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    return header.encode() + np.zeros((9, 3), "<f4").tobytes()


_XYZ = b"property float x\nproperty float y\nproperty float z\nend_header\n"
BAD = [
    (b"", "not a PLY"),
    (b"obj\n", "not a PLY"),
    (b"ply\nformat ascii 1.0\n", "has no end"),
    (_good()[:-1], "holds 8 of 9 points"),
    (_good().replace(b"vertex 9", b"vertex -9"), "not understood"),
    (_good().replace(b"vertex 9", b"vertex 99999999999999"), "cut off"),
    (_good().replace(b"little_endian", b"middle_endian"), "not understood"),
    (_good().replace(b"float z", b"float16 z"), "not understood"),
    (_good().replace(b"float z", b"float w"), "no x, y and z"),
    (_good().replace(b"float z", b"float y"), "two properties"),
    (_good().replace(b"property float z", b"property list uchar int z"), "list"),
    (_good().replace(b"element vertex", b"element corner"), "no element 'vertex'"),
    (_good().replace(b"format binary_little_endian 1.0\n", b""), "no format"),
    (
        b"ply\nformat ascii 1.0\nelement vertex 2\n" + _XYZ + b"1 2 3\n",
        "1 of 2",
    ),
    (
        b"ply\nformat ascii 1.0\nelement vertex 1\n" + _XYZ + b"1 b 3\n",
        "no number",
    ),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.ply").write_bytes(content)
    with pytest.raises(Vision3DError, match=message) as error:
        read_ply(tmp_path / "bad.ply")
    assert "bad.ply" in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Vision3DError, match="No such file"):
        read_ply(tmp_path / "none.ply")


@given(st.binary(max_size=300), st.integers(0, 120))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_never_gives_another_error(tmp_path: Path, garbage: bytes, keep: int) -> None:
    (tmp_path / "x.ply").write_bytes(_good()[:keep] + garbage)
    with contextlib.suppress(Vision3DError):
        read_ply(tmp_path / "x.ply")


def _glb_scene(points: int, cameras: int) -> Scene:
    pose = RigidTransform(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    return Scene(
        {1: Camera(100, 80, (90.0, 90.0), (50.0, 40.0))},
        {f"{k}.jpg": PosedImage(1, pose) for k in range(cameras)},
        torch.tensor([[0.0, 1, 5]] * points, dtype=torch.float64).reshape(-1, 3),
        torch.full((points, 3), 200, dtype=torch.uint8),
        torch.zeros(points, dtype=torch.float64),
        Tracks.empty(),
    )


def test_glb_holds_points_and_upright_cameras(tmp_path: Path) -> None:
    write_glb(tmp_path / "x.glb", _glb_scene(3, 2), frustum_size=1.0)
    scene = trimesh.load(tmp_path / "x.glb")
    assert set(scene.geometry) == {"points", "camera 0.jpg", "camera 1.jpg"}
    # A point 5 ahead and 1 down of the camera: down is -y and ahead is -z in glTF.
    assert np.allclose(scene.geometry["points"].vertices, [[0, -1, -5]] * 3)
    assert np.allclose(scene.geometry["points"].colors[0], [200, 200, 200, 255])
    corners = scene.geometry["camera 0.jpg"].vertices
    assert np.allclose(corners[:, 2].min(), -1) and np.allclose(np.abs(corners[:, 0]).max(), 50 / 90)


def test_glb_without_cameras_or_points(tmp_path: Path) -> None:
    write_glb(tmp_path / "p.glb", _glb_scene(2, 0))
    write_glb(tmp_path / "c.glb", _glb_scene(0, 1))
    with pytest.raises(ValueError, match="neither"):
        write_glb(tmp_path / "n.glb", _glb_scene(0, 0))
