"""The task `eloftr`: its data sources, metrics, and a run that went on equals an unbroken one bit for bit."""

from pathlib import Path

import pytest
import torch

from vision3d.data.dense_pairs import DensePair, pixel_centers
from vision3d.errors import UsageError
from vision3d.train import eloftr
from vision3d.train.config import OptimiserConfig, TrainConfig
from vision3d.train.eloftr import EloftrTask, EloftrTaskConfig, match_errors, pose_error_deg
from vision3d.train.loop import train
from vision3d.train.photo_pair_sources import PhotoPairSourceConfig, held_out_pairs, training_pairs
from vision3d.weights import read_state_dict

SIZE = (96, 64)


def _config(keep: Path) -> EloftrTaskConfig:
    source = PhotoPairSourceConfig(keep=keep, scenes=3, views=3, size=SIZE, held_out=1)
    return EloftrTaskConfig(source=source)


def _run(keep: Path, out: Path, steps: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """As far as the numbers of steps say, one after the other, always from the files."""
    config = _config(keep)
    settings = TrainConfig(
        steps=4, batch_size=2, ema=0.9, optimiser=OptimiserConfig(lr=1e-3, clip=1.0), validate_every=2,
        checkpoint_every=1, log_every=1, threads=1,
    )  # fmt: skip
    for upto in steps:
        torch.manual_seed(settings.seed)
        task = EloftrTask(config)
        if upto < 4:
            _stop_after(task, upto)
        try:
            train(task, settings, out, name="eloftr", settings=config)
        except RuntimeError as error:
            assert str(error) == "power cut"
    return read_state_dict(out / "weights.safetensors")


def _stop_after(task: EloftrTask, steps: int) -> None:
    taken = 0
    usual = task.losses

    def losses(batch: object) -> dict[str, torch.Tensor]:
        nonlocal taken
        taken += 1
        if taken > steps:
            raise RuntimeError("power cut")
        return usual(batch)  # type: ignore[arg-type]

    task.losses = losses  # type: ignore[method-assign, assignment]


def test_a_run_that_went_on_equals_an_unbroken_one(tmp_path: Path) -> None:
    unbroken = _run(tmp_path / "rooms", tmp_path / "a", (4,))
    broken = _run(tmp_path / "rooms", tmp_path / "b", (2, 4))
    assert unbroken.keys() == broken.keys()
    for name, value in unbroken.items():
        assert torch.equal(value, broken[name]), name
    rows = [(tmp_path / run / "validation.csv").read_text().splitlines() for run in "ab"]
    assert [r.rsplit(",", 1)[0] for r in rows[0]] == [r.rsplit(",", 1)[0] for r in rows[1]]
    assert "auc10" in rows[0][0]
    assert len(rows[0]) == 3


def test_true_matches_give_the_true_pose_and_no_errors(tmp_path: Path) -> None:
    pair = held_out_pairs(_config(tmp_path).source)[0]
    seen = torch.isfinite(pair.to1[..., 0])
    points0, points1 = pixel_centers(SIZE[1], SIZE[0])[seen], pair.to1[seen]
    assert float(match_errors(pair, points0, points1).max()) < 1e-3
    assert pose_error_deg(pair, points0, points1) < 0.5
    moved = match_errors(pair, points0, points1 + torch.tensor([3.0, -4.0]))
    torch.testing.assert_close(moved, torch.full_like(moved, 5.0), atol=1e-3, rtol=0)
    assert pose_error_deg(pair, points0[:3], points1[:3]) == float("inf")
    assert len(match_errors(pair, torch.zeros(0, 2), torch.zeros(0, 2))) == 0


def test_validation_of_a_matcher_that_is_always_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = eloftr.build(_config(tmp_path))
    assert isinstance(task.held_out[0], DensePair)

    class Found:
        seen = torch.isfinite(task.held_out[0].to1[..., 0])
        points0, points1 = pixel_centers(SIZE[1], SIZE[0])[seen], task.held_out[0].to1[seen]

    monkeypatch.setattr(task.model, "forward", lambda *inputs: Found())
    metrics = task.validate()
    assert metrics["auc5"] > 90
    assert metrics["auc5"] <= metrics["auc10"] <= metrics["auc20"] <= 100
    assert metrics["within1"] == metrics["within3"] == 100


def test_held_out_scenes_are_others(tmp_path: Path) -> None:
    source = _config(tmp_path).source
    held, trained = held_out_pairs(source)[0], training_pairs(source).sample(0, 0)
    assert held.grey0.shape == trained.grey0.shape == (1, 64, 96)
    assert not torch.equal(held.k0, trained.k0)


def test_sources_refuse_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="root"):
        PhotoPairSourceConfig(data="homographies")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no photos"):
        training_pairs(PhotoPairSourceConfig(data="homographies", root=tmp_path / "empty"))
    with pytest.raises(UsageError, match="catalogues"):
        training_pairs(PhotoPairSourceConfig(furniture=tmp_path / "empty", size=SIZE)).sample(0, 0)
