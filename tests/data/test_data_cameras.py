"""What is known of the cameras of a folder of photos, and scenes with known cameras."""

from pathlib import Path

import PIL.Image
import pytest
import torch

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks, UsageError, Vision3DError
from vision3d.data.photos import PhotoInfo, camera_priors, known_poses, match_names
from vision3d.data.scenes import read_scene
from vision3d.io.cameras_json import KnownCamera, write_cameras_json
from vision3d.io.colmap import write_colmap

POSE = RigidTransform.identity()


def _info(name: str, size: tuple[int, int] = (600, 400), focal: float | None = None, model: str = "") -> PhotoInfo:
    return PhotoInfo(name, Path(name), size, 1, name, focal, None if focal is None else "exif", "maker", model)


def test_guess_and_groups() -> None:
    infos = [_info("a"), _info("b"), _info("c", (400, 600)), _info("d", focal=900.0), _info("e", model="other")]
    priors = camera_priors(infos)
    assert [p.group for p in priors.values()] == [0, 0, 1, 2, 3]
    assert [p.source for p in priors.values()] == ["guess", "guess", "guess", "exif", "guess"]
    assert priors["a"].camera == Camera(600, 400, (720.0, 720.0), (300.0, 200.0), "SIMPLE_RADIAL", (0.0,))
    assert priors["d"].camera.focal == (900.0, 900.0)
    assert [p.group for p in camera_priors(infos, share="none").values()] == [0, 1, 2, 3, 4]
    shared = camera_priors(infos, share="all")
    assert [p.group for p in shared.values()] == [0, 0, 1, 0, 0]
    assert shared["a"].camera == shared["d"].camera and shared["a"].source == "exif"


def _file(path: Path, entries: dict[str, Camera | None]) -> Path:
    write_cameras_json(path, {name: KnownCamera(camera, POSE) for name, camera in entries.items()})
    return path


def test_given_intrinsics_are_scaled_and_grouped(tmp_path: Path) -> None:
    big = Camera(1200, 800, (1000.0, 1010.0), (610.0, 405.0))
    path = _file(
        tmp_path / "cameras.json", {"a.jpg": big, "b.jpg": big, "c.jpg": Camera(600, 400, (1.0, 1.0), (1.0, 1.0))}
    )
    priors = camera_priors([_info("a.jpg"), _info("b.jpg"), _info("c.jpg")], path)
    assert priors["a.jpg"].camera == Camera(600, 400, (500.0, 505.0), (305.0, 202.5))
    assert [p.group for p in priors.values()] == [0, 0, 1] and {p.source for p in priors.values()} == {"given"}
    assert [p.group for p in camera_priors([_info("a.jpg"), _info("b.jpg")], path, share="none").values()] == [0, 1]


def test_rounded_sizes_still_fit(tmp_path: Path) -> None:
    path = _file(tmp_path / "cameras.json", {"a.jpg": Camera(3008, 2000, (5000.0, 5000.0), (1504.0, 1000.0))})
    camera = camera_priors([_info("a.jpg", (1024, 681))], path)["a.jpg"].camera
    assert (camera.width, camera.height) == (1024, 681)


def test_other_aspect_is_an_error(tmp_path: Path) -> None:
    path = _file(tmp_path / "cameras.json", {"a.jpg": Camera(600, 400, (500.0, 500.0), (300.0, 200.0))})
    with pytest.raises(Vision3DError, match=r"a\.jpg is for 600x400 px, the photo has 500x400"):
        camera_priors([_info("a.jpg", (500, 400))], path)
    with pytest.raises(Vision3DError, match="EXIF orientation"):
        camera_priors([_info("a.jpg", (400, 600))], path)


def test_missing_intrinsics_are_listed(tmp_path: Path) -> None:
    path = _file(tmp_path / "cameras.json", {"a.jpg": Camera(600, 400, (500.0, 500.0), (300.0, 200.0)), "p.jpg": None})
    with pytest.raises(UsageError, match=r"no intrinsics for b\.jpg, p\.jpg; it has a\.jpg"):
        camera_priors([_info("a.jpg"), _info("b.jpg"), _info("p.jpg")], path)
    assert list(known_poses([_info("a.jpg"), _info("b.jpg"), _info("p.jpg")], path)) == ["a.jpg", "p.jpg"]
    with pytest.raises(UsageError, match="no pose for any"):
        known_poses([_info("z.jpg")], path)
    empty = _file(tmp_path / "poses.json", {"a.jpg": None})
    with pytest.raises(UsageError, match="has no intrinsics"):
        camera_priors([_info("a.jpg")], empty)


def test_names_match_by_path_then_file_then_stem() -> None:
    known = {"images/a.jpg": 1, "images/b.png": 2, "left/c.jpg": 3, "right/c.jpg": 4, "u\u0308.jpg": 5}
    assert match_names(["a.jpg", "b.jpg", "c.jpg", "left/c.jpg", "\u00fc.jpg", "d.jpg"], known) == {
        "a.jpg": 1,
        "b.jpg": 2,
        "left/c.jpg": 3,
        "\u00fc.jpg": 5,
    }
    assert match_names(["x/a.jpg", "y/a.jpg"], {"a.jpg": 1}) == {}


def test_real_scenes(test_data: Path) -> None:
    for name, count in (("dtu-scan24", 11), ("fountain-p11", 11), ("temple-sparse-ring", 16)):
        scene = read_scene(test_data / "multiview" / name)
        assert len(scene.photos) == len(scene.scene.images) == count and scene.name == name
        assert all((photo.mask is not None) == (name == "dtu-scan24") for photo in scene.photos)
        for photo in scene.photos:
            camera = scene.scene.camera_of(photo.name)
            assert (camera.width, camera.height) == photo.size
    with pytest.raises(UsageError, match=r"no cameras\.json"):
        read_scene(test_data / "multiview" / "banana")


def test_scene_from_a_colmap_model_at_twice_the_size(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for k, size in ((1, (60, 40)), (2, (120, 80)), (3, (60, 40))):
        PIL.Image.new("RGB", size, (k, 0, 0)).save(tmp_path / "images" / f"{k}.png")
    xy = torch.tensor([[10.0, 20], [30, 40], [50, 60]], dtype=torch.float64)
    camera = Camera(120, 80, (100.0, 100.0), (60.0, 40.0))
    scene = Scene(
        {5: camera},
        {name: PosedImage(5, POSE) for name in ("1.png", "2.png", "gone.png")},
        torch.ones(1, 3, dtype=torch.float64),
        torch.zeros(1, 3, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.float64),
        Tracks(("1.png", "2.png", "gone.png"), torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]), xy),
    )
    write_colmap(tmp_path / "sparse" / "0", scene)
    read = read_scene(tmp_path)
    assert [p.name for p in read.photos] == ["1.png", "2.png", "3.png"] and list(read.scene.images) == [
        "1.png",
        "2.png",
    ]
    assert read.scene.camera_of("1.png") == camera.resized(60, 40) and read.scene.camera_of("2.png") == camera
    assert read.scene.tracks.images == ("1.png", "2.png")
    assert read.scene.tracks.xy.tolist() == [[5, 10], [30, 40]] and read.scene.tracks.image.tolist() == [0, 1]
