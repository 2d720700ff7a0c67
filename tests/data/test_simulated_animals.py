"""Animals: closed meshes, named points on the skin, mirrored where the pose is, and sets that share no individual."""

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from vision3d.cli.main import main
from vision3d.data.simulation import animals
from vision3d.data.simulation.animal_body import KEYPOINTS, animal_body
from vision3d.data.simulation.animal_shape import KINDS, AnimalPose, draw_pose, draw_shape
from vision3d.data.simulation.animals import animal_model, animal_names, first_exit, posed_animal
from vision3d.data.simulation.blended_tubes import surface_distance, surface_mesh, surface_points
from vision3d.data.spair import SPLITS, read_spair, read_spair_image
from vision3d.errors import UsageError


def _distance(corners: np.ndarray, point: np.ndarray) -> float:
    """To the nearest triangle whose inside the point is above, by its plane: no code of the library."""
    a, b, c = corners.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    sides = [(np.cross(q - p, point - p) * normal).sum(1) for p, q in ((a, b), (b, c), (c, a))]
    height = np.abs(((point - a) * normal).sum(1))
    return float(height[np.min(sides, axis=0) >= -1e-9].min())


@pytest.mark.parametrize("kind", list(KINDS))
def test_meshes_are_closed_and_carry_their_points(kind: str) -> None:
    model = animal_model(f"{kind}:3:1")
    assert model.category == kind and 8_000 < len(model.corners) < 30_000
    _, index = np.unique(model.corners.reshape(-1, 3), axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    edges = Counter(map(tuple, np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()))
    assert all(edges[b, a] == count for (a, b), count in edges.items())
    assert np.einsum("ij,ij->", model.corners[:, 0], np.cross(model.corners[:, 1], model.corners[:, 2])) > 0
    assert max(_distance(model.corners, point) for point in model.points) < 1e-6
    assert set(model.material.tolist()) >= {animals.COAT, animals.HARD, animals.EYE}
    again = animal_model(f"{kind}:3:1")
    assert model.corners.tobytes() == again.corners.tobytes() and model.points.tobytes() == again.points.tobytes()
    named = dict(zip(KEYPOINTS, model.points, strict=True))
    assert named["nose"][1] > named["withers"][1] > named["tail root"][1]
    for end in ("front", "back"):
        feet = np.stack([named[f"foot {end} {side}"] for side in ("right", "left")])
        assert feet[0, 0] > feet[1, 0] and (feet[:, 2] < model.points[:, 2].mean()).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_left_mirrors_right_in_the_neutral_pose(kind: str) -> None:
    shape = draw_shape(np.random.default_rng(1), kind)
    model = posed_animal("made", kind, shape, AnimalPose(), np.random.default_rng(2))
    named = dict(zip(KEYPOINTS, model.points, strict=True))
    for name in KEYPOINTS:
        other = name.replace("right", "left") if "right" in name else name.replace("left", "right")
        off = np.linalg.norm(named[name] - named[other] * (-1, 1, 1)) / shape.height
        assert off < (0.02 if "ear" in name else 0.001), name  # the grid cuts thin ears off where it happens to end
        assert "right" not in name or named[name][0] > 0.01 * shape.height


def test_the_surface_leaves_nothing_out() -> None:
    rng = np.random.default_rng(5)
    shape = draw_shape(rng, "dog")
    body = animal_body(shape, draw_pose(rng, "dog"))
    vertices, faces = surface_mesh(body.layers, shape.height / 50)
    assert np.abs(surface_distance(body.layers, vertices)).max() < 0.01 * shape.height
    a, b, c = vertices[faces].transpose(1, 0, 2)
    low, high = vertices.min(0) - 0.1, vertices.max(0) + 0.1  # wider than the mesh: a lost part would be counted
    points = rng.uniform(low, high, (200_000, 3))
    volume = (surface_distance(body.layers, points) < 0).mean() * np.prod(high - low)
    assert abs(np.einsum("ij,ij->", a, np.cross(b, c)) / 6 - volume) < 0.03 * volume


def test_points_are_where_rays_leave_the_body() -> None:
    rng = np.random.default_rng(6)
    shape = draw_shape(rng, "cat")
    body = animal_body(shape, draw_pose(rng, "cat"))
    inside, toward = (np.stack([body.rays[name][k] for name in KEYPOINTS]) for k in (0, 1))
    found = surface_points(body.layers, inside, toward, shape.height)
    assert np.abs(surface_distance(body.layers, found)).max() < 1e-3
    vertices, faces = surface_mesh(body.layers, shape.height / 50)
    for start, way, exact in zip(inside, toward, found, strict=True):
        met = first_exit(vertices[faces], start, way)
        assert met is not None and np.linalg.norm(met - exact) < 0.04 * shape.height  # a thin tip is cut off
    assert first_exit(vertices[faces], np.array([0.0, 0.0, 9.0]), np.array([0.0, 0.0, 1.0])) is None
    with pytest.raises(ValueError, match="must start inside"):
        surface_points(body.layers, inside + 9, toward, shape.height)


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_pose_carries_a_point_far_from_its_bone(kind: str) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        shape = draw_shape(rng, kind)
        body = animal_body(shape, draw_pose(rng, kind))
        inside, toward = (np.stack([body.rays[name][k] for name in KEYPOINTS]) for k in (0, 1))
        way = np.linalg.norm(surface_points(body.layers, inside, toward, shape.height) - inside, axis=1)
        for name, length in zip(KEYPOINTS, way / shape.height, strict=True):
            assert length < (0.38 if name == "withers" else 0.16), (seed, name)  # as far as the thing is thick there


def test_names_are_checked() -> None:
    assert animal_names("cow", 2, 7) == ["cow:7:0", "cow:7:1"]
    for name in ("unicorn:0:1", "cow", "cow:0", "cow:0:-1", "cow:a:1"):
        with pytest.raises(UsageError, match="KIND:SEED:NUMBER"):
            animal_model(name)


def test_a_set_of_animals_needs_no_catalogues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(animals, "_STEPS", 26)
    out = tmp_path / "set"
    command = ["simulate", "spair", "--furniture", str(tmp_path / "none"), "--categories", "cat", "cow", "--quiet"]
    command += ["--animals", "5", "--views", "2", "--pairs", "6", "--width", "200", "--height", "160", "--json"]
    assert main([*command, "--out", str(out)]) == 0
    counts = json.loads(capsys.readouterr().out)["pairs"]
    assert counts["trn"] and counts["test"]
    individuals: dict[str, set[str]] = {}
    for split in ("trn", "test"):
        found = read_spair(out, split)
        assert found.synthetic and {pair.category for pair in found.pairs} == {"cat", "cow"}
        individuals[split] = {f"{p.category}{f.stem[:4]}" for p in found.pairs for f in (p.image0, p.image1)}
    assert not individuals["trn"] & individuals["test"]
    meshes = {json.loads(f.read_text())["mesh_name"] for f in (out / "ImageAnnotation").rglob("*.json")}
    assert len(meshes) == 10 and "cat:0:4" in meshes
    assert "tubes around bones" in (out / "README.md").read_text()
    for file in sorted((out / "JPEGImages").rglob("*.jpg")):
        image = read_spair_image(out, file.parent.name, file.stem)
        mask = cv2.imread(str(out / "Segmentation" / file.parent.name / f"{file.stem}.png"), 0)
        near = cv2.dilate(mask, np.ones((7, 7), np.uint8))
        for x, y in image.points[image.visible].tolist():
            assert near[int(y), int(x)] > 0, f"{file}: a keypoint beside the animal"
    assert main([*command, "--out", str(tmp_path / "again")]) == 0
    files = sorted(path for path in out.rglob("*") if path.is_file())
    assert all(file.read_bytes() == (tmp_path / "again" / file.relative_to(out)).read_bytes() for file in files)
    assert set(SPLITS) == set(counts)


def test_wrong_categories_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, words in (
        (["--categories", "unicorn"], "no category is called unicorn"),
        (["--animals", "-1"], "--animals"),
    ):
        assert main(["simulate", "spair", "--out", str(tmp_path / "set"), "--quiet", *more]) == 2
        assert words in capsys.readouterr().err
