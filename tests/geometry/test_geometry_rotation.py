"""SO(3) and SE(3): laws, SciPy as the independent oracle, and gradients at the hard places."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vision3d.core import RigidTransform
from vision3d.geometry.rigid import se3_exp, se3_log
from vision3d.geometry.rotation import (
    angle_between,
    nearest_rotation,
    quaternion_from_matrix,
    quaternion_to_matrix,
    rotation_angle,
    rotation_exp,
    rotation_log,
    skew,
)

ANGLES = [0.0, 1e-300, 1e-12, 1e-7, 1e-4, 0.01, 0.0099, 0.223, 0.224, 1.0, 3.0, math.pi - 1e-4, math.pi - 1e-9]


def _axes(n: int) -> torch.Tensor:
    axes = torch.randn(n, 3, dtype=torch.float64)
    return axes / axes.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("angle", [*ANGLES, math.pi])
def test_exp_and_log_agree_with_scipy(angle: float) -> None:
    rotvec = _axes(20) * angle
    rotation = rotation_exp(rotvec)
    oracle = Rotation.from_rotvec(rotvec.numpy()).as_matrix()
    assert torch.allclose(rotation, torch.from_numpy(oracle), atol=1e-14)
    back = rotation_log(rotation)
    assert torch.allclose(rotation_angle(rotation), torch.full((20,), angle, dtype=torch.float64), atol=1e-12)
    if angle == math.pi:  # both axes are right
        back = back * torch.sign((back * rotvec).sum(1, keepdim=True))
    assert torch.allclose(back, rotvec, atol=1e-8, rtol=1e-12)
    if angle < 3.1:
        assert torch.allclose(back, rotvec, atol=1e-15, rtol=1e-13)


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_se3_exp_and_log_undo_each_other(numbers: list[float]) -> None:
    xi = torch.tensor(numbers, dtype=torch.float64)
    angle = xi[3:].norm()
    if angle > 3.1:
        xi[3:] *= 3.1 / angle
    transform = se3_exp(xi)
    assert torch.allclose(se3_log(transform), xi, atol=1e-12)
    identity = (transform @ se3_exp(-xi)).matrix()
    assert torch.allclose(identity, torch.eye(4, dtype=torch.float64), atol=1e-13)


def test_se3_exp_is_the_matrix_exponential() -> None:
    xi = torch.randn(50, 6, dtype=torch.float64)
    xi[:10, 3:] *= 1e-5
    xi[10] = 0
    twist = torch.zeros(50, 4, 4, dtype=torch.float64)
    twist[:, :3, :3], twist[:, :3, 3] = skew(xi[:, 3:]), xi[:, :3]
    assert torch.allclose(se3_exp(xi).matrix(), torch.linalg.matrix_exp(twist), atol=1e-13)


def test_quaternions_agree_with_scipy_and_round_trip() -> None:
    oracle = Rotation.random(200, rng=np.random.default_rng(0))
    rotation = torch.from_numpy(oracle.as_matrix())
    wxyz = torch.from_numpy(oracle.as_quat(canonical=True, scalar_first=True))
    ours = quaternion_from_matrix(rotation)
    assert torch.allclose(ours, wxyz, atol=1e-14)
    assert torch.allclose(quaternion_to_matrix(3 * ours), rotation, atol=1e-14)
    half_turns = torch.stack([torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([1, -1, -1], [-1, -1, 1])])
    assert torch.allclose(quaternion_to_matrix(quaternion_from_matrix(half_turns)), half_turns)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.2, 1.0, 3.1])
def test_gradients_are_right_everywhere(angle: float) -> None:
    rotvec = (_axes(2) * angle).requires_grad_()
    assert torch.autograd.gradcheck(rotation_exp, (rotvec,))
    assert torch.autograd.gradcheck(lambda v: rotation_log(rotation_exp(v)), (rotvec,))
    xi = torch.cat([torch.randn(2, 3, dtype=torch.float64), rotvec.detach()], dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: se3_log(se3_exp(v)), (xi,))


def test_gradients_are_finite_at_half_a_turn() -> None:
    for axis in torch.eye(3, dtype=torch.float64):
        rotation = rotation_exp(axis * math.pi).requires_grad_()
        rotation_log(rotation).sum().backward()
        assert rotation.grad is not None and bool(torch.isfinite(rotation.grad).all())
    identity = torch.eye(3, dtype=torch.float64, requires_grad=True)
    angle_between(identity, torch.eye(3, dtype=torch.float64)).backward()
    assert identity.grad is not None and bool(torch.isfinite(identity.grad).all())


def test_angles_keep_their_digits_at_both_ends() -> None:
    base = rotation_exp(torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64))
    for angle in (1e-10, 1e-5, math.pi - 1e-6):
        turned = base @ rotation_exp(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
        assert float(angle_between(base, turned)) == pytest.approx(angle, abs=1e-15, rel=1e-5 if angle < 1 else 1e-12)


def test_float32_is_kept() -> None:
    rotvec = torch.tensor([[1e-6, 0, 0], [0.5, -0.2, 0.1]])
    assert rotation_exp(rotvec).dtype == torch.float32
    assert torch.allclose(rotation_log(rotation_exp(rotvec)), rotvec, atol=1e-6)
    assert se3_exp(torch.zeros(6)).translation.dtype == torch.float32


def test_nearest_rotation() -> None:
    rotation = rotation_exp(_axes(5))
    assert torch.allclose(nearest_rotation(rotation * 2.5), rotation)
    mirrored = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    assert float(torch.linalg.det(nearest_rotation(mirrored))) == pytest.approx(1)


def test_empty_batches() -> None:
    none = torch.zeros(0, 3)
    assert rotation_log(rotation_exp(none)).shape == (0, 3)
    assert se3_log(RigidTransform(torch.zeros(0, 3, 3), none)).shape == (0, 6)
