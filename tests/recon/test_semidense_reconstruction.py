"""`reconstruct` with a semi-dense matcher, whose points differ for every pair: tracks, cameras, its weights file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from textured_planes import render, ring_poses

from vision3d.cli.main import main
from vision3d.core import Correspondences, Image
from vision3d.eval.poses import evaluate_poses
from vision3d.io.cameras_json import KnownCamera, known_cameras
from vision3d.matching.catalogue import make_matcher, weights_options
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.model import EfficientLoFTR
from vision3d.recon import pipeline
from vision3d.recon.pipeline import ReconstructConfig, reconstruct
from vision3d.train.folder import write_weights

PLANES = [(np.array([0.0, 0.1, -np.sqrt(0.99)]), -1.6), (np.array([0.3, 0.2, -np.sqrt(0.87)]), -2.3)]
SIZE = (320, 240)


class SemiDense:
    """True matches, refined on both sides: of cells of 8 px in the first photo, another point of each for every pair,
    with a quarter of a pixel of noise."""

    name, max_size = "semi-dense", 320

    def __init__(self) -> None:
        self.views, self.depths, _ = render(PLANES, ring_poses(5), size=SIZE)

    @property
    def settings(self) -> dict[str, object]:
        return {"name": self.name}

    def match(self, image0: Image, image1: Image) -> Correspondences:
        a, b = (int(Path(image.name).stem) for image in (image0, image1))
        rng = np.random.default_rng(10 * a + b)
        y, x = (axis.ravel() + rng.integers(0, 2, axis.size) for axis in np.mgrid[8:232:8, 8:312:8])
        points = torch.from_numpy(np.stack([x, y], 1) + 0.5)
        view, other = self.views[a], self.views[b]
        ray = torch.nn.functional.pad(view.camera.unproject(points), (0, 1), value=1.0)
        in_cam = ray * torch.from_numpy(self.depths[a][y, x])[:, None]
        in_other = (other.cam_from_world @ view.cam_from_world.inverse()).apply(in_cam)
        there, _ = other.camera.project(in_other)
        column, row = there.floor().long().unbind(1)
        keep = (column >= 0) & (column < SIZE[0]) & (row >= 0) & (row < SIZE[1])
        seen = torch.from_numpy(self.depths[b])[row.clamp(0, SIZE[1] - 1), column.clamp(0, SIZE[0] - 1)]
        keep &= (seen - in_other[:, 2]).abs() < 0.02
        there += torch.from_numpy(rng.normal(0, 0.25, there.shape))
        return Correspondences(points.float(), there.float(), torch.ones(len(points))).select(keep)


def test_cameras_from_semi_dense_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = SemiDense()
    for k, view in enumerate(matcher.views):
        picture = (view.rgb.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        PILImage.fromarray(picture).save(tmp_path / f"photos/{k}.png")
    monkeypatch.setattr(pipeline, "make_matcher", lambda name, **options: matcher)
    config = ReconstructConfig(photos=tmp_path / "photos", out=tmp_path / "out", matcher="eloftr", until="poses")
    result = reconstruct(config)
    assert result.scene is not None
    assert len(result.scene.images) == 5
    counts = torch.bincount(result.scene.tracks.point)
    assert int((counts >= 3).sum()) > 300  # tracks over three photos and more, though no pair shares its points
    truth = {v.name: KnownCamera(v.camera, v.cam_from_world) for v in matcher.views}
    found = evaluate_poses(known_cameras(result.scene), truth)
    assert found.auc[5] > 80
    assert float(np.median(found.pairs.rotation_deg)) < 0.5


def test_a_weights_file_reaches_its_matcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The compact network is known by its weights; a file for nobody, or for two, is refused before any work."""
    small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    write_weights(small, EfficientLoFTR(EfficientLoFTRConfig.compact()).state_dict(), {})
    state = {"backbone.layer0.rbr_reparam.weight": torch.zeros(64, 1, 3, 3)}
    write_weights(large, state, {})
    assert weights_options(("sift", "eloftr"), small) == {"sift": {}, "eloftr": {"weights": small, "compact": True}}
    assert weights_options(("eloftr",), large) == {"eloftr": {"weights": large, "compact": False}}
    assert weights_options(("sift",), None) == {"sift": {}}
    assert make_matcher("dkm", max_size=640).max_size == 1152  # it resizes photos itself; `reconstruct` names a size
    (tmp_path / "photos").mkdir()
    for k in range(2):
        PILImage.fromarray(np.full((40, 60, 3), 90 * k, np.uint8)).save(tmp_path / f"photos/{k}.png")
    run = ["reconstruct", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--quiet", "--weights"]
    for flags, message in (
        ([str(small)], "belongs to one of eloftr, dkm"),
        ([str(tmp_path / "none"), "--matcher", "dkm"], "does not exist"),
    ):
        assert main([*run, *flags]) == 2
        assert message in capsys.readouterr().err
    both = [str(tmp_path / f"photos/{k}.png") for k in range(2)]
    assert main(["match", *both, "--out", str(tmp_path / "m"), "--matcher", "sift", "--weights", str(small)]) == 2
    assert "belongs to one of eloftr, dkm" in capsys.readouterr().err
    assert main([*run, str(large), "--matcher", "eloftr"]) == 1
    assert "large.safetensors" in capsys.readouterr().err
    data = tmp_path / "pairs" / "p"
    data.mkdir(parents=True)
    for k in range(2):
        PILImage.fromarray(np.full((40, 60, 3), 90 * k, np.uint8)).save(data / f"{k}.png")
    (data / "gt.json").write_text('{"H_1_from_0": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}')
    pairs = ["evaluate", "pairs", "--data", str(tmp_path / "pairs"), "--out", str(tmp_path / "e"), "--no-stereo"]
    assert main([*pairs, "--matchers", "eloftr", "--weights", str(small), "--json"]) == 0
    assert '"matcher": "eloftr"' in capsys.readouterr().out
