"""Registration by Hough votes: closed form, frames, twins, real fragments, unrelated and ambiguous clouds."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vision3d.core import PointCloud, RigidTransform
from vision3d.io.ply import read_ply
from vision3d.io.scans import read_scan
from vision3d.matching.hough.candidates import candidates
from vision3d.matching.hough.compatibility import compatible, compatible_pairs, compatible_slow
from vision3d.matching.hough.fcgf import COMPACT as FCGF_COMPACT
from vision3d.matching.hough.fcgf import Fcgf
from vision3d.matching.hough.feature_matches import mutual_matches, nearest_features
from vision3d.matching.hough.fpfh import fpfh, fpfh_slow
from vision3d.matching.hough.grid import point_grid, thin, thin_slow
from vision3d.matching.hough.joint import refine
from vision3d.matching.hough.learned import LearnedFeatures
from vision3d.matching.hough.normals import normals, normals_slow
from vision3d.matching.hough.point_to_plane import normal_equations, normal_equations_slow
from vision3d.matching.hough.pose_graph import Edge, solve_pose_graph
from vision3d.matching.hough.register import RegisterConfig, register
from vision3d.matching.hough.surface import surface
from vision3d.matching.hough.triplets import draw_triplets, triplet_poses, triplet_poses_slow
from vision3d.matching.hough.vote_network import COMPACT as VOTES_COMPACT
from vision3d.matching.hough.vote_network import VoteNetwork
from vision3d.matching.hough.voting import smooth_slow, vote

# gt.log of 3DMatch, 7-scenes-redkitchen, pair 0 1: cloud 1 into cloud 0
TRUTH_01 = np.array(
    [
        [0.996926560, 0.0668735757, -0.0406664421, -0.115576939],
        [-0.0661289946, 0.997617877, 0.0194008687, -0.0387705398],
        [0.041867551, -0.0166517807, 0.998977765, 0.11487489],
        [0, 0, 0, 1],
    ]
)


def matches_with_outliers(angle_deg: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(-1.5, 1.5, (1000, 3))
    axis = rng.normal(size=3)
    rotation = Rotation.from_rotvec(np.deg2rad(angle_deg) * axis / np.linalg.norm(axis)).as_matrix()
    translation = rng.normal(size=3) * 0.3
    q = p @ rotation.T + translation
    q[50:] = rng.uniform(-1.5, 1.5, (950, 3))
    return p, q, rotation, translation


@pytest.mark.parametrize("angle", [0.0, 35.0, 120.0, 179.0, 179.99, 180.0])
def test_five_percent_inliers_give_the_pose(angle: float) -> None:
    p, q, rotation, translation = matches_with_outliers(angle)
    best = candidates(p, q, 0.05, triplets=40_000, most=10, seed=0)[0]
    off = Rotation.from_matrix(best.pose[0].T @ rotation).magnitude()
    assert np.rad2deg(off) < 0.1
    assert np.linalg.norm(best.pose[1] - translation) < 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_pose_does_not_depend_on_the_frames(seed: int) -> None:
    p, q, rotation, translation = matches_with_outliers(50.0)
    turn0, turn1 = Rotation.random(2, random_state=seed).as_matrix()
    best = candidates(p @ turn0.T, q @ turn1.T, 0.05, triplets=40_000, most=10, seed=0)[0]
    np.testing.assert_allclose(turn1.T @ best.pose[0] @ turn0, rotation, atol=1e-4)
    np.testing.assert_allclose(turn1.T @ best.pose[1], translation, atol=1e-4)


def test_votes_on_both_sides_of_pi_fall_together() -> None:
    axis = np.array([0.6, -0.64, 0.48])
    rotvecs = np.stack([axis * (math.pi - 0.01), -axis * (math.pi - 0.01)])
    space = vote(rotvecs, np.full((2, 3), 0.5), np.ones(2), 0.05, 1.0)
    assert space.smooth.max() == 2
    np.testing.assert_allclose(space.smooth, smooth_slow(space.bins, space.votes))


def test_kernels_equal_their_twins() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-1, 1, (400, 3)) * (1, 1, 0.1)
    mean, mean_slow = thin(points, 0.2), thin_slow(points, 0.2)
    np.testing.assert_allclose(mean[np.lexsort(mean.T)], mean_slow[np.lexsort(mean_slow.T)], atol=1e-12)
    grid = point_grid(points, 0.4)
    n, flatness = normals(grid, 0.3, np.array([0, 0, 9.0]))
    n_slow, flatness_slow = normals_slow(grid.points, 0.3, np.array([0, 0, 9.0]))
    np.testing.assert_allclose(np.abs((n * n_slow).sum(1)), 1, atol=1e-6)
    np.testing.assert_allclose(flatness, flatness_slow, atol=1e-8)
    off = np.abs(fpfh(grid, n, 0.4) - fpfh_slow(grid.points, n, 0.4))
    assert (off < 1e-2).mean() > 0.99 and off.max() < 5  # an angle at the border of two bins may fall into either
    p, q, _, _ = matches_with_outliers(20.0)
    p, q = p[:200], q[:200]
    bits, table = compatible(p, q, 0.05, 0.3), compatible_slow(p, q, 0.05, 0.3)
    np.testing.assert_array_equal(np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :200], table)
    pairs, shared = compatible_pairs(bits)
    assert len(pairs) == table.sum() // 2
    np.testing.assert_array_equal(shared, (table.astype(int) @ table)[pairs[:, 0], pairs[:, 1]])
    triplets, strength = draw_triplets(bits, 500, 0)
    i, j, k = triplets.T
    assert len(triplets) > 50 and bool((table[i, j] & table[j, k] & table[i, k]).all())
    assert len(np.unique(np.sort(triplets, axis=1), axis=0)) > 0.8 * len(triplets)
    partners = table.astype(int) @ table
    np.testing.assert_array_equal(
        strength, np.minimum(partners[i, j], np.minimum(partners[j, k], partners[i, k])).astype(float)
    )
    every, _ = draw_triplets(bits, 10**9, 0)  # more than there are: each partner of each pair once
    assert len(every) == np.triu(table * partners).sum() == len(np.unique(every, axis=0))
    rotations, translations, _ = triplet_poses(p, q, triplets)
    rotations_slow, translations_slow = triplet_poses_slow(p, q, triplets)
    np.testing.assert_allclose(rotations, rotations_slow, atol=1e-7)
    np.testing.assert_allclose(translations, translations_slow, atol=1e-7)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 700), (1300, 900)])
def test_nearest_features_equal_all_distances(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(n, 33)) * 30 + 100, rng.normal(size=(m, 33)) * 30 + 100
    index0, index1 = nearest_features(a, b)
    distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
    np.testing.assert_array_equal(index0, distance.argmin(1))
    np.testing.assert_array_equal(index1, distance.argmin(0))
    pairs, length = mutual_matches(a, b)
    best = (distance == distance.min(1, keepdims=True)) & (distance == distance.min(0, keepdims=True))
    np.testing.assert_array_equal(pairs, np.argwhere(best))
    np.testing.assert_allclose(length, distance[best])
    assert len(mutual_matches(a, b[:0])[0]) == 0


def test_normal_equations_equal_their_twin() -> None:
    """Far from the origin, where sums about it lose digits, and with pairs that must not count."""
    rng = np.random.default_rng(4)
    points, onto = rng.uniform(-1, 1, (500, 3)) + 4, rng.uniform(-1, 1, (300, 3)) + 4
    directions, other = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in rng.normal(size=(2, 500, 3)))
    pose = (Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix(), np.array([0.2, 0.1, -0.4]))
    index, distance = rng.integers(-1, 300, 500).astype(np.int32), rng.uniform(0, 0.3, 500)
    given = (points, directions, pose, onto, np.ascontiguousarray(other[:300]), index, distance, 0.2)
    fast, slow = normal_equations(*given), normal_equations_slow(*given)
    for name in ("information", "right", "center", "radius", "weight", "squares"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), atol=1e-10, err_msg=name)
    nothing = normal_equations(*given[:5], np.full(500, -1, np.int32), distance, 0.2)
    assert nothing.weight == 0 and not nothing.information.any()


def test_refinement_holds_by_matches_what_the_surface_leaves_free() -> None:
    """A floor and noisy matches, half of them wrong: the surface fixes three directions, the matches the others."""
    rng = np.random.default_rng(6)
    floor = np.c_[rng.uniform(-1.5, 1.5, (4000, 2)), np.zeros(4000)]
    up = np.tile([0.0, 0.0, 1.0], (4000, 1))
    target = surface(floor, up, 0.1)
    matched0 = floor[:400]
    matched1 = matched0 + rng.normal(size=(400, 3)) * 0.02
    matched1[200:] = rng.uniform(-1.5, 1.5, (200, 3))
    start = (Rotation.from_rotvec([0.01, -0.01, 0.03]).as_matrix(), np.array([0.03, -0.03, 0.02]))
    none = np.zeros((0, 3))
    slid = refine(floor, up, target, none, none, start, 0.05)
    assert np.linalg.norm(slid[1][:2]) > 0.02 and abs(slid[1][2]) < 1e-3
    rotation, translation = refine(floor, up, target, matched0, matched1, start, 0.05)
    assert np.rad2deg(Rotation.from_matrix(rotation).magnitude()) < 0.15
    assert np.linalg.norm(translation) < 0.005


def test_refinement_of_an_exact_copy_is_exact() -> None:
    rng = np.random.default_rng(7)
    points = rng.uniform(-1, 1, (3000, 3))
    points[np.arange(3000), rng.integers(0, 3, 3000)] = 1.0
    directions = (points == 1.0).astype(float)
    target = surface(points, directions, 0.1)
    start = (Rotation.from_rotvec([0.01, -0.01, 0.01]).as_matrix(), np.array([0.01, -0.01, 0.01]))
    rotation, translation = refine(points, directions, target, points, points, start, 0.05)
    assert Rotation.from_matrix(rotation).magnitude() < 1e-6 and np.linalg.norm(translation) < 1e-6


class Scrambled(LearnedFeatures):
    """Gives every voxel the feature of another."""

    def describe(self, points, voxel):
        thinned, values = super().describe(points, voxel)
        return thinned, values[torch.randperm(len(values))]


def test_learned_features_and_votes_take_part(test_data) -> None:
    """Untrained compact networks begin as FPFH and as the smoothed votes; scrambled ones spoil the result."""
    source, target = fragment(test_data, 1), fragment(test_data, 0)
    config = RegisterConfig(voxel=0.05)
    torch.manual_seed(0)
    features, votes = LearnedFeatures(Fcgf(FCGF_COMPACT)), VoteNetwork(VOTES_COMPACT)
    found = register(source, target, config, features=features, votes=votes)
    assert found.registered
    degrees, metres = error(found.target_from_source, TRUTH_01)
    assert degrees < 1 and metres < 0.03
    plain, ranked = register(source, target, config), register(source, target, config, votes=votes)
    torch.testing.assert_close(plain.target_from_source.matrix(), ranked.target_from_source.matrix(), atol=0.01, rtol=0)
    assert ranked.evidence.votes <= 1 < plain.evidence.votes  # a probability, a sum of votes
    assert not register(source, target, config, features=Scrambled(features.network)).registered


def fragment(test_data, number: int) -> PointCloud:
    return read_ply(test_data / f"scans/7-scenes-redkitchen/cloud_bin_{number}.ply").cloud


def error(found: RigidTransform, truth: np.ndarray) -> tuple[float, float]:
    turn = found.rotation.numpy().T @ truth[:3, :3]
    off = Rotation.from_matrix(turn).magnitude()
    return float(np.rad2deg(off)), float(np.linalg.norm(found.translation.numpy() - truth[:3, 3]))


def test_kitchen_fragments_in_any_frame_register(test_data) -> None:
    source, target = fragment(test_data, 1).points.double(), fragment(test_data, 0)
    turn = torch.from_numpy(Rotation.random(random_state=5).as_matrix())
    moved = RigidTransform(turn, torch.tensor([900.0, -20.0, 7.0], dtype=torch.float64))
    found = register(PointCloud(moved.apply(source)), target, RegisterConfig(voxel=0.05))
    assert found.registered and len(found.inliers) > 100
    assert error(found.target_from_source @ moved, TRUTH_01)[0] < 1
    assert error(found.target_from_source @ moved, TRUTH_01)[1] < 0.03
    again = register(PointCloud(moved.apply(source)), target, RegisterConfig(voxel=0.05))
    assert torch.equal(found.target_from_source.matrix(), again.target_from_source.matrix())
    millimetres = register(PointCloud(source * 1000), PointCloud(target.points * 1000))
    assert millimetres.registered and 30 < millimetres.evidence.voxel < 80
    assert not register(PointCloud(source * 1000), target).registered


def test_unrelated_and_mirrored_clouds_do_not_register(test_data) -> None:
    kitchen = fragment(test_data, 0).points.double()
    street = read_scan(test_data / "kitti/training/velodyne/000002.bin").points.double() / 25
    mirrored = kitchen * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    low, high = kitchen[:, 0].quantile(0.4), kitchen[:, 0].quantile(0.6)
    left, right = kitchen[kitchen[:, 0] < low], kitchen[kitchen[:, 0] > high]
    for other, target in ((street, kitchen), (mirrored, kitchen), (left, right)):
        assert not register(PointCloud(other), PointCloud(target), RegisterConfig(voxel=0.05)).registered


def test_bad_clouds_get_a_verdict() -> None:
    rng = np.random.default_rng(0)
    plane = torch.from_numpy(rng.uniform(-1, 1, (20000, 3)) * (1, 1, 0))
    ball = torch.from_numpy(rng.normal(size=(20000, 3)))
    ball = ball / ball.norm(dim=1, keepdim=True)
    for cloud in (plane, ball):
        found = register(PointCloud(cloud), PointCloud(cloud + 0.3))
        assert not found.registered and torch.isfinite(found.target_from_source.matrix()).all()
    for few in (torch.zeros(0, 3), torch.zeros(1, 3), torch.zeros(500, 3), torch.rand(10, 3)):
        assert not register(PointCloud(few), PointCloud(ball)).registered
    with pytest.raises(ValueError, match="NaN"):
        register(PointCloud(torch.full((10, 3), math.nan)), PointCloud(ball))


def test_pose_graph_outvotes_a_wrong_pair() -> None:
    rng = np.random.default_rng(1)
    true = [RigidTransform.identity()] + [
        RigidTransform(
            torch.from_numpy(Rotation.random(random_state=s).as_matrix()), torch.from_numpy(rng.normal(size=3))
        )
        for s in range(4)
    ]
    edges = [Edge(i, j, true[i].inverse() @ true[j], 1.0) for j in range(5) for i in range(j)]
    edges[2] = Edge(edges[2].i, edges[2].j, true[3], 0.5)
    graph = solve_pose_graph(6, edges, 1.0, 0.1)
    assert graph.first_from[5] is None and graph.group == [0, 1, 2, 3, 4]
    for pose, truth in zip(graph.first_from[:5], true, strict=True):
        assert pose is not None
        torch.testing.assert_close(pose.matrix(), truth.matrix(), atol=1e-2, rtol=0)
    assert graph.trust[2] < 0.1 and min(t for k, t in enumerate(graph.trust) if k != 2) > 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_scan_is_not_laid_upside_down(test_data, axis: int) -> None:
    points = read_scan(test_data / "kitti-tracking-0001/velodyne/000000.bin").points
    mirror = torch.ones(3)
    mirror[axis] = -1
    found = register(PointCloud(points * mirror), PointCloud(points), RegisterConfig(voxel=0.3))
    assert not found.registered
    assert found.evidence.opposed > 0.8 and "mirrored" in found.evidence.reason


@pytest.mark.parametrize("stray", [[0.0, 0.0, 0.0], [1e9, 0.0, 0.0], [5e5, 5.4e6, 1e5]])
def test_a_stray_point_is_dropped(test_data, stray: list[float]) -> None:
    far = torch.tensor([5e5, 5.4e6, 300.0], dtype=torch.float64)
    source = fragment(test_data, 1).points.double() + far
    with_stray = PointCloud(torch.cat([source, torch.tensor([stray], dtype=torch.float64)]))
    found = register(with_stray, fragment(test_data, 0))
    assert found.registered and found.evidence.dropped == 1
