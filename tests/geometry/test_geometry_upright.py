"""Up is found from rings, fans and single cameras, looking level or down, held level or turned on the side."""

import math

import pytest
import torch

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks
from vision3d.geometry.rotation import rotation_exp
from vision3d.geometry.upright import up_direction
from vision3d.io.glb import upright_from_world


def _cameras(n: int, degrees: float, down: float, roll: float = 0, noise: float = 1.0) -> torch.Tensor:
    """cam_from_world of cameras about the world's axis +z (up), looking inwards and `down` degrees down."""
    g = torch.Generator().manual_seed(n)
    out = []
    for i in range(n):
        angle = math.radians(degrees * i / max(n if degrees == 360 else n - 1, 1))
        pitch = math.radians(down)
        forward = torch.tensor(
            [-math.cos(angle) * math.cos(pitch), -math.sin(angle) * math.cos(pitch), -math.sin(pitch)]
        ).double()
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0, 0, 1.0]).double()), dim=0)
        level = torch.stack([right, torch.linalg.cross(forward, right), forward])
        turn = rotation_exp(torch.tensor([0, 0, math.radians(roll)]).double())
        jitter = rotation_exp(torch.randn(3, generator=g, dtype=torch.float64) * math.radians(noise))
        out.append(jitter @ turn @ level)
    return torch.stack(out)


def _off_deg(up: torch.Tensor) -> float:
    assert float(up.norm()) == pytest.approx(1)
    return math.degrees(math.acos(min(1.0, float(up[2]))))


@pytest.mark.parametrize("down", [-10, 0, 30, 65])
@pytest.mark.parametrize("degrees", [360, 180, 60])
def test_held_level(degrees: float, down: float) -> None:
    assert _off_deg(up_direction(_cameras(16, degrees, down))) < 4


@pytest.mark.parametrize("roll", [90, -90])
@pytest.mark.parametrize("down", [20, 60])
def test_portrait_shots_that_were_not_turned(down: float, roll: float) -> None:
    assert _off_deg(up_direction(_cameras(16, 360, down, roll))) < 4


def test_one_camera_is_upright_itself() -> None:
    one = _cameras(1, 0, 40)
    assert torch.allclose(up_direction(one), -one[0, 1], atol=1e-9)


def test_few_cameras_side_by_side_follow_their_pictures() -> None:
    assert _off_deg(up_direction(_cameras(2, 8, 0))) < 3
    assert _off_deg(up_direction(_cameras(3, 15, 20))) < 21


@pytest.mark.parametrize("degrees", [360, 60])
def test_gltf_axes(degrees: float) -> None:
    rotations = _cameras(12, degrees, 30)
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    images = {str(i): PosedImage(1, RigidTransform(r, torch.zeros(3).double())) for i, r in enumerate(rotations)}
    camera = Camera(4, 3, (4, 4), (2, 1.5))
    turn = upright_from_world(Scene({1: camera}, images, nothing, nothing.byte(), nothing[:, 0], Tracks.empty()))
    assert torch.allclose(turn @ turn.mT, torch.eye(3).double(), atol=1e-9) and float(torch.linalg.det(turn)) > 0
    assert _off_deg(turn[1]) < 4  # y is up
    if degrees == 60:
        ahead = turn @ rotations[:, 2].mean(0)
        assert float(ahead[2]) < -0.7 and abs(float(ahead[0])) < 0.1  # they look along -z
