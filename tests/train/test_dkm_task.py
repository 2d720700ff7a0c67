"""DKM's training: the loss against a plain loop, two pairs learnt by heart, resumed runs equal unbroken ones."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dkm_scenes import photos, seeded_weights

from vision3d.data.collate import collate
from vision3d.data.dense_pairs import DensePair, pixel_centers, warp_by_homography
from vision3d.errors import Vision3DError
from vision3d.matching.dkm import DKM, DKMConfig
from vision3d.matching.dkm.loss import WarpLossConfig, true_warp, warp_losses
from vision3d.matching.dkm.model import Estimate
from vision3d.train import dkm
from vision3d.train.config import OptimiserConfig, TrainConfig
from vision3d.train.dkm import DKMTask, DKMTaskConfig
from vision3d.train.loop import train
from vision3d.train.photo_pair_sources import PhotoPairSourceConfig
from vision3d.weights import read_state_dict

SIZE = (32, 64)


def plain_loss(made: Mapping[int, Estimate], to1: torch.Tensor, config: WarpLossConfig) -> tuple[float, float]:
    """One pixel at a time; strides must divide the size and be 1 or even, so that centres lie between four pixels."""
    distance, certainty, before, coarser, earlier = 0.0, 0.0, {}, 1, torch.zeros(0)
    for stride, estimate in made.items():
        now, near, entropy = {}, [], []
        b, _, rows, columns = estimate.warp.shape
        start = F.interpolate(earlier, (rows, columns), mode="bilinear") if before else earlier
        for k in range(b):
            for i in range(rows):
                for j in range(columns):
                    y, x = stride * i + stride // 2, stride * j + stride // 2
                    block = to1[k, y, x][None] if stride == 1 else to1[k, y - 1 : y + 1, x - 1 : x + 1].reshape(-1, 2)
                    known, true = bool(block.isfinite().all()), block.mean(0)
                    unit = [2 * true[0].item() / SIZE[1] - 1, 2 * true[1].item() / SIZE[0] - 1]
                    away = math.dist(estimate.warp[k, :, i, j].tolist(), unit)
                    if known:
                        now[k, i, j] = away
                    local, counts = stride <= config.local_from and bool(before), known
                    if local and known:
                        parent = before.get((k, i * stride // coarser, j * stride // coarser))
                        parent = math.dist(start[k, :, i, j].tolist(), unit) if parent is None else parent
                        counts = parent < 2 / 512 * config.local_distance * stride
                    near += [away] if counts else []
                    logit = estimate.logit[k, 0, i, j].item()
                    entropy.append(math.log1p(math.exp(-logit if counts else logit)))
        distance += sum(near) / max(len(near), 1)
        certainty += sum(entropy) / len(entropy)
        before, coarser, earlier = now, stride, estimate.warp.detach()
    return distance, certainty


def test_loss_equals_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    to1 = pixel_centers(*SIZE)[None].repeat(2, 1, 1, 1) + torch.rand(2, *SIZE, 2, generator=generator)
    to1[0, 5:20, 30:50] = torch.nan
    made = {}
    for stride in (16, 8, 2, 1):
        truth, _ = true_warp(to1, (SIZE[0] // stride, SIZE[1] // stride), SIZE)
        noise = torch.randn(truth.shape, generator=generator) * 0.03
        logit = torch.randn(2, 1, *truth.shape[1:3], generator=generator)
        made[stride] = Estimate((truth + noise).permute(0, 3, 1, 2).requires_grad_(), logit)
    config = WarpLossConfig(local_distance=2.0)
    terms = warp_losses(made, to1, SIZE, config)
    distance, certainty = plain_loss(made, to1, config)
    assert float(terms["distance"].detach()) == pytest.approx(distance, rel=1e-4)
    assert float(terms["certainty"]) == pytest.approx(certainty, rel=1e-4)
    assert float(terms["loss"].detach()) == pytest.approx(distance + 0.01 * certainty, rel=1e-4)
    everywhere = warp_losses(made, to1, SIZE, WarpLossConfig(local_from=0))
    assert not torch.allclose(everywhere["certainty"], terms["certainty"])
    nothing = warp_losses(made, torch.full_like(to1, torch.nan), SIZE, config)
    nothing["loss"].backward()
    assert float(nothing["distance"].detach()) == 0 and all(bool(e.warp.grad.isfinite().all()) for e in made.values())


def pair(shift: float, seed: int) -> DensePair:
    """Two photos, the second a homography's view of the first: `photos` moves it by (-4, 5) px."""
    grey = photos(*SIZE, seed=seed).mean(1, keepdim=True)
    moved = torch.tensor([[1, 0, -4.0], [0, 1, 5], [0, 0, 1]])
    to1 = warp_by_homography(moved, SIZE, SIZE)
    to0 = warp_by_homography(torch.linalg.inv(moved), SIZE, SIZE)
    none, whole = torch.zeros(3, 3), torch.tensor(SIZE)
    return DensePair(grey[0], grey[1] * shift, to1, to0, none, none, torch.zeros(4, 4), whole, whole)


class TwoPairs:
    def __len__(self) -> int:
        return 2

    def sample(self, index: int, epoch: int) -> DensePair:
        return pair(1 - 0.1 * index, index)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DKMTask:
    monkeypatch.setattr(dkm, "training_pairs", lambda source: TwoPairs())
    monkeypatch.setattr(dkm, "held_out_pairs", lambda source: [pair(1.0, 0), pair(0.9, 1)])
    net = DKM(DKMConfig())
    torch.save(seeded_weights(net), tmp_path / "start.pth")
    return dkm.build(DKMTaskConfig(start=tmp_path / "start.pth", source=PhotoPairSourceConfig(size=(64, 32))))


def settings(steps: int, checkpoint_every: int) -> TrainConfig:
    return TrainConfig(
        steps=steps, batch_size=2, optimiser=OptimiserConfig(lr=1e-3, clip=1.0), validate_every=steps,
        checkpoint_every=checkpoint_every, log_every=1, threads=1,
    )  # fmt: skip


def test_two_pairs_are_learnt(task: DKMTask, tmp_path: Path) -> None:
    task.model.eval()
    with torch.no_grad():
        before = task.validate()
    for norm in task.model.encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 0.5  # 15 steps are few for statistics to follow
    kept = task.model.encoder.net.bn1.running_mean.clone()
    train(task, settings(15, 15), tmp_path / "out", name="dkm", settings=task.config)
    task.model.eval()
    with torch.no_grad():
        after = task.validate()
    assert after["epe"] < 0.5 * before["epe"] and after["within5"] > before["within5"]
    assert not torch.equal(task.model.encoder.net.bn1.running_mean, kept)  # learnt, as the authors do


def test_a_run_that_went_on_equals_an_unbroken_one(task: DKMTask, tmp_path: Path) -> None:
    def run(out: Path, stops: tuple[int, ...]) -> dict[str, torch.Tensor]:
        for stop in stops:
            again = DKMTask(task.config)
            usual, taken = again.losses, iter(range(stop))

            def losses(batch: object, usual=usual, taken=taken) -> dict[str, torch.Tensor]:  # type: ignore[no-untyped-def]
                if next(taken, None) is None:
                    raise RuntimeError("power cut")
                return usual(batch)

            again.losses = losses  # type: ignore[method-assign, assignment]
            try:
                train(again, settings(2, 1), out, name="dkm", settings=task.config)
            except RuntimeError as error:
                assert str(error) == "power cut"
        return read_state_dict(out / "weights.safetensors")

    unbroken, broken = run(tmp_path / "a", (9,)), run(tmp_path / "b", (1, 9))
    assert all(torch.equal(value, broken[name]) for name, value in unbroken.items())


def test_batches_of_other_sizes_are_refused(task: DKMTask) -> None:
    first = pair(1.0, 0)
    cut = DensePair(first.grey0[:, :, :32], first.grey1, first.to1[:, :32], first.to0, first.k0, first.k1,
                    first.cam1_from_cam0, first.size0, first.size1)  # fmt: skip
    with pytest.raises(ValueError, match="one size"):
        task.losses(collate([first, cut]))


def test_the_rim_of_what_is_known_is_learnt() -> None:
    """Coarse pixels at a hole's rim have no truth; the fine ones beside the hole are judged by where they start."""
    to1 = pixel_centers(*SIZE)[None].clone()
    to1[0, :, 24:40] = torch.nan
    estimates = {}
    for stride in (16, 8):
        truth, _ = true_warp(pixel_centers(*SIZE)[None], (SIZE[0] // stride, SIZE[1] // stride), SIZE)
        estimates[stride] = Estimate(
            truth.permute(0, 3, 1, 2), torch.zeros(1, 1, *truth.shape[1:3], requires_grad=True)
        )
    warp_losses(estimates, to1, SIZE, WarpLossConfig())["certainty"].backward()
    wanted_high = estimates[8].logit.grad[0, 0, 1:-1] < 0  # enlarged beyond the outermost coarse centres, it is off
    assert wanted_high.tolist() == [[True] * 3 + [False] * 2 + [True] * 3] * (SIZE[0] // 8 - 2)


def test_the_encoder_begins_with_imagenets_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dkm, "training_pairs", lambda source: TwoPairs())
    monkeypatch.setattr(dkm, "held_out_pairs", lambda source: [])
    state = {name: value + 1 for name, value in DKM(DKMConfig()).encoder.net.state_dict().items()}
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet.pth")
    made = dkm.build(DKMTaskConfig(imagenet=tmp_path / "resnet.pth")).model.encoder.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in made.items())
    torch.save({name: value for name, value in state.items() if name != "conv1.weight"}, tmp_path / "cut.pth")
    with pytest.raises(Vision3DError, match=r"cut\.pth .*lacks conv1\.weight"):
        dkm.build(DKMTaskConfig(imagenet=tmp_path / "cut.pth"))
    with pytest.raises(ValueError, match="start or imagenet"):
        DKMTaskConfig(imagenet=tmp_path / "resnet.pth", start=tmp_path / "resnet.pth")
