"""cameras.json, transforms.json and COLMAP models: exact round trips, pycolmap as the oracle, clear errors."""

import json
import math
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks, UsageError, Vision3DError
from vision3d.geometry.rotation import rotation_exp
from vision3d.io.cameras_json import KnownCamera, known_cameras, read_cameras_json, write_cameras_json
from vision3d.io.colmap import (
    find_model,
    read_colmap,
    reconstruction_from_scene,
    scene_from_reconstruction,
    write_colmap,
)
from vision3d.io.known_cameras import read_known_cameras
from vision3d.io.nerfstudio import read_transforms, write_transforms

CAMERAS = {
    1: Camera(640, 480, (500.0, 510.25), (320.1, 239.9)),
    4: Camera(640, 480, (1 / 3 + 500, 1 / 3 + 500), (320.0, 240.0), "SIMPLE_RADIAL", (-0.1,)),
    7: Camera(300, 200, (250.0, 251.0), (150.0, 99.0), "OPENCV", (0.1, -0.02, 0.001, 0.002)),
}
NAMES = ("a.jpg", "sub folder/ö ß.jpg", "b 2.jpg", "c.jpg")


def _scene(points: int = 30) -> Scene:
    ids = list(CAMERAS)
    images = {
        name: PosedImage(
            ids[k % 3],
            RigidTransform(rotation_exp(torch.randn(3, dtype=torch.float64)), torch.randn(3, dtype=torch.float64)),
        )
        for k, name in enumerate(NAMES)
    }
    seen = torch.rand(points, len(NAMES)) < 0.7
    image, point = torch.nonzero(seen.T, as_tuple=True)
    xy = torch.rand(len(point), 2, dtype=torch.float64) * 200
    return Scene(
        CAMERAS,
        images,
        torch.randn(points, 3, dtype=torch.float64),
        torch.randint(0, 256, (points, 3), dtype=torch.uint8),
        torch.rand(points, dtype=torch.float64),
        Tracks(NAMES, point, image, xy),
    )


def _assert_same(a: Scene, b: Scene) -> None:
    assert a.cameras == b.cameras
    assert list(a.images) == list(b.images)
    for name in a.images:
        assert a.images[name].camera_id == b.images[name].camera_id
        assert torch.allclose(
            a.images[name].cam_from_world.matrix(), b.images[name].cam_from_world.matrix(), atol=1e-14, rtol=0
        )
    for field in ("points", "colors", "errors"):
        assert torch.equal(getattr(a, field), getattr(b, field))
    assert a.tracks.images == b.tracks.images
    for field in ("point", "image", "xy"):
        assert torch.equal(getattr(a.tracks, field), getattr(b.tracks, field))


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("points", [30, 0])
def test_colmap_round_trip(tmp_path: Path, text: bool, points: int) -> None:
    scene = _scene(points)
    write_colmap(tmp_path / "sparse", scene, text=text)
    back = read_colmap(tmp_path / "sparse")
    _assert_same(scene, back)
    write_colmap(tmp_path / "sparse", back, text=not text)  # replaces the other form, no mix of two
    _assert_same(scene, read_colmap(tmp_path / "sparse"))
    assert {p.suffix for p in (tmp_path / "sparse").iterdir()} == {".bin" if text else ".txt"}


def test_colmap_agrees_with_pycolmap_on_projections() -> None:
    scene = _scene()
    reconstruction = reconstruction_from_scene(scene)
    assert reconstruction.num_reg_images() == 4 and reconstruction.num_points3D() == 30
    assert reconstruction.is_valid() if hasattr(reconstruction, "is_valid") else True
    for image in reconstruction.images.values():
        posed = scene.images[image.name]
        center = posed.cam_from_world.center().numpy()
        assert np.allclose(image.projection_center(), center)
        in_cam = torch.tensor([[0.1, -0.2, 2.0]], dtype=torch.float64)
        ours, _ = scene.cameras[posed.camera_id].project(in_cam)
        world = posed.cam_from_world.inverse().apply(in_cam)[0].numpy()
        assert np.allclose(image.project_point(world), ours[0].numpy(), atol=1e-9)
    _assert_same(scene, scene_from_reconstruction(reconstruction))


def test_photos_without_pose_and_rigs_of_two_cameras() -> None:
    reconstruction = pycolmap.Reconstruction()
    for camera_id in (1, 2):
        camera = pycolmap.Camera(model="PINHOLE", width=100, height=80, params=[90, 90, 50, 40], camera_id=camera_id)
        reconstruction.add_camera(camera)
    rig = pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 1))
    second_from_rig = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([-0.5, 0, 0]))
    rig.add_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, 2), second_from_rig)
    reconstruction.add_rig(rig)
    rig_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([0, 0, 3.0]))
    for frame_id, posed in ((1, True), (2, False)):
        frame = pycolmap.Frame()
        frame.frame_id, frame.rig_id = frame_id, 1
        images = []
        for camera_id in (1, 2):
            image = pycolmap.Image(
                name=f"{frame_id}_{camera_id}.jpg",
                keypoints=np.zeros((0, 2)),
                camera_id=camera_id,
                image_id=2 * frame_id + camera_id,
            )
            image.frame_id = frame_id
            frame.add_data_id(image.data_id)
            images.append(image)
        if posed:
            frame.rig_from_world = rig_from_world
        reconstruction.add_frame(frame)
        for image in images:
            reconstruction.add_image(image)
        if posed:
            reconstruction.register_frame(frame_id)
    scene = scene_from_reconstruction(reconstruction)
    assert list(scene.images) == ["1_1.jpg", "1_2.jpg"]
    assert scene.images["1_2.jpg"].cam_from_world.translation.tolist() == [-0.5, 0, 3]


def test_colmap_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no COLMAP model"):
        read_colmap(tmp_path)
    write_colmap(tmp_path / "m", _scene())
    for name in ("points3D.bin", "images.bin", "cameras.bin", "rigs.bin", "frames.bin"):
        whole = (tmp_path / "m" / name).read_bytes()
        for broken in (whole[: len(whole) // 2], whole[:-1], b"", b"\xff" * 200, whole + b"x"):
            (tmp_path / "m" / name).write_bytes(broken)
            with pytest.raises(Vision3DError, match=rf"{name} is damaged"):
                read_colmap(tmp_path / "m")
        (tmp_path / "m" / name).write_bytes(whole)
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        write_colmap(tmp_path / "m", _scene())
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(
        pycolmap.Camera(model="OPENCV_FISHEYE", width=9, height=9, params=[9, 9, 4, 4, 0, 0, 0, 0], camera_id=1)
    )
    with pytest.raises(Vision3DError, match="OPENCV_FISHEYE is not supported"):
        scene_from_reconstruction(reconstruction)


@pytest.mark.parametrize("text", [False, True])
def test_a_model_that_does_not_fit_on_the_disk_is_not_written(tmp_path: Path, text: bool) -> None:
    resource = pytest.importorskip("resource")
    write_colmap(tmp_path / "m", _scene(3), text=text)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(Vision3DError, match="cannot write the COLMAP model"):
            write_colmap(tmp_path / "m", _scene(100), text=text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(read_colmap(tmp_path / "m").points) == 3 and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_colmap_text_garbage(tmp_path: Path) -> None:
    write_colmap(tmp_path / "m", _scene(), text=True)
    for name in ("cameras.txt", "images.txt", "points3D.txt"):
        whole = (tmp_path / "m" / name).read_text()
        (tmp_path / "m" / name).write_text("1 what is this\n")
        with pytest.raises(Vision3DError):
            read_colmap(tmp_path / "m")
        (tmp_path / "m" / name).write_text(whole)


def test_find_model(tmp_path: Path) -> None:
    assert find_model(tmp_path) is None
    write_colmap(tmp_path / "sparse" / "0", _scene())
    assert find_model(tmp_path) == find_model(tmp_path / "sparse") == tmp_path / "sparse" / "0"
    write_colmap(tmp_path / "sparse" / "1", _scene())
    with pytest.raises(UsageError, match="several models"):
        find_model(tmp_path)


def test_cameras_json_round_trip_is_exact(tmp_path: Path) -> None:
    known = known_cameras(_scene())
    known["only intrinsics.jpg"] = KnownCamera(CAMERAS[1], None)
    known["only pose.jpg"] = KnownCamera(None, known["a.jpg"].cam_from_world)
    write_cameras_json(tmp_path / "cameras.json", known, note="a test")
    back = read_cameras_json(tmp_path / "cameras.json")
    assert list(back) == list(known)
    for name, entry in known.items():
        assert back[name].camera == entry.camera
        ours, theirs = entry.cam_from_world, back[name].cam_from_world
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert torch.equal(ours.matrix(), theirs.matrix())


def test_real_cameras_json(test_data: Path) -> None:
    for path in sorted((test_data / "multiview").glob("*/cameras.json")):
        for entry in read_cameras_json(path).values():
            assert entry.camera is not None and entry.cam_from_world is not None
            r = entry.cam_from_world.rotation
            assert torch.allclose(r @ r.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)


K = [[500, 0, 320], [0, 500, 240], [0, 0, 1]]
POSE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
BAD_ENTRIES: list[tuple[object, str]] = [
    ({"K": K}, 'needs "width" and "height"'),
    ({"K": K, "width": 640.5, "height": 480}, "width"),
    ({"K": K, "width": True, "height": 480}, "width"),
    ({"K": [[1, 2], [3, 4]], "width": 640, "height": 480}, "3x3 matrix of finite numbers"),
    ({"K": [[500, 0, 320], [0, 500, 240], [0, 0, 2]], "width": 640, "height": 480}, "must have the form"),
    ({"K": [[500, 9, 320], [0, 500, 240], [0, 0, 1]], "width": 640, "height": 480}, "skew"),
    ({"K": [[-500, 0, 320], [0, 500, 240], [0, 0, 1]], "width": 640, "height": 480}, "positive"),
    ({"K": [[500, 0, "x"], [0, 500, 240], [0, 0, 1]], "width": 640, "height": 480}, "3x3"),
    ({"K": K, "width": 640, "height": 480, "model": "FISHEYE"}, "not supported"),
    ({"K": K, "width": 640, "height": 480, "model": "RADIAL", "distortion": [1]}, "distortion"),
    ({"cam_from_world": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, "3x4 or 4x4"),
    ({"cam_from_world": [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}, "not a rotation"),
    ({"cam_from_world": [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}, "not a rotation"),
    ({"cam_from_world": [[1, 0, 0, float("nan")], [0, 1, 0, 0], [0, 0, 1, 0]]}, "finite"),
    ([1, 2], "an object with K"),
]


@pytest.mark.parametrize(("entry", "message"), BAD_ENTRIES)
def test_malformed_entries_are_named(tmp_path: Path, entry: object, message: str) -> None:
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"images": {"good.jpg": {"cam_from_world": POSE}, "bad.jpg": entry}}))
    with pytest.raises(Vision3DError, match=f"bad.jpg.*{message}"):
        read_cameras_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[]", "object is expected"),
        (b'{"images": []}', "object with photo names"),
        (b'{"frames": 3}', "must be a list"),
        (b"{}", "neither"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_json(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cameras.json"
    path.write_bytes(content)
    with pytest.raises(Vision3DError, match=message):
        read_known_cameras(path)


def test_what_is_no_camera_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_known_cameras(tmp_path / "none.json")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UsageError, match=r"give a cameras\.json"):
        read_known_cameras(tmp_path / "x.txt")
    with pytest.raises(UsageError, match="holds no COLMAP model"):
        read_known_cameras(tmp_path)


def test_transforms_round_trip(tmp_path: Path) -> None:
    scene = _scene()
    write_transforms(tmp_path / "transforms.json", scene, image_folder="images", ply_path="points.ply")
    back = read_transforms(tmp_path / "transforms.json")
    assert list(back) == [f"images/{name}" for name in scene.images]
    for name, posed in scene.images.items():
        entry = back[f"images/{name}"]
        assert entry.cam_from_world is not None and entry.camera is not None
        assert torch.allclose(entry.cam_from_world.matrix(), posed.cam_from_world.matrix(), atol=1e-12)
        x = torch.rand(10, 3, dtype=torch.float64) + torch.tensor([-0.5, -0.5, 1])
        assert torch.allclose(entry.camera.project(x)[0], scene.camera_of(name).project(x)[0], atol=1e-9)
    assert read_known_cameras(tmp_path)["images/a.jpg"].camera == scene.camera_of("a.jpg")


def test_transforms_axes_by_hand(tmp_path: Path) -> None:
    # An OpenGL camera at (0, 0, 5) without rotation looks along -z at the origin, its y axis up.
    frame = {"file_path": "./images/0.png", "transform_matrix": np.diag([1.0, 1, 1, 1]).tolist()}
    frame["transform_matrix"][2][3] = 5.0  # type: ignore[index]
    content = {"w": 200, "h": 100, "camera_angle_x": math.pi / 2, "frames": [frame]}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    entry = read_transforms(tmp_path / "transforms.json")["images/0.png"]
    assert entry.camera is not None and entry.cam_from_world is not None
    assert entry.camera.focal == pytest.approx((100, 100)) and entry.camera.center == (100, 50)
    world = torch.tensor([[0.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
    pixels, front = entry.camera.project(entry.cam_from_world.apply(world))
    assert bool(front.all())
    assert torch.allclose(pixels, torch.tensor([[100.0, 50], [100, 30]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_model": "OPENCV_FISHEYE"}, "not supported"),
        ({"k3": 0.1}, "k3 and k4"),
        ({"fl_x": "wide"}, "fl_x must be a number"),
        ({"w": None}, "w must be a number"),
        ({"transform_matrix": [[1]]}, "3x4 or 4x4"),
        ({"file_path": 3}, "file_path"),
    ],
)
def test_malformed_transforms(tmp_path: Path, change: dict[str, object], message: str) -> None:
    frame: dict[str, object] = {
        "file_path": "a.jpg",
        "w": 9,
        "h": 9,
        "fl_x": 9.0,
        "transform_matrix": [*POSE, [0, 0, 0, 1]],
    }
    (tmp_path / "t.json").write_text(json.dumps({"frames": [{**frame, **change}]}))
    with pytest.raises(Vision3DError, match=message):
        read_transforms(tmp_path / "t.json")
