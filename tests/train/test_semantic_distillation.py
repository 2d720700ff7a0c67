"""The task `semantic_distillation`: true renderings, what learns, a run that went on is unbroken, bad input."""

import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from spair_copies import write_copies

from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.student import StudentConfig
from vision3d.train.config import OptimiserConfig, TrainConfig
from vision3d.train.loop import train
from vision3d.train.semantic_distillation import Distillation, DistillationConfig, teacher_named
from vision3d.train.semantic_renderings import RenderingsConfig, common_points, mesh_views
from vision3d.train.semantic_sources import Picture, SemanticSourceConfig, training_pictures
from vision3d.train.tasks import task_named
from vision3d.weights import find_weights, read_state_dict

needs_weights = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")
RENDERINGS = {"views": 2, "points": 60}


@pytest.fixture(scope="module")
def furniture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with one table: a top and four legs."""
    folder = tmp_path_factory.mktemp("furniture")
    values = {"name": "Odd table", "category": "x", "model": "/a/1.obj", "width": 90, "depth": 90, "height": 75}
    values |= {"movable": "true", "doorOrWindow": "false"}
    boxes = [(-0.5, 0.5, 0.7, 0.75, -0.5, 0.5)]
    boxes += [(x, x + 0.1, 0, 0.7, z, z + 0.1) for x in (-0.5, 0.4) for z in (-0.5, 0.4)]
    lines = [f"v {x} {y} {z}" for box in boxes for x in box[:2] for y in box[2:4] for z in box[4:]]
    quads = ((1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4))
    lines += ["f " + " ".join(str(8 * k + i) for i in quad) for k in range(len(boxes)) for quad in quads]
    with zipfile.ZipFile(folder / "a.sh3f", "w") as archive:
        archive.writestr("a/1.obj", "\n".join(lines) + "\n")
        text = "".join(f"{key}#1={value}\n" for key, value in values.items())
        archive.writestr("PluginFurnitureCatalog.properties", text)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of photos whose trn and val are the same pairs; every picture claims to show the table."""
    folder = write_copies(tmp_path_factory.mktemp("set") / "set", pairs_per_category=2)
    for split in ("trn", "val"):
        shutil.copytree(folder / "PairAnnotation" / "test", folder / "PairAnnotation" / split)
        shutil.copy(folder / "Layout" / "large" / "test.txt", folder / "Layout" / "large" / f"{split}.txt")
    for file in folder.glob("JPEGImages/*/*.jpg"):
        note = folder / "ImageAnnotation" / file.parent.name / f"{file.stem}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"mesh_name": "a:Odd table:/a/1.obj"}))
    return folder


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keep")


def settings(root: Path, keep: Path, furniture: Path | None = None, **more: object) -> DistillationConfig:
    values = {"student": StudentConfig(size=96, rank=2, first_stage=6), "teachers": ("efficientnet-lite0",), **more}
    return DistillationConfig(
        source=SemanticSourceConfig(root=root), keep=keep, mirror=False,
        renderings=RenderingsConfig(furniture=furniture, **RENDERINGS), **values,  # type: ignore[arg-type]
    )  # fmt: skip


def run(config: DistillationConfig, out: Path, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    """A short training, broken off after some steps if wished."""
    torch.manual_seed(0)
    task = Distillation(config)
    how = TrainConfig(
        steps=3, batch_size=2, ema=0.9, optimiser=OptimiserConfig(lr=3e-3), validate_every=3, checkpoint_every=1,
        threads=1,
    )  # fmt: skip
    taken, usual = 0, task.losses

    def losses(batch: object) -> dict[str, torch.Tensor]:
        nonlocal taken
        taken += 1
        if stop_after is not None and taken > stop_after:
            raise RuntimeError("power cut")
        return usual(batch)  # type: ignore[arg-type]

    task.losses = losses  # type: ignore[method-assign, assignment]
    try:
        train(task, how, out, name="semantic_distillation", settings=config)
    except RuntimeError as error:
        assert str(error) == "power cut"
    return read_state_dict(out / "weights.safetensors")


@needs_weights
def test_a_run_that_went_on_equals_an_unbroken_one(root: Path, keep: Path, furniture: Path, tmp_path: Path) -> None:
    config = settings(root, keep, furniture)
    assert task_named("semantic_distillation")[0] is DistillationConfig
    unbroken = run(config, tmp_path / "a")
    run(config, tmp_path / "b", stop_after=1)
    broken = run(config, tmp_path / "b")
    assert unbroken and all(torch.equal(value, broken[name]) for name, value in unbroken.items())
    assert "pck_point" in (tmp_path / "a" / "validation.csv").read_text().splitlines()[0]


@needs_weights
def test_training_lowers_both_losses_and_changes_adapters_alone(root: Path, keep: Path, furniture: Path) -> None:
    task = Distillation(settings(root, keep, furniture))
    batch = task.collate([task.dataset.sample(i, 0) for i in range(3)])
    before = {name: float(value.detach()) for name, value in task.losses(batch).items()}
    assert before["loss"] == pytest.approx(before["distillation"] + before["renderings"])
    frozen = task.model.network.stem.weight.clone()
    optimiser = torch.optim.Adam(task.model.parameters(), lr=5e-3)
    for _ in range(12):
        optimiser.zero_grad()
        task.losses(batch)["loss"].backward()
        optimiser.step()
    after = {name: float(value.detach()) for name, value in task.losses(batch).items()}
    assert all(after[name] < before[name] for name in before)
    assert torch.equal(task.model.network.stem.weight, frozen)
    learned = {id(p) for p in task.model.parameters()}
    assert all(p.grad is None for p in task.model.network.parameters() if id(p) not in learned)


@needs_weights
def test_each_term_alone(root: Path, keep: Path, furniture: Path) -> None:
    for config, name in (
        (settings(root, keep), "distillation"),
        (settings(root, keep, furniture, distillation_weight=0.0), "renderings"),
    ):
        task = Distillation(config)
        found = task.losses(task.collate([task.dataset.sample(i, 0) for i in range(2)]))
        assert sorted(found) == sorted(("loss", name)) and torch.equal(found["loss"], found[name])


def test_points_of_renderings_lie_on_the_thing_in_both_views(root: Path, furniture: Path, tmp_path: Path) -> None:
    config = RenderingsConfig(furniture=furniture, views=2, points=800)
    pictures = training_pictures(SemanticSourceConfig(root=root))
    ((first, second),) = mesh_views(config, root, pictures, tmp_path / "r")
    a, b = common_points(first, second)
    assert 20 < len(a) == len(b) < 400
    # One rigid thing under two pinhole cameras: a fundamental matrix explains all common points, not shuffled ones.
    matrix = cv2.findFundamentalMat(a.double().numpy(), b.double().numpy(), cv2.FM_8POINT)[0]

    def off(x: torch.Tensor, y: torch.Tensor) -> float:
        p, q = (np.c_[v.double().numpy(), np.ones(len(v))] for v in (x, y))
        lines = p @ matrix.T
        return float(np.median(np.abs((lines * q).sum(1)) / np.hypot(lines[:, 0], lines[:, 1])))

    assert off(a, b) < 0.1 and off(a, b.roll(3, 0)) > 2
    again = mesh_views(config, root, pictures, tmp_path / "r")[0][0]
    assert torch.equal(again.points, first.points)
    with pytest.raises(UsageError, match="other meshes or settings"):
        mesh_views(RenderingsConfig(furniture=furniture, views=3), root, pictures, tmp_path / "r")
    (tmp_path / "r" / "views.json").write_text("{")
    with pytest.raises(Vision3DError, match="remove the folder"):
        mesh_views(config, root, pictures, tmp_path / "r")


def test_animals_are_drawn_by_their_names_without_catalogues(tmp_path: Path) -> None:
    note = tmp_path / "ImageAnnotation" / "cat" / "0001_000000.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"mesh_name": "cat:0:1"}))
    picture = Picture(tmp_path / "0001_000000.jpg", "cat", (320, 256))
    config = RenderingsConfig(furniture=tmp_path / "none", views=2, points=300)
    ((first, second),) = mesh_views(config, tmp_path, [picture], tmp_path / "r")
    assert first.file.name == "cat-0000-00.png" and len(first.points) == 300
    assert len(common_points(first, second)[0]) > 5


@needs_weights
def test_bad_input(root: Path, keep: Path, furniture: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such weights file"):
        Distillation(settings(root, keep, teachers=("efficientnet-lite0", f"head:{tmp_path}/none.safetensors")))
    with pytest.raises(UsageError, match="a teacher needs a backbone"):
        teacher_named("position")
    with pytest.raises(ValueError, match="nothing to train on"):
        settings(root, keep, teachers=())
    with pytest.raises(ValueError, match="must be above 0"):
        settings(root, keep, temperature=0.0)
    with pytest.raises(ValueError, match="not be negative"):
        settings(root, keep, renderings_weight=-1.0)
    with pytest.raises(ValueError, match="2 views"):
        RenderingsConfig(views=1)
    other = tmp_path / "set"
    shutil.copytree(root, other)
    note = next(other.glob("ImageAnnotation/*/*.json"))
    note.write_text(json.dumps({"mesh_name": "another"}))
    with pytest.raises(UsageError, match="has no mesh another"):
        Distillation(settings(other, tmp_path / "k", furniture))
    note.unlink()
    with pytest.raises(UsageError, match="names no mesh"):
        Distillation(settings(other, tmp_path / "k", furniture))
