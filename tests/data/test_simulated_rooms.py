"""Simulated rooms: pure in seed and number, transforms and overlaps that are true, furniture that does not meet."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vision3d.core import UsageError, Vision3DError
from vision3d.data.simulation.depth_camera import DepthCameraConfig
from vision3d.data.simulation.furniture_files import read_models
from vision3d.data.simulation.room import sample_room
from vision3d.data.simulation.rooms import SimulatedRooms, SimulatedRoomsConfig, overlap
from vision3d.geometry.rotated_rectangles import intersection_areas

SMALL = SimulatedRoomsConfig(count=8, seed=3, camera=DepthCameraConfig(views=3))


def test_pairs_are_pure_and_true() -> None:
    rooms = SimulatedRooms(SMALL)
    overlaps = []
    for index in range(4):
        pair = rooms.pair(index)
        overlaps.append(pair.overlap)
        rotation = pair.target_from_source.rotation
        assert torch.allclose(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64), atol=1e-12)
        assert len(pair.source.points) > 2000 and bool(torch.isfinite(pair.source.points).all())
        assert float(pair.source.points[:, 2].min()) > -2  # in front of the first camera, or beside a later one
        moved = pair.target_from_source.apply(pair.source.points.double())
        distance = torch.cdist(moved[::20], pair.target.points.double()).amin(1)
        assert float((distance < SMALL.radius).double().mean()) == pytest.approx(pair.overlap, abs=0.06)
        if pair.overlap > 0.2:  # what overlaps lies on the same surfaces
            assert float(distance[distance < 0.05].median()) < 0.02
    assert max(overlaps) - min(overlaps) > 0.1
    again = SimulatedRooms(dataclasses.replace(SMALL, count=100)).pair(2)
    assert torch.equal(again.source.points, rooms[2].source.points) and again.overlap == rooms[2].overlap
    other = SimulatedRooms(dataclasses.replace(SMALL, seed=4)).pair(2)
    assert len(other.source.points) != len(again.source.points)


def test_furniture_does_not_meet_and_stays_inside() -> None:
    for seed in range(5):
        room = sample_room(np.random.default_rng(seed))
        assert len(room.taken) > 3
        areas = intersection_areas(room.taken, room.taken)
        np.fill_diagonal(areas, 0)
        assert areas.max() == 0
        half = np.array(room.size[:2]) / 2
        assert (np.abs(room.taken[:, :2]) < half).all()
        assert room.corners[..., 2].min() > -0.2 and np.isfinite(room.corners).all()


def test_overlap_closed_form() -> None:
    rng = np.random.default_rng(0)
    source = rng.uniform(0, 1, (900, 3))
    assert overlap(source, source, 0.01) == 1.0
    assert overlap(source, source[source[:, 0] < 0.5], 1e-6) == pytest.approx((source[:, 0] < 0.5).mean())
    assert overlap(source, source + 5, 0.1) == 0.0 == overlap(source[:0], source, 0.1)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"overlap": (0.5, 0.2)}, {"overlap": (0.0, 1.5)}])
def test_settings_of_rooms_without_sense(wrong: dict) -> None:
    with pytest.raises(UsageError, match="simulated rooms need"):
        SimulatedRooms(SimulatedRoomsConfig(**wrong))
    with pytest.raises(IndexError):
        SimulatedRooms(SMALL).pair(8)


def test_models_of_catalogues_stand_as_they_should(tmp_path: Path) -> None:
    obj = "v 0 0 0\nv 2 0 0\nv 2 3 0\nv 0 3 0\nv 0 0 1\nf 1 2 3 4\nf 1/1 2/2 -1/5\n"
    lines = ["name", "category", "model", "width", "depth", "height"]
    values = ["Chair", "Living room", "/a/chair.obj", "50", "40", "90"]
    with zipfile.ZipFile(tmp_path / "a.sh3f", "w") as archive:
        archive.writestr(
            "PluginFurnitureCatalog.properties", "".join(f"{k}#1={v}\n" for k, v in zip(lines, values, strict=True))
        )
        archive.writestr("a/chair.obj", obj)
    (model,) = read_models(tmp_path)
    assert model.name == "Chair" and model.corners.shape == (3, 3, 3)
    assert np.allclose(np.ptp(model.corners, axis=(0, 1)), [0.5, 0.4, 0.9]) and model.corners[..., 2].min() == 0
    room = sample_room(np.random.default_rng(0), [model.corners])
    assert np.isfinite(room.corners).all()
    with pytest.raises(UsageError, match="catalogues"):
        read_models(tmp_path / "none")
    (tmp_path / "b.sh3f").write_bytes(b"no zip")
    with pytest.raises(Vision3DError, match="no catalogue"):
        read_models(tmp_path)
