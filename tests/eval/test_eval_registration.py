"""Registration benchmarks: errors against SciPy, the rules where they differ, two phases, resuming, the command."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from vision3d.cli.main import main
from vision3d.core import Correspondences, PointCloud, RigidTransform
from vision3d.data.cloud_pairs import CloudPair
from vision3d.errors import UsageError, Vision3DError
from vision3d.eval import registration_predictions as predictions
from vision3d.eval.registration_errors import information_rmse, inlier_ratio, rotation_error_deg, translation_error
from vision3d.eval.registration_predictions import PredictionSettings, poses_path, save_predictions
from vision3d.eval.registration_report import evaluate_registration, score_registration
from vision3d.eval.registration_scores import (
    RMSE_RULE,
    MatchScore,
    PairScore,
    error_rule,
    errors_of_right,
    feature_match_recall,
    recall_by_pairs,
    recall_by_scenes,
    verdict,
)
from vision3d.geometry.rigid import se3_exp
from vision3d.matching.hough.registration import Evidence, Registration
from vision3d.matching.hough.vote_network import COMPACT, VoteNetwork

RULE = error_rule(0.3, 15)


def pose(x=0.0, y=0.0, z=0.0, *, turn_deg=0.0) -> RigidTransform:
    """A motion along the axes and a turn about z."""
    return RigidTransform(
        se3_exp(torch.tensor([0, 0, 0, 0, 0, math.radians(turn_deg)], dtype=torch.float64)).rotation,
        torch.tensor([x, y, z], dtype=torch.float64),
    )


def score(name="s/0_2", *, scene="s", te=0.0, re=0.0, rmse=0.0, neighbours=False, registered=True) -> PairScore:
    return PairScore(
        name=name, scene=scene, method="m", neighbours=neighbours, registered=registered, rotation_deg=re,
        translation_m=te, rmse_m=rmse, seconds=1.0, feature_seconds=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_errors_agree_with_scipy_and_the_official_formula(seed) -> None:
    """Written again with NumPy and SciPy: gt.log's matrices take j to i, the error is inv(T_gt) T_est."""
    random = np.random.default_rng(seed)
    matrices = []
    for spread in (3.0, 0.3 if seed else 1e-9):
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_rotvec(random.normal(size=3) * spread).as_matrix()
        matrix[:3, 3] = random.normal(size=3) * spread
        matrices.append(matrix)
    i_from_j = matrices[0]
    estimate = i_from_j @ matrices[1]
    jacobian = random.normal(size=(200, 6))
    information = jacobian.T @ jacobian
    error = np.linalg.inv(i_from_j) @ estimate
    quaternion = Rotation.from_matrix(error[:3, :3]).as_quat(canonical=True)
    e = np.concatenate([error[:3, 3], quaternion[:3]])
    expected = math.sqrt(e @ information @ e / information[0, 0])
    ours = [RigidTransform.from_matrix(torch.from_numpy(m)).inverse() for m in (estimate, i_from_j)]
    assert information_rmse(*ours, torch.from_numpy(information)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    inverses = np.linalg.inv(estimate), np.linalg.inv(i_from_j)
    angle = np.degrees(Rotation.from_matrix(inverses[0][:3, :3] @ inverses[1][:3, :3].T).magnitude())
    assert rotation_error_deg(*ours) == pytest.approx(angle, rel=1e-6, abs=1e-6)
    assert translation_error(*ours) == pytest.approx(np.linalg.norm(inverses[0][:3, 3] - inverses[1][:3, 3]), abs=1e-9)


def test_direction_matters() -> None:
    """The truth turns by 90 deg. An error of the estimate's own x shows in another column of the information."""
    truth = pose(turn_deg=90)
    information = torch.diag(torch.tensor([1.0, 100, 1, 1, 1, 1]).double())
    # 0.1 m along the target's y: e = -0.1 in y, weighed by 100.
    assert information_rmse(pose(y=0.1, turn_deg=90), truth, information) == pytest.approx(1.0)
    assert information_rmse(pose(x=0.1, turn_deg=90), truth, information) == pytest.approx(0.1)


def test_rules_differ() -> None:
    """Far points: 10 deg off is within 15 deg and 0.3 m, but 2 m away it moves points by more than 0.2 m."""
    points = torch.tensor([[2.0, 0, 0]]).double()
    information = torch.zeros(6, 6).double()
    information[:3, :3] = torch.eye(3)
    information[4, 4] = information[5, 5] = float(points[0, 0]) ** 2 * 4
    rmse = information_rmse(pose(turn_deg=10), pose(), information)
    assert rmse == pytest.approx(2 * 2 * math.sin(math.radians(5)), rel=1e-9)
    turned = score(re=10, te=0, rmse=rmse)
    assert RULE.right(turned)
    assert not RMSE_RULE.right(turned)
    # 0.25 m off without a turn on near points that hardly weigh z: right by RMSE alone would need 0.2.
    assert RULE.right(score(te=0.25, rmse=0.25))
    assert not RMSE_RULE.right(score(te=0.25, rmse=0.25))
    # Near the origin a turn of 20 deg moves nothing: right by RMSE, wrong by 15 deg.
    assert RMSE_RULE.right(score(re=20, rmse=0.1))
    assert not RULE.right(score(re=20, rmse=0.1))
    assert RMSE_RULE.right(score(rmse=0.2))
    assert not RULE.right(score(te=0.3))


def test_neighbours_count_for_one_rule_only() -> None:
    scores = [score(neighbours=True, te=9, rmse=9), score(), score(te=9, rmse=9, re=90), score()]
    assert recall_by_pairs(scores, RMSE_RULE) == pytest.approx(2 / 3)
    assert recall_by_pairs(scores, RULE) == pytest.approx(2 / 4)
    assert recall_by_pairs(scores[:1], RMSE_RULE) is None


def test_averages_differ() -> None:
    """Scene a: 1 of 4, scene b: 1 of 1; a scene with neighbours only has no recall by RMSE and is left out."""
    bad = {"te": 9, "re": 90, "rmse": 9}
    scores = [score(scene="a"), *(score(scene="a", **bad) for _ in range(3)), score(scene="b")]
    scores.append(score(scene="c", neighbours=True, **bad))
    assert recall_by_scenes(scores, RMSE_RULE) == pytest.approx((1 / 4 + 1) / 2)
    assert recall_by_pairs(scores, RMSE_RULE) == pytest.approx(2 / 5)
    assert recall_by_scenes(scores, RULE) == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert recall_by_pairs(scores, RULE) == pytest.approx(2 / 6)


def test_means_are_over_successes() -> None:
    scores = [score(re=1, te=0.1), score(re=3, te=0.2), score(re=170, te=5)]
    assert errors_of_right(scores, RULE) == (pytest.approx(2.0), pytest.approx(0.15))
    assert errors_of_right(scores[2:], RULE) == (None, None)


def test_verdict_against_truth() -> None:
    wrong = {"re": 90, "te": 9, "rmse": 9}
    scores = [score(), score(), score(registered=False), score(**wrong), score(registered=False, **wrong)]
    v = verdict(scores, RULE)
    assert (v.registered, v.right, v.both) == (3, 3, 2)
    assert (v.precision, v.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    none = verdict([score(registered=False, **wrong)], RULE)
    assert (none.precision, none.recall) == (None, None)


def test_matches() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    moved = points + torch.tensor([0, 1.0, 0])
    moved[3, 2] += 0.15
    assert inlier_ratio(points, moved, pose(y=1), 0.1) == 0.75
    assert inlier_ratio(points, moved, pose(y=1), 0.2) == 1
    assert inlier_ratio(points[:0], moved[:0], pose(), 0.1) == 0
    scores = [MatchScore("a/0_1", "a", 9, r) for r in (0.04, 0.05, 0.06)] + [MatchScore("b/0_1", "b", 9, 0.5)]
    assert feature_match_recall(scores) == (pytest.approx((1 / 3 + 1) / 2), pytest.approx(2 / 4))


class Pairs:
    """Four pairs in two scenes of a few random points; picklable."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> CloudPair:
        points = torch.from_numpy(np.random.default_rng(index).uniform(-1, 1, (300, 3)))
        scene, truth = "ab"[index // 3], pose(x=index, turn_deg=20 * index)
        return CloudPair(
            f"{scene}/0_{index + 1}", scene, PointCloud(points), PointCloud(truth.apply(points)), truth,
            torch.eye(6).double(), index == 0,
        )  # fmt: skip


class Fake:
    """Stands in for registering: right but for the second pair, whose clouds it refuses; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, name, source, target, voxel, seed, features, votes) -> Registration:
        index = next(i for i in range(4) if torch.equal(Pairs()[i].source.points, source.points))
        self.calls.append(f"{name} {index}")
        if index == 1:
            raise ValueError("a cloud of nothing")
        found = pose(x=index, turn_deg=20 * index)
        return Registration(
            registered=True, target_from_source=found, coarse=pose(), inliers=Correspondences.empty(3),
            evidence=Evidence(reason="fake"), timings={"features": 0.25, "voting": 0.5, "refinement": 1.0},
        )  # fmt: skip


@pytest.fixture
def fake(monkeypatch):
    stand_in = Fake()
    monkeypatch.setattr(predictions, "run_method", stand_in)
    return stand_in


def test_report(fake, tmp_path) -> None:
    report = evaluate_registration(
        Pairs(), "3DMatch", tmp_path, PredictionSettings(), notes=("a: 3 of its 9 pairs",), expected={"a": 9, "b": 1}
    )
    content = json.loads((tmp_path / "report.json").read_text())
    assert content == json.loads(json.dumps(report.json()))
    assert content["complete"] is False
    tables = {(t["title"], i): t for i, t in enumerate(content["tables"])}
    by_rmse, by_errors = (t["rows"][0] for (title, _), t in tables.items() if title.endswith("registration recall"))
    assert (by_rmse["right"], by_rmse["recall %, scenes"]) == (2, pytest.approx(75))
    assert by_rmse["recall %, pairs"] == pytest.approx(200 / 3)
    assert (by_errors["right"], by_errors["recall %, pairs"]) == (3, pytest.approx(75))
    assert all("INCOMPLETE: 4 of 10 pairs" in t.caption for t in report.tables[:3])
    final, before = report.tables[2].json()["rows"]
    assert (final["mean s"], final["failed"], before["method"]) == (pytest.approx(1.75 * 3 / 4), 1, "hough, before ICP")
    assert before["mean s"] == pytest.approx(0.75 * 3 / 4)
    failed = next(p for p in content["pairs"] if p["name"] == "a/0_2")
    assert (failed["translation_m"], failed["failure"]) == (None, "a cloud of nothing")
    picture = np.asarray(Image.open(tmp_path / "recall.png")).astype(int)
    assert picture.shape == (420, 3 * 520, 3)
    assert (abs(picture - (31, 119, 180)) < 20).all(-1).sum() > 500  # our line


def test_second_phase_needs_files_only(fake, tmp_path) -> None:
    settings = PredictionSettings()
    first = evaluate_registration(Pairs(), "3DMatch", tmp_path, settings)
    moved = tmp_path.parent / "moved"
    shutil.rmtree(moved, ignore_errors=True)
    shutil.move(tmp_path, moved)
    again = score_registration("3DMatch", moved, settings, notes=(), expected={})
    assert again.json() == first.json()
    poses_path(moved, "hough", "b/0_4").write_text("{")
    with pytest.raises(Vision3DError, match=r"0_4.json is missing or broken: register the pairs again"):
        score_registration("3DMatch", moved, settings, notes=(), expected={})
    with pytest.raises(Vision3DError, match=r"pairs.json is missing"):
        score_registration("3DMatch", moved / "poses", settings, notes=(), expected={})


def test_a_killed_run_goes_on(fake, tmp_path, monkeypatch) -> None:
    class Killed(Fake):
        def __call__(self, *arguments) -> Registration:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    monkeypatch.setattr(predictions, "run_method", Killed())
    with pytest.raises(KeyboardInterrupt):
        save_predictions(Pairs(), tmp_path, PredictionSettings())
    assert len(list(tmp_path.glob("poses/**/*.json"))) == 2
    (tmp_path / "poses" / "hough" / "a" / ".0_9.json.999999999-0123abcd.tmp").write_text("half")
    poses_path(tmp_path, "hough", "a/0_1").write_text('{"half": ')
    monkeypatch.setattr(predictions, "run_method", fake)
    save_predictions(Pairs(), tmp_path, PredictionSettings())
    assert fake.calls == ["hough 0", "hough 2", "hough 3"]
    assert not list(tmp_path.glob("poses/**/.*.tmp"))
    save_predictions(Pairs(), tmp_path, PredictionSettings())
    assert len(fake.calls) == 3
    save_predictions(Pairs(), tmp_path, PredictionSettings(seed=1))
    assert len(fake.calls) == 7


def test_other_networks_make_new_predictions(fake, tmp_path) -> None:
    """The key holds what the files hold, not what they are called."""
    first, second, copy = (tmp_path / f"{name}.safetensors" for name in "abc")
    for seed, path in enumerate((first, second)):
        torch.manual_seed(seed)
        save_file(VoteNetwork(COMPACT).state_dict(), path)
    copy.write_bytes(first.read_bytes())
    out = tmp_path / "out"
    for path, calls in ((None, 4), (first, 8), (copy, 8), (second, 12)):
        save_predictions(Pairs(), out, PredictionSettings(votes=path))
        assert len(fake.calls) == calls
    with pytest.raises(UsageError, match="no such weights file"):
        save_predictions(Pairs(), out, PredictionSettings(votes=tmp_path / "none"))
    with pytest.raises(UsageError, match="no such weights file, and not one of fcgf-3dmatch"):
        save_predictions(Pairs(), out, PredictionSettings(features="none"))


def test_settings_are_checked(tmp_path) -> None:
    with pytest.raises(UsageError, match="methods are one or more different of hough"):
        PredictionSettings(methods=("hough", "magic"))
    with pytest.raises(UsageError, match="methods are"):
        PredictionSettings(methods=("hough", "hough"))
    with pytest.raises(UsageError, match="voxel is in metres"):
        PredictionSettings(voxel=0)
    with pytest.raises(UsageError, match="workers are 1 or more"):
        save_predictions(Pairs(), tmp_path, PredictionSettings(), workers=0)


@pytest.mark.slow
def test_several_processes_find_the_same(tmp_path) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for workers, out in enumerate(outs, 1):
        save_predictions(Pairs(), out, PredictionSettings(), workers)
    texts = [[json.loads(p.read_text()) for p in sorted((out / "poses").rglob("*.json"))] for out in outs]
    assert len(texts[0]) == 4
    for one, two in zip(*texts, strict=True):
        assert one["target_from_source"] == two["target_from_source"]


def test_command_on_the_kitchen(test_data, tmp_path, capsys, monkeypatch) -> None:
    """One pair through the command line: links to two fragments, the rest is missing and named."""
    scene = "7-scenes-redkitchen"
    (tmp_path / scene).mkdir()
    for i in (0, 4):
        (tmp_path / scene / f"cloud_bin_{i}.ply").symlink_to(test_data / "scans" / scene / f"cloud_bin_{i}.ply")
    (tmp_path / "benchmarks").symlink_to(test_data / "scans" / "benchmarks")
    command = ["evaluate", "3dmatch", "--root", str(tmp_path), "--out", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "1 of its 506 pairs" in printed.err
    assert "home_at_scan1_2013_jan_1 left out: no fragments" in printed.err
    final, _ = json.loads(printed.out)["pairs"]
    assert final["rotation_deg"] < 3
    assert final["translation_m"] < 0.1
    assert final["rmse_m"] < 0.1
    assert main(["evaluate", "3dlomatch", *command[2:]]) == 2
    assert "no pair of 3DLoMatch" in capsys.readouterr().err
    assert main(["evaluate", "kitti-odometry", *command[2:]]) == 2
    assert "08, 09, 10 are needed" in capsys.readouterr().err
