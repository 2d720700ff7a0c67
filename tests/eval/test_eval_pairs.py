"""`evaluate pairs`: data layouts in miniature, half-pixel shift, resumable predictions, tables and their protocol."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from vision3d.cli.main import main
from vision3d.core import Camera, Correspondences, RigidTransform
from vision3d.data.pairs import HomographyTruth, PointsTruth, PoseTruth
from vision3d.errors import UsageError
from vision3d.eval import pair_report
from vision3d.eval.pair_matches import SavedMatches, load_matches, matches_path, save_matches
from vision3d.eval.pair_report import evaluate_pairs
from vision3d.eval.pair_sets import BenchmarkPair, DisparityTruth, find_pairs, motorcycle_pair
from vision3d.eval.pairs import PairProtocol, PairResult, evaluate_pair, published_auc, summarize

H = np.array([[0.9, 0.1, 12], [-0.05, 1.05, 6], [1e-4, -5e-5, 1]])
K = [[300, 0, 99.5], [0, 300, 59.5], [0, 0, 1]]
POSE = [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]


def _texture():
    rng = np.random.default_rng(0)
    coarse = sum(cv2.resize(rng.random((n, n)), (200, 120), interpolation=cv2.INTER_CUBIC) for n in (5, 12, 30, 60))
    return (255 * (coarse - coarse.min()) / np.ptp(coarse)).astype(np.uint8)


def _save(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(grey).save(path)


@pytest.fixture
def data(tmp_path):
    """One pair or sequence of each kind; photo 1 is photo 0 warped by H (OpenCV: pixel centres at integers)."""
    root, first = tmp_path / "data", _texture()
    second = cv2.warpPerspective(first, H, (200, 120))
    rng = np.random.default_rng(1)
    points0 = rng.random((8, 2)) * [160, 90] + 20
    points1 = cv2.perspectiveTransform(points0[None], H)[0]
    points = {"points0": points0.tolist(), "points1": points1.tolist()}
    contents = {
        "planes/one": {"H_1_from_0": H.tolist(), **points},
        "lines/two": points,
        "pose": {"K0": K, "K1": K, "cam1_from_cam0": POSE},
    }
    for name, content in contents.items():
        _save(root / name / "0.png", first)
        _save(root / name / "1.png", second)
        (root / name / "gt.json").write_text(json.dumps(content))
    for name in ("v_json", "i_text"):
        _save(root / name / "1.png", first)
        _save(root / name / "2.png", second)
    (root / "v_json" / "homographies.json").write_text(json.dumps({"H": {"1_2": H.tolist()}}))
    np.savetxt(root / "i_text" / "H_1_2", H)
    return root


class _Grid:
    """A stand-in matcher: a grid of points of photo 0 and where H puts them (pixel centres at 0.5)."""

    name = "grid"
    max_size = 200

    def __init__(self, shift=0.0):
        self.shift = shift
        self.calls = 0

    @property
    def settings(self):
        return {"shift": self.shift}

    def match(self, image0, image1):
        self.calls += 1
        points0 = np.stack(np.meshgrid(np.arange(20, 180, 10.0), np.arange(20, 100, 10.0)), -1).reshape(-1, 2)
        points1 = cv2.perspectiveTransform((points0 - 0.5)[None], H)[0] + 0.5
        points1[:, 0] += self.shift
        return Correspondences(torch.from_numpy(points0), torch.from_numpy(points1), torch.ones(len(points0)).double())


def test_layouts_and_half_pixel_shift(data):
    pairs = {pair.name: pair for pair in find_pairs(data)}
    assert sorted(pairs) == ["i_text/1_2", "lines/two", "planes/one", "pose", "v_json/1_2"]
    assert {p.name: (p.kind, p.group) for p in pairs.values()} == {
        "i_text/1_2": ("homography", "HPatches illumination"),
        "lines/two": ("epipolar", "annotated epipolar pairs"),
        "planes/one": ("homography", "annotated homographies"),
        "pose": ("pose", "relative poses"),
        "v_json/1_2": ("homography", "HPatches viewpoint"),
    }
    # A point at integer-centre coordinates x and its image H(x) are x + 0.5 and H(x) + 0.5 here.
    x = np.array([[[40.0, 70.0]]])
    expected = cv2.perspectiveTransform(x, H)[0, 0] + 0.5
    for name in ("i_text/1_2", "planes/one", "v_json/1_2"):
        mapped = pairs[name].truth.h_1_from_0 @ torch.tensor([40.5, 70.5, 1.0], dtype=torch.float64)
        np.testing.assert_allclose(mapped[:2] / mapped[2], expected, atol=1e-9)
    raw = json.loads((data / "lines/two/gt.json").read_text())
    np.testing.assert_allclose(pairs["lines/two"].truth.points0, np.array(raw["points0"]) + 0.5)
    np.testing.assert_allclose(pairs["planes/one"].on_plane.points0, np.array(raw["points0"]) + 0.5)
    np.testing.assert_allclose(pairs["planes/one"].on_plane.points1, np.array(raw["points1"]) + 0.5, atol=1e-9)
    assert find_pairs(data / "pose")[0].name == "pose"


def test_perfect_matches_have_no_error(data, tmp_path):
    """The stand-in knows H in our convention: any slip of the half pixel anywhere would show as 0.1 px or more."""
    pairs, out = find_pairs(data), tmp_path / "m"
    save_matches(pairs, _Grid(), out)
    for pair in pairs:
        if pair.kind == "homography":
            for result in evaluate_pair(pair, load_matches(out, pair), "grid", PairProtocol()):
                assert result.error.max() < 0.02, pair.name
                assert len(result.error) == 5
                assert result.points.max(initial=0) < 0.02


def test_error_is_in_px_of_a_480_px_side(data, tmp_path):
    """Matches off by 1 px in x: a corner error of 1 px of 120, so 4 px of 480."""
    pairs = [pair for pair in find_pairs(data) if pair.name == "planes/one"]
    save_matches(pairs, _Grid(shift=1.0), tmp_path)
    result = evaluate_pair(pairs[0], load_matches(tmp_path, pairs[0]), "grid", PairProtocol(seeds=1))[0]
    assert result.error[0] == pytest.approx(4, abs=0.02)
    assert result.points[0] == pytest.approx(4, abs=0.02)


def test_saved_matches_are_reused_until_something_changes(data, tmp_path):
    pairs, matcher = find_pairs(data), _Grid()
    save_matches(pairs, matcher, tmp_path)
    assert matcher.calls == 5
    save_matches(pairs, matcher, tmp_path)
    assert matcher.calls == 5
    matches_path(tmp_path, pairs[0]).write_bytes(b"PK broken")  # as a full disk might leave it
    save_matches(pairs, matcher, tmp_path)
    assert matcher.calls == 6
    matcher.shift = 2.0
    save_matches(pairs, matcher, tmp_path)
    assert matcher.calls == 11
    save_matches(pairs, matcher, tmp_path, max_size=100)
    assert matcher.calls == 16
    saved = load_matches(tmp_path, pairs[0])
    assert (saved.size0, saved.size1, len(saved.matches)) == ((200, 120), (200, 120), 128)


_POINTS = torch.zeros(1, 2, dtype=torch.float64)
_CAMERA = Camera(4, 4, (2.0, 2.0), (2.0, 2.0))
TRUTHS = {
    "homography": HomographyTruth(torch.eye(3, dtype=torch.float64)),
    "epipolar": PointsTruth(_POINTS, _POINTS),
    "pose": PoseTruth(_CAMERA, _CAMERA, RigidTransform.identity()),
    "stereo": DisparityTruth(torch.ones(4, 4)),
}


def _result(errors, points=(), matcher="a", estimator="poselib", kind="homography", group="g", matches=7):
    pair = BenchmarkPair(f"{group}/x", group, Path("0.jpg"), Path("1.jpg"), TRUTHS[kind])
    return PairResult(pair, matcher, estimator, matches, 0.1, np.array(errors), np.array(points, dtype=float))


def test_table_values_by_hand():
    results = [_result([1.0, 2.0], [0.5, 0.5]), _result([4.0, np.inf], [1.5, np.inf], matches=9)]
    (table,) = summarize(results, PairProtocol())
    assert table.title == "g (2 pairs)"
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["AUC@3 px"] == pytest.approx(100 * (2 / 3 + 1 / 3) / 4)
    assert row["AUC@5 px"] == pytest.approx(100 * (0.8 + 0.6 + 0.2) / 4)
    assert row["AUC@10 px"] == pytest.approx(100 * (0.9 + 0.8 + 0.6) / 4)
    assert (row["median px"], row["points median px"], row["matches"]) == (3.0, 1.0, 8)
    (published,) = published_auc(results)
    # (0,0) (1,.25) (2,.5) (4,.75) (10,.75): .125 + .375 + 1.25 + 4.5 of 10
    assert published["AUC@10 px"] == pytest.approx(62.5)


def test_failed_pairs_are_dashes_and_null():
    results = [_result([np.inf] * 3)]
    (table,) = summarize(results, PairProtocol())
    assert table.rows[0][3:] == (0, 0, 0, None)
    assert "–" in table.markdown()
    assert results[0].json()["errors"] == [None] * 3


def test_protocol_is_in_the_caption():
    protocol = PairProtocol(homography_px=2.5, seeds=3)
    kinds = [
        _result([1.0], kind=k, group=k, estimator=None if k == "stereo" else "poselib")
        for k in ("stereo", "pose", "epipolar", "homography")
    ]
    tables = summarize(kinds, protocol, "Photos matched at up to 640 px.")
    assert [t.title.split()[0] for t in tables] == ["homography", "epipolar", "pose", "stereo"]
    for table in tables:
        assert "640 px" in table.caption
        assert table.caption in table.markdown()
    assert "shorter side of 480" in tables[0].caption
    assert "2.5 px of that scale; 3 seeds pooled" in tables[0].caption
    assert "sign of the direction ignored" in tables[2].caption
    assert "no estimator" in tables[3].caption


def test_motorcycle_truth():
    """True matches of the stereo pair have no error, matches 2 px off in y have 2 px."""
    pair = motorcycle_pair()
    rows, columns = np.nonzero(np.isfinite(pair.truth.disparity.numpy()))
    pick = np.random.default_rng(0).permutation(len(rows))[:500]
    p0 = torch.from_numpy(np.stack([columns[pick], rows[pick]], 1) + 0.5)
    d = pair.truth.disparity[rows[pick], columns[pick]]
    p1 = p0 - torch.stack([d, torch.full_like(d, 2.0)], 1)
    saved = SavedMatches(Correspondences(p0, p1, torch.ones(500)), (741, 500), (741, 500), 0.0)
    (result,) = evaluate_pair(pair, saved, "truth", PairProtocol())
    np.testing.assert_allclose(result.error, 2)
    (table,) = summarize([result], PairProtocol())
    assert table.rows[0][:3] == ("truth", 500, 0.0)
    assert table.rows[0][4:] == (100.0, pytest.approx(2))


def test_whole_run_with_two_matchers(data, tmp_path, monkeypatch):
    made = {"good": _Grid(), "bad": _Grid(shift=20.0)}
    monkeypatch.setattr(pair_report, "make_matcher", lambda name: made[name])
    report = evaluate_pairs(data, tmp_path / "out", ["good", "bad"], PairProtocol(), stereo=False)
    rows = {(t.title, row[0], row[1]): row for t in report.tables for row in t.rows}
    assert len(report.tables) == 5
    assert rows["HPatches viewpoint (1 pair)", "good", "poselib"][3] > 99
    assert rows["HPatches viewpoint (1 pair)", "bad", "poselib"][3] == 0
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == json.loads(json.dumps(report.json()))
    assert written["max_size"] == {"good": 200, "bad": 200}
    assert len(written["results"]) == 5 * 2 * 2
    again = evaluate_pairs(data, tmp_path / "out", ["good", "bad"], PairProtocol(), stereo=False)
    assert again.json() == report.json()
    assert made["good"].calls == 5


@pytest.mark.parametrize("form", ["table", "--json", "--markdown"])
def test_command_line(data, tmp_path, capsys, form):
    flags = [] if form == "table" else [form]
    options = ["--matchers", "sift", "--out", str(tmp_path / "out"), "--no-stereo", "--seeds", "2"]
    assert main(["evaluate", "pairs", "--data", str(data), *options, *flags]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "matches" / "sift" / "planes" / "one.npz").is_file()
    if form == "--json":
        assert json.loads(printed) == json.loads((tmp_path / "out" / "report.json").read_text())
    else:
        assert "HPatches viewpoint (1 pair)" in printed
        assert "shorter side of 480" in printed
    if form == "--markdown":
        assert "| sift | poselib |" in printed


def test_wrong_use(data, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        (["--data", str(tmp_path / "none"), *out], "does not exist"),
        (["--data", str(tmp_path / "empty"), *out], "holds no image pairs"),
        (["--data", str(data), *out, "--matchers", "magic"], "magic"),
        (["--data", str(data), *out, "--estimators", "magic"], "poselib"),
        (["--data", str(data), *out, "--json", "--markdown"], "choose one"),
        (["--data", str(data), *out, "--seeds", "0"], "seeds"),
    ):
        assert main(["evaluate", "pairs", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_repeated_matcher(data, tmp_path):
    with pytest.raises(UsageError, match="different names"):
        evaluate_pairs(data, tmp_path, ["sift", "sift"], PairProtocol())
