"""The tasks `semantic_head` and `matchme`: their pairs, views and machine labels; a run that went on is unbroken."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from spair_copies import write_copies

from vision3d.errors import UsageError, Vision3DError
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.head import HeadConfig
from vision3d.matching.semantic.transfer import sample
from vision3d.train.config import OptimiserConfig, TrainConfig
from vision3d.train.loop import train
from vision3d.train.matchme import MatchMe, MatchMeConfig, MixedPairs
from vision3d.train.semantic_annotator import AnnotatorConfig, annotate, carry_and_return, unlabelled_pairs
from vision3d.train.semantic_features import KeptFeatures, View, random_view
from vision3d.train.semantic_head import SemanticHead, SemanticHeadConfig
from vision3d.train.semantic_sources import (
    SemanticSourceConfig,
    held_out_pairs,
    pictures_of,
    training_pairs,
    training_pictures,
)
from vision3d.train.tasks import task_named
from vision3d.weights import find_weights, read_state_dict

needs_weights = pytest.mark.skipif(find_weights("efficientnet-lite0") is None, reason="weights are not installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of photos whose trn and val are the same pairs."""
    folder = write_copies(tmp_path_factory.mktemp("set") / "set", pairs_per_category=3)
    for split in ("trn", "val"):
        shutil.copytree(folder / "PairAnnotation" / "test", folder / "PairAnnotation" / split)
        shutil.copy(folder / "Layout" / "large" / "test.txt", folder / "Layout" / "large" / f"{split}.txt")
    return folder


class Colours:
    """A stand-in for a backbone: the mean colour of every 16 px."""

    name, channels, stride, multiple = "colours", 3, 16, 16
    calls = 0

    @property
    def settings(self) -> dict[str, object]:
        return {"backbone": self.name}

    def __call__(self, rgb: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return F.avg_pool2d(rgb, 16)


def task_config(root: Path, keep: Path, **more: object) -> SemanticHeadConfig:
    return SemanticHeadConfig(
        source=SemanticSourceConfig(root=root), size=128, keep=keep, windows=1, head=HeadConfig(hidden=16), **more
    )  # type: ignore[arg-type]


def run(task: SemanticHead, name: str, out: Path, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    """A short training, broken off after some steps if wished."""
    settings = TrainConfig(
        steps=4, batch_size=2, ema=0.9, optimiser=OptimiserConfig(lr=3e-3, clip=1.0), validate_every=2,
        checkpoint_every=1, log_every=1, threads=1,
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
        train(task, settings, out, name=name, settings=task.config)
    except RuntimeError as error:
        assert str(error) == "power cut"
    return read_state_dict(out / "weights.safetensors")


@needs_weights
def test_a_run_that_went_on_equals_an_unbroken_one_and_annotates(root: Path, tmp_path: Path) -> None:
    config = task_config(root, tmp_path / "features")
    assert task_named("semantic_head")[0] is SemanticHeadConfig

    def head() -> SemanticHead:
        torch.manual_seed(0)
        return SemanticHead(config)

    unbroken = run(head(), "semantic_head", tmp_path / "a")
    run(head(), "semantic_head", tmp_path / "b", stop_after=2)
    broken = run(head(), "semantic_head", tmp_path / "b")
    assert all(torch.equal(value, broken[name]) for name, value in unbroken.items())
    assert "pck_point" in (tmp_path / "a" / "validation.csv").read_text().splitlines()[0]

    second = MatchMeConfig(
        source=SemanticSourceConfig(root=root, labels=0.3), size=128, keep=tmp_path / "features", windows=1,
        head=HeadConfig(hidden=16), annotator=tmp_path / "a" / "best.safetensors",
        machine=AnnotatorConfig(pairs=9, share=1.0, within=8),
    )  # fmt: skip

    def student() -> MatchMe:
        torch.manual_seed(0)
        task = task_named("matchme")[1](second)
        assert isinstance(task, MatchMe)
        return task

    assert isinstance(student().dataset, MixedPairs) and len(student().dataset) == 3
    unbroken = run(student(), "matchme", tmp_path / "c")
    run(student(), "matchme", tmp_path / "d", stop_after=1)
    broken = run(student(), "matchme", tmp_path / "d")
    assert all(torch.equal(value, broken[name]) for name, value in unbroken.items())
    with pytest.raises(UsageError, match="another backbone or size"):
        MatchMe(MatchMeConfig(source=second.source, size=96, annotator=second.annotator))


@needs_weights
def test_training_lowers_the_loss_of_what_it_sees(root: Path, tmp_path: Path) -> None:
    task = SemanticHead(task_config(root, tmp_path / "f", mirror=False))
    batch = task.collate([task.dataset.sample(i, 0) for i in range(4)])
    optimiser = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    before = float(task.losses(batch)["loss"].detach())
    for _ in range(15):
        optimiser.zero_grad()
        loss = task.losses(batch)["loss"]
        loss.backward()
        optimiser.step()
    assert float(task.losses(batch)["loss"].detach()) < 0.8 * before


def test_the_share_of_labels(root: Path) -> None:
    everything = training_pairs(SemanticSourceConfig(root=root))
    assert len(everything) == 9
    few = [training_pairs(SemanticSourceConfig(root=root, labels=0.34, seed=seed)) for seed in (0, 0, 1, 2, 3)]
    assert [p.pair_id for p in few[0]] == [p.pair_id for p in few[1]]
    assert len({tuple(p.pair_id for p in some) for some in few}) > 1
    for some in few:
        assert sorted(p.category for p in some) == ["cat", "cup", "man"]
    least = training_pairs(SemanticSourceConfig(root=root, labels=0.001, categories=("cup",)))
    assert [p.category for p in least] == ["cup"]
    for wrong in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match="labels is a share"):
            SemanticSourceConfig(root=root, labels=wrong)


def test_held_out_pairs_and_categories(root: Path, tmp_path: Path) -> None:
    assert [p.category for p in held_out_pairs(SemanticSourceConfig(root=root, held_out=3))] == ["cat", "cup", "man"]
    assert len(held_out_pairs(SemanticSourceConfig(root=root, categories=("man",)))) == 3
    assert held_out_pairs(SemanticSourceConfig(root=root, held_out=0)) == ()
    with pytest.raises(UsageError, match="dog has no pairs"):
        training_pairs(SemanticSourceConfig(root=root, categories=("dog",)))
    with pytest.raises(UsageError, match="no SPair-71k folder"):
        training_pairs(SemanticSourceConfig(root=tmp_path))


@needs_weights
def test_a_category_without_common_keypoints_is_said(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(root, folder)
    for file in (folder / "PairAnnotation" / "trn").glob("*cup.json"):
        data = json.loads(file.read_text())
        file.write_text(json.dumps({**data, "src_kps": [], "trg_kps": [], "kps_ids": []}))
    source = SemanticSourceConfig(root=folder, categories=("cup",))
    assert training_pairs(source) == ()
    with pytest.raises(UsageError, match="no labelled pairs"):
        SemanticHead(SemanticHeadConfig(source=source))


def test_views_say_where_points_lie(tmp_path: Path) -> None:
    width, height = 160, 96
    y, x = np.mgrid[0:height, 0:width]
    shades = np.stack([(x + 0.5) / width, (y + 0.5) / height, np.full_like(x, 0.5, dtype=float)], axis=2)
    file = tmp_path / "ramp.png"
    PIL.Image.fromarray((shades * 255).round().astype(np.uint8)).save(file)
    features = KeptFeatures(Colours(), 256)
    points = torch.tensor([[80.0, 48.0], [70.0, 40.0], [90.0, 60.0]])
    for number in range(4):
        for mirrored in (False, True):
            view = random_view(file, number, mirrored)
            found = sample(features(file, (width, height), view), view.to_cells(points, (width, height), (16, 16)))
            shares = found[:, :2] / found[:, 2:] * 0.5
            torch.testing.assert_close(shares, points / torch.tensor([width, height]), atol=0.01, rtol=0)
    assert random_view(file, 1, False) != random_view(file, 2, False)


def test_features_are_computed_once_and_kept(root: Path, tmp_path: Path) -> None:
    backbone, folder = Colours(), tmp_path / "kept"
    picture = training_pictures(SemanticSourceConfig(root=root))[0]
    features = KeptFeatures(backbone, 64, folder)
    first = features(picture.file, picture.size)
    assert torch.equal(KeptFeatures(backbone, 64, folder)(picture.file, picture.size), first)
    assert backbone.calls == 1
    features(picture.file, picture.size, View(mirrored=True))
    assert backbone.calls == 2
    moved = tmp_path / "moved.jpg"
    shutil.copy(picture.file, moved)
    assert torch.equal(KeptFeatures(backbone, 64, folder)(moved, picture.size), first) and backbone.calls == 2
    PIL.Image.fromarray(255 - np.asarray(PIL.Image.open(moved))).save(moved)  # another picture in its place
    other = KeptFeatures(backbone, 64, folder)(moved, picture.size)
    assert not torch.equal(other, first) and backbone.calls == 3
    with pytest.raises(Vision3DError, match="cannot read the picture"):
        KeptFeatures(backbone, 64)(tmp_path / "none.jpg", (10, 10))
    for path in folder.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(Vision3DError, match="remove the file"):
        features(picture.file, picture.size)
    with pytest.raises(UsageError, match="other settings"):
        KeptFeatures(backbone, 80, folder)
    with pytest.raises(UsageError, match="something else"):
        KeptFeatures(backbone, 64, root)
    with pytest.raises(UsageError, match="multiple of 16"):
        KeptFeatures(backbone, 72)
    with pytest.raises(Vision3DError, match="its annotation says 10x10"):
        KeptFeatures(backbone, 64)(picture.file, (10, 10))


def test_machine_labels(root: Path) -> None:
    labelled = training_pairs(SemanticSourceConfig(root=root, labels=0.34))
    pictures = training_pictures(SemanticSourceConfig(root=root))
    assert len(pictures) == 18 and len(pictures_of(labelled)) == 6
    pairs = unlabelled_pairs(labelled, pictures, 1000, 0)
    taken = {frozenset((p.image0, p.image1)) for p in labelled}
    sources = {p.image0 for p in labelled} | {p.image1 for p in labelled}
    assert len(pairs) == 6 * 5 - 2 * 3
    assert all(p.image0 in sources and frozenset((p.image0, p.image1)) not in taken for p in pairs)
    assert len(unlabelled_pairs(labelled, pictures, 6, 0)) == 6
    names = [p.pair_id for p in unlabelled_pairs(labelled, pictures, 6, 0)]
    assert names == [p.pair_id for p in unlabelled_pairs(labelled, pictures, 6, 0)]
    assert names != [p.pair_id for p in unlabelled_pairs(labelled, pictures, 6, 1)]

    torch.manual_seed(0)
    grid = F.normalize(torch.randn(32, 10, 10), dim=0)
    columns = {file: k for k, file in enumerate(sorted({p.file for p in pictures}))}

    def describe(file: Path, size: tuple[int, int]) -> DenseFeatures:
        return DenseFeatures(grid.roll(columns[file] % 3, dims=2), size)

    kept = annotate(pairs, describe, AnnotatorConfig(within=1.0, share=1.0))
    assert kept
    for pair in kept:
        shift = (columns[pair.image1] % 3 - columns[pair.image0] % 3) * pair.size0[0] / 10
        moved = pair.points1 - pair.points0 - torch.tensor([shift, 0.0])
        assert float((moved[:, 0].abs() < pair.size0[0] / 10).float().mean()) > 0.7
    fewer = annotate(pairs, describe, AnnotatorConfig(within=1.0, share=0.3))
    count, all_of = sum(len(p.points1) for p in fewer), sum(len(p.points1) for p in kept)
    assert 0.2 * all_of < count < 0.4 * all_of
    assert annotate([], describe, AnnotatorConfig()) == []


def test_a_point_that_does_not_come_back() -> None:
    source, target = (F.normalize(torch.randn(16, 6, 6), dim=0) for _ in range(2))
    target[:, 2, 4] = source[:, 1, 1]
    source[:, 5, 5] = F.normalize(source[:, 1, 1] + 0.1 * torch.randn(16), dim=0)
    there, apart, cosine = carry_and_return(
        DenseFeatures(source, (60, 60)), DenseFeatures(target, (120, 60)), torch.tensor([[15.0, 15.0], [55.0, 55.0]])
    )
    assert (there - torch.tensor([90.0, 25.0])).abs().max() <= 10
    assert apart[0] <= 0.6 and apart[1] > 3
    assert float(cosine[0]) == pytest.approx(1, abs=1e-5) and float(cosine[1]) < 1


def test_settings_that_make_no_sense(root: Path, tmp_path: Path) -> None:
    source = SemanticSourceConfig(root=root)
    for wrong in ({"windows": -1}, {"temperature": 0.0}, {"sigma": 0.0}):
        with pytest.raises(ValueError, match="windows must not be negative"):
            SemanticHeadConfig(source=source, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="machine_share"):
        MatchMeConfig(source=source, annotator=tmp_path, machine_share=1.0)
    for wrong in ({"pairs": 0}, {"share": 0.0}, {"within": -1.0}):
        with pytest.raises(ValueError, match="the annotator needs"):
            AnnotatorConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="held_out"):
        SemanticSourceConfig(root=root, held_out=-1)
