"""`evaluate hpatches`, `megadepth1500`, `scannet1500`: published settings as files, wrong use, broken layouts."""

import os
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import match_benchmark_copies as copies
import numpy as np
import pytest
import torch

from vision3d.cli.evaluate_matching import EvaluateHpatchesConfig, EvaluateMegadepthConfig, EvaluateScannetConfig
from vision3d.cli.main import main
from vision3d.config import parse
from vision3d.core import Correspondences
from vision3d.data.hpatches import hpatches_pairs
from vision3d.errors import Vision3DError
from vision3d.eval import match_benchmark, match_predictions
from vision3d.eval.match_benchmark import evaluate_matching
from vision3d.eval.match_predictions import Method
from vision3d.eval.match_scores import MatchProtocol
from vision3d.io.npz_objects import read_npz

CONFIGS = Path(__file__).parents[2] / "configs" / "eval"
CLASSES = {
    "hpatches": EvaluateHpatchesConfig,
    "megadepth1500": EvaluateMegadepthConfig,
    "scannet1500": EvaluateScannetConfig,
}


@pytest.mark.parametrize("name", sorted(p.name for p in CONFIGS.glob("*.yaml") if p.stem.split("-")[0] in CLASSES))
def test_published_settings(name: str) -> None:
    """Every file is complete but for the folders, and flags override it."""
    file = CONFIGS / name
    config = parse(CLASSES[name.split("-")[0]], ["--config", str(file), "--root", "r", "--out", "o", "--workers", "3"])
    assert (config.root, config.workers) == (Path("r"), 3)
    assert config.seeds == (1 if name.startswith("hpatches") else 5)
    assert config.confidence == 0.99999


def test_the_authors_thresholds_reach_the_matcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def stand_in(benchmark: str, pairs: object, methods: list[Method], *_: object, **__: object) -> None:
        seen.update(methods[0].make().settings)
        raise Vision3DError("far enough")

    monkeypatch.setattr(match_benchmark, "evaluate_matching", stand_in)
    copies.scannet(tmp_path)
    file = CONFIGS / "scannet1500-eloftr.yaml"
    assert main(["evaluate", "scannet1500", "--config", str(file), "--root", str(tmp_path), "--out", "o"]) == 1
    assert (seen["threshold"], seen["border"]) == (0.1, 0)


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hp = copies.hpatches(tmp_path / "hp", ("v_turn",))
    md, sn = copies.megadepth(tmp_path / "md", bare=True), copies.scannet(tmp_path / "sn")
    (tmp_path / "empty").mkdir()

    def fails(benchmark: str, root: Path, message: str, *flags: str, code: int = 2) -> None:
        command = ["evaluate", benchmark, "--root", str(root), "--out", str(tmp_path / "out"), *flags]
        assert main(command) == code
        error = capsys.readouterr().err
        assert message in error, error
        assert error.strip().count("\n") == 0

    fails("hpatches", tmp_path / "none", "no sequences of HPatches")
    fails("megadepth1500", tmp_path / "empty", "no index of MegaDepth-1500")
    fails("scannet1500", tmp_path / "empty", "no index of ScanNet-1500")
    fails("megadepth1500", md, "does not exist", "--index", str(tmp_path / "nowhere"))
    fails("megadepth1500", md, "no index of MegaDepth-1500 (0015", "--index", str(tmp_path / "empty"))
    fails("hpatches", hp, "no matcher is called 'magic'", "--method", "magic")
    fails("hpatches", hp, "different matchers", "--method", "sift", "sift")
    fails("hpatches", hp, "poselib", "--estimators", "magic")
    fails("hpatches", hp, "workers are 1 or more", "--workers", "0")
    fails("hpatches", hp, "--top", "--top", "0")
    fails("hpatches", hp, "choose one", "--json", "--markdown")
    fails("hpatches", hp, "belongs to one of eloftr, dkm", "--weights", str(hp / "v_turn/1.ppm"))
    fails("hpatches", hp, "not asked for", "--eloftr-border", "1")
    fails("hpatches", hp, "does not exist", "--method", "eloftr", "--weights", str(tmp_path / "none"))
    fails("hpatches", hp, "32 px or more", "--longer-side", "5")

    monkeypatch.setenv("VISION3D_OFFLINE", "1")
    monkeypatch.setenv("VISION3D_CACHE", str(tmp_path / "cache"))
    fails("hpatches", hp, "DKMv3_outdoor.pth", "--method", "sift", "dkm", code=1)
    assert not (tmp_path / "out/matches/sift").exists()  # said before any work

    (hp / "v_turn/H_1_4").write_text("1 0 0\n0 1 0\n")
    fails("hpatches", hp, "H_1_4", code=1)
    (hp / "v_turn/H_1_4").write_text("1 0 0\n0 1 0\n1 1 0\n")
    fails("hpatches", hp, "no inverse", code=1)
    (hp / "v_turn/H_1_4").unlink()
    fails("hpatches", hp, "lacks H_1_4", code=1)
    np.savetxt(hp / "v_turn/H_1_4", np.eye(3))
    (hp / "v_turn/6.ppm").unlink()
    fails("hpatches", hp, "no photo 6", code=1)

    (md / "Undistorted_SfM/0015/images/2_o.jpg").unlink()
    fails("megadepth1500", md, "1 of 3 photos", code=1)
    (md / "megadepth_test_1500_scene_info/0015_0.1_0.3.npz").write_bytes(b"\x80\x04 cut")
    fails("megadepth1500", md, "0015_0.1_0.3.npz is damaged", code=1)
    np.savez(md / "megadepth_test_1500_scene_info/0015_0.1_0.3.npz", image_paths=np.array(["a.jpg"]))
    fails("megadepth1500", md, "no index of MegaDepth-1500: KeyError", code=1)

    (sn / "scannet_test_1500/scene0707_00/pose/10.txt").unlink()
    fails("scannet1500", sn, "10.txt cannot be read", code=1)
    np.savez(sn / "intrinsics.npz", other=np.eye(3))
    fails("scannet1500", sn, "scene0707_00", code=1)
    (sn / "scannet_test_1500/scene0707_00/color/10.jpg").unlink()
    copies_k = np.eye(3)
    np.savez(sn / "intrinsics.npz", scene0707_00=copies_k)
    fails("scannet1500", sn, "photos that", code=1)


def test_every_pair_failing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = copies.hpatches(tmp_path / "data", ("v_turn",))

    class Broken(copies.Oracle):
        def match(self, image0: object, image1: object) -> Correspondences:
            return Correspondences(torch.full((5, 2), torch.nan), torch.zeros(5, 2), torch.ones(5))

    monkeypatch.setattr(match_predictions, "make_matcher", lambda name: Broken())
    with pytest.raises(Vision3DError, match=r"failed on every pair; on v_turn/1_2: .* not finite"):
        evaluate_matching(
            "HPatches", hpatches_pairs(root), [Method(name="b")], tmp_path / "out", MatchProtocol(), size=None
        )


class _Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_bare_pickle_as_index_runs_nothing(tmp_path: Path) -> None:
    file, made = tmp_path / "0015_0.1_0.3.npz", tmp_path / "made"
    for content in ({"pair_infos": [_Bomb(str(made))]}, _Bomb(str(made)), [1, 2], {"a": 3}):
        file.write_bytes(ForkingPickler.dumps(content, 4))
        with pytest.raises(Vision3DError, match=r"holds more than arrays"):
            read_npz(file)
    assert not made.exists()
    file.write_bytes(ForkingPickler.dumps({"a": np.arange(3), "b": [(np.eye(2), 1.5), None]}, 4))
    table = read_npz(file)
    assert table["a"].tolist() == [0, 1, 2]
    assert (table["b"].dtype, table["b"].shape, table["b"][0][1], table["b"][1]) == (object, (2,), 1.5, None)
