"""Pose metrics: known errors, an independent implementation, invariance to the result's frame, unregistered photos."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vision3d.core import Camera, RigidTransform
from vision3d.eval.poses import evaluate_poses, relative_pose_errors, vector_angle
from vision3d.io.cameras_json import KnownCamera


def _pose(rotation, center):
    r = torch.from_numpy(rotation.as_matrix())
    return RigidTransform(r, -r @ torch.as_tensor(center, dtype=torch.float64))


def _ring(n, seed=0):
    rng = np.random.default_rng(seed)
    return {f"{i}.jpg": _pose(Rotation.random(rng=rng), rng.normal(size=3) * 2) for i in range(n)}


def _moved(poses, rotation, translation, scale):
    """The same cameras in another world frame: X' = scale R X + t."""
    r = torch.from_numpy(rotation.as_matrix())
    out = {}
    for name, pose in poses.items():
        center = scale * r @ pose.center() + torch.as_tensor(translation, dtype=torch.float64)
        new = pose.rotation @ r.T
        out[name] = RigidTransform(new, -new @ center)
    return out


def _known(poses, camera=None):
    return {name: KnownCamera(camera, pose) for name, pose in poses.items()}


def _noisy(poses, degrees, shift, seed=1):
    rng = np.random.default_rng(seed)
    out = {}
    for name, pose in poses.items():
        axis = rng.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis))
        rotation = Rotation.from_matrix(pose.rotation.numpy())
        out[name] = _pose(turn * rotation, pose.center().numpy() + shift * rng.normal(size=3))
    return out


def test_angles_in_closed_form():
    x, y = torch.eye(3, dtype=torch.float64)[:2]
    assert vector_angle(x, 2 * y) == pytest.approx(np.pi / 2)
    assert vector_angle(x, -3 * x) == pytest.approx(np.pi)
    assert vector_angle(x, x + 1e-9 * y) == pytest.approx(1e-9)


def test_against_an_independent_implementation():
    truth, estimate = _ring(6), _noisy(_ring(6), 4, 5.0)  # some directions are beyond 90 degrees
    errors = relative_pose_errors(estimate, truth)
    assert errors.pairs == tuple(itertools.combinations(sorted(truth), 2))
    for k, (a, b) in enumerate(errors.pairs):
        # Quaternions and centres instead of matrices: t_ij = R_i (c_j - c_i).
        q = {n: (Rotation.from_matrix(s[n].rotation.numpy())) for s, n in ((truth, a), (truth, b))}
        p = {n: (Rotation.from_matrix(estimate[n].rotation.numpy())) for n in (a, b)}
        rotation = ((p[a] * p[b].inv()) * (q[a] * q[b].inv()).inv()).magnitude()
        t_true = q[a].apply((truth[b].center() - truth[a].center()).numpy())
        t = p[a].apply((estimate[b].center() - estimate[a].center()).numpy())
        cosine = t @ t_true / np.linalg.norm(t) / np.linalg.norm(t_true)
        assert errors.rotation_deg[k] == pytest.approx(np.degrees(rotation), abs=1e-7)
        assert errors.direction_deg[k] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-5)
        # The CO3D evaluation's formula: the cosine is squared, which drops the sign.
        unsigned = np.degrees(np.arccos(np.sqrt(cosine**2)))
        assert errors.co3d_deg[k] == pytest.approx(max(errors.rotation_deg[k], unsigned), abs=1e-5)


def test_known_errors():
    """Three cameras on a line; the last one is turned by 8 degrees and lifted so that its direction is known."""
    truth = {n: _pose(Rotation.identity(), [x, 0, 0]) for n, x in (("a", 0.0), ("b", 1.0), ("c", 2.0))}
    turned = Rotation.from_euler("x", 8, degrees=True)
    estimate = {**truth, "c": _pose(turned, [2.0, 0, 2 * np.tan(np.radians(6))])}
    errors = relative_pose_errors(estimate, truth)
    np.testing.assert_allclose(errors.rotation_deg, [0, 8, 8], atol=1e-9)
    # from a: rises 2 tan 6 over 2; from b: over 1
    expected = [0, 6, np.degrees(np.arctan(2 * np.tan(np.radians(6))))]
    np.testing.assert_allclose(errors.direction_deg, expected, atol=1e-9)
    result = evaluate_poses(_known(estimate), _known(truth))
    assert result.rra[5] == pytest.approx(100 / 3)
    assert result.rta[10] == pytest.approx(200 / 3)
    # max(rotation, direction) = 0, 8, 11.87: (1 + (1 - 8/30) + (1 - 11.87/30)) / 3
    assert result.auc[30] == pytest.approx(100 / 3 * (3 - 8 / 30 - expected[2] / 30))
    # CO3D bins: recall from the bin of the error on: (30 + (30 - 8) + (30 - 11)) / 90
    assert result.co3d_auc[30] == pytest.approx(100 * (30 + 22 + 19) / 90)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-2, 1e2), st.floats(-50, 50))
def test_frame_and_scale_of_the_result_do_not_matter(seed, scale, shift):
    truth = _ring(5)
    estimate = _noisy(truth, 3, 0.1)
    moved = _moved(estimate, Rotation.random(rng=np.random.default_rng(seed)), [shift, -shift, 1], scale)
    one, other = evaluate_poses(_known(estimate), _known(truth)), evaluate_poses(_known(moved), _known(truth))
    np.testing.assert_allclose(other.pairs.rotation_deg, one.pairs.rotation_deg, atol=1e-6)
    np.testing.assert_allclose(other.pairs.direction_deg, one.pairs.direction_deg, atol=1e-6)
    np.testing.assert_allclose([p.center for p in other.photos], [p.center for p in one.photos], atol=1e-6)


def test_a_moved_truth_has_no_error():
    truth = _ring(7)
    result = evaluate_poses(
        _known(_moved(truth, Rotation.random(rng=np.random.default_rng(3)), [1, 2, 3], 0.2)), _known(truth)
    )
    assert result.auc[5] == pytest.approx(100, abs=1e-4)
    assert max(p.center_relative for p in result.photos) < 1e-9


def test_unregistered_photos_count_as_180_degrees():
    truth = _ring(4)
    estimate = {name: pose for name, pose in truth.items() if name != "3.jpg"}
    result = evaluate_poses(_known(estimate), _known(truth))
    assert result.registered == 3
    assert sorted(result.pairs.pose_deg.tolist())[3:] == [180, 180, 180]
    assert result.auc[30] == pytest.approx(50, abs=1e-4)
    assert result.co3d_auc[30] == pytest.approx(50)
    assert result.rra[30] == result.rta[30] == 50
    last = result.photos[-1]
    assert (last.registered, last.center, last.rotation_deg) == (False, None, None)
    # a photo that is named without a pose is unregistered, too
    named = {**_known(estimate), "3.jpg": KnownCamera(None, None)}
    assert evaluate_poses(named, _known(truth)).auc == result.auc


def test_nothing_registered():
    result = evaluate_poses({}, _known(_ring(3)))
    assert result.auc[30] == result.co3d_auc[30] == 0
    assert result.registered == 0


def test_subset_of_photos():
    truth = _ring(6)
    estimate = {"0.jpg": truth["0.jpg"], "2.jpg": truth["2.jpg"]}
    assert evaluate_poses(_known(estimate), _known(truth), ["0.jpg", "2.jpg"]).auc[5] == pytest.approx(100, abs=1e-4)
    assert evaluate_poses(_known(estimate), _known(truth), ["0.jpg", "2.jpg", "1.jpg"]).auc[5] == pytest.approx(
        100 / 3, abs=1e-4
    )


def test_sign_of_the_direction():
    """A camera on the wrong side is 180 degrees off, and right for the CO3D convention, which ignores the sign."""
    truth = {"a": _pose(Rotation.identity(), [0, 0, 0]), "b": _pose(Rotation.identity(), [1, 0, 0])}
    estimate = {"a": truth["a"], "b": _pose(Rotation.identity(), [-1, 0, 0])}
    result = evaluate_poses(_known(estimate), _known(truth))
    assert result.pairs.direction_deg.tolist() == [180]
    assert result.auc[30] == 0
    assert result.co3d_auc[30] == 100


def test_zero_baselines():
    """Where the truth has no baseline the rotation alone counts; a missing baseline in the result is 180 degrees."""
    at = {n: _pose(Rotation.identity(), [x, 0, 0]) for n, x in (("a", 0.0), ("b", 0.0), ("c", 1.0))}
    apart = {**at, "b": _pose(Rotation.identity(), [1e-3, 0, 0])}
    assert relative_pose_errors(apart, at).direction_deg.tolist() == [0, 0, 0]
    assert relative_pose_errors(at, apart).direction_deg.tolist() == [180, 0, 0]
    together = {n: _pose(Rotation.identity(), [1, 1, 1]) for n in "abc"}
    assert evaluate_poses(_known(together), _known(at)).photos[0].center is None
    assert relative_pose_errors(together, together).direction_deg.tolist() == [0, 0, 0]


def test_center_error_after_alignment():
    """Against the least squares found by a general optimiser."""
    from scipy.optimize import minimize

    truth, estimate = _ring(6), _noisy(_ring(6), 2, 0.3)
    source = np.stack([estimate[n].center().numpy() for n in sorted(truth)])
    target = np.stack([truth[n].center().numpy() for n in sorted(truth)])

    def aligned(p):
        return np.exp(p[6]) * Rotation.from_rotvec(p[:3]).apply(source) + p[3:6]

    best = minimize(lambda p: ((aligned(p) - target) ** 2).sum(), np.zeros(7), tol=1e-14)
    expected = np.linalg.norm(aligned(best.x) - target, axis=1)
    result = evaluate_poses(_known(estimate), _known(truth))
    np.testing.assert_allclose([p.center for p in result.photos], expected, atol=1e-5)
    size = max(np.linalg.norm(a - b) for a in target for b in target)
    assert result.scene_size == pytest.approx(size)
    np.testing.assert_allclose([p.center_relative for p in result.photos], expected / size, atol=1e-5)


def test_two_registered_photos_have_no_center_error():
    truth = _ring(2)
    assert all(p.center is None for p in evaluate_poses(_known(truth), _known(truth)).photos)


def test_intrinsics():
    truth = Camera(800, 600, (1000.0, 1000.0), (400.0, 300.0))
    half = Camera(400, 300, (525.0, 495.0), (201.5, 148.0))
    poses = _ring(3)
    photo = evaluate_poses(_known(poses, half), _known(poses, truth)).photos[0]
    assert photo.focal_relative == pytest.approx(0.05)
    assert photo.principal_px == pytest.approx(5)
    assert evaluate_poses(_known(poses), _known(poses, truth)).photos[0].focal_relative is None


def test_cameras_on_a_line_have_center_errors():
    """Centres on a line leave the rotation open, not the errors: noise along the line is found exactly."""
    rng = np.random.default_rng(5)
    truth = {f"{i}": _pose(Rotation.random(rng=rng), [i, 0, 0]) for i in range(4)}
    moved = _moved(truth, Rotation.random(rng=rng), [5, 5, 5], 3)
    assert max(p.center for p in evaluate_poses(_known(moved), _known(truth)).photos) < 1e-9


def test_bad_calls():
    truth = _known(_ring(3))
    with pytest.raises(ValueError, match=r"no ground truth for x\.jpg"):
        evaluate_poses(truth, truth, ["0.jpg", "x.jpg"])
    with pytest.raises(ValueError, match="at least two photos"):
        evaluate_poses(truth, truth, ["0.jpg"])
