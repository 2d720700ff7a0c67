"""What the loop computes: order, schedules, averages, accumulation, files; and what it says when something is wrong."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from training_toys import ToyConfig, ToySample, ToyTask, seeded

from vision3d.cli import main as cli
from vision3d.data.collate import Batch
from vision3d.errors import UsageError, Vision3DError
from vision3d.train import processes, tasks
from vision3d.train.config import OptimiserConfig, ScheduleConfig, TrainConfig
from vision3d.train.devices import to_device
from vision3d.train.folder import open_folder, read_metadata
from vision3d.train.loop import train
from vision3d.train.optimisation import AveragedWeights, learning_rate_factor, make_optimiser, set_rates
from vision3d.train.order import Order
from vision3d.train.table import append_row, cut_back, read_table
from vision3d.train.task import ParameterGroup, Task
from vision3d.weights import read_state_dict

PLAIN = ToyConfig(norm=False, dropout=0.0)
SHORT = TrainConfig(steps=6, batch_size=4, validate_every=3, checkpoint_every=2, log_every=2)


@pytest.mark.parametrize(("count", "batch", "accumulate", "processes"), [(7, 2, 1, 1), (10, 3, 2, 2), (1, 4, 1, 1)])
def test_every_epoch_sees_every_sample_once(count: int, batch: int, accumulate: int, processes: int) -> None:
    order = Order(count, batch, accumulate, processes, seed=3)
    steps = 3 * count
    seen = [
        key
        for step in range(steps)
        for part in range(accumulate)
        for process in range(processes)
        for key in order.batch(step, part, process)
    ]
    whole = len(seen) // count
    counted = Counter(seen)
    assert set(counted.values()) == {1}
    assert {key for key in seen if key[1] < whole} == {(i, e) for e in range(whole) for i in range(count)}
    assert [epoch for _, epoch in seen] == sorted(epoch for _, epoch in seen)
    if count > 5:
        assert [i for i, e in seen if e == 0] != [i for i, e in seen if e == 1], "epochs are shuffled differently"
    assert order.epoch(steps) == pytest.approx(len(seen) / count)


def test_two_processes_share_the_batch_of_one() -> None:
    one, two = Order(11, 6, 1, 1, seed=0), Order(11, 3, 1, 2, seed=0)
    for step in range(5):
        assert one.batch(step, 0, 0) == two.batch(step, 0, 0) + two.batch(step, 0, 1)


def test_epochs_become_steps() -> None:
    assert Order(37, 4, 2, 1, 0).steps(TrainConfig(epochs=2)) == math.ceil(2 * 37 / 8)
    assert Order(3, 4, 2, 1, 0).steps(TrainConfig(epochs=0.1)) == 1


def test_schedules() -> None:
    def factors(schedule: ScheduleConfig, steps: int) -> list[float]:
        return [learning_rate_factor(schedule, step, steps) for step in range(steps)]

    assert factors(ScheduleConfig(name="constant", warmup=3), 5) == [0.25, 0.5, 0.75, 1.0, 1.0]
    cosine = factors(ScheduleConfig(name="cosine", final=0.2), 5)
    assert cosine == pytest.approx([1, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.2 + 0.4 * (1 - math.sqrt(0.5)), 0.2])
    assert factors(ScheduleConfig(name="exponential", final=0.0625), 5) == pytest.approx([1, 0.5, 0.25, 0.125, 0.0625])
    cycle = factors(ScheduleConfig(name="onecycle", start=0.1, peak_at=0.25, final=0.01), 9)
    assert cycle[0] == pytest.approx(0.1) and cycle[2] == pytest.approx(1.0) and cycle[8] == pytest.approx(0.01)
    assert cycle[1] == pytest.approx(0.55) and cycle[5] == pytest.approx(0.505)
    for name in ("constant", "cosine", "exponential", "onecycle"):
        assert all(0 < factor <= 1 for factor in factors(ScheduleConfig(name=name, warmup=1), 1))  # type: ignore[arg-type]


def test_momentum_goes_against_the_cycle() -> None:
    optimiser = make_optimiser(seeded(PLAIN), OptimiserConfig(momentum=0.95))
    schedule = ScheduleConfig(name="onecycle", peak_at=0.5, low_momentum=0.85)
    found = []
    for step in range(3):
        set_rates(optimiser, OptimiserConfig(momentum=0.95), schedule, step, 3)
        found.append(optimiser.param_groups[0]["betas"][0])
    assert found == pytest.approx([0.95, 0.85, 0.95])


def test_norms_and_biases_do_not_decay_and_groups_have_their_own_rates() -> None:
    class Grouped(ToyTask):
        def parameter_groups(self) -> list[ParameterGroup]:
            return [ParameterGroup(list(self.model[4].parameters()), lr_scale=0.1, weight_decay=0.5)]

    config = OptimiserConfig(lr=0.2, weight_decay=0.03)
    optimiser = make_optimiser(seeded(ToyConfig()), config)
    decays = {p.ndim: group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decays == {2: 0.03, 1: 0.0}
    grouped = make_optimiser(Grouped(ToyConfig()), config)
    set_rates(grouped, config, ScheduleConfig(name="constant"), 0, 5)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in grouped.param_groups] == [
        (pytest.approx(0.02), 0.5, 2)
    ]
    frozen = seeded(ToyConfig())
    frozen.model.requires_grad_(False)
    with pytest.raises(ValueError, match="requires a gradient"):
        make_optimiser(frozen, config)


def test_average_is_the_written_formula() -> None:
    model = nn.BatchNorm1d(2)
    average = AveragedWeights(model, decay=0.3)
    expected = 1.0
    for step in range(4):
        with torch.no_grad():
            model.weight.fill_(step + 2.0)
            model.running_mean.fill_(step)  # type: ignore[union-attr]
        average.update(model, step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 2.0)
    torch.testing.assert_close(average.state["weight"], torch.full((2,), expected))
    assert average.state["running_mean"].tolist() == [3, 3] and int(average.state["num_batches_tracked"]) == 0
    with average.swapped_in(model):
        torch.testing.assert_close(model.weight.detach(), torch.full((2,), expected))
    assert model.weight.tolist() == [5, 5]


def test_a_step_is_plain_sgd_on_the_accumulated_batch(tmp_path: Path) -> None:
    optimiser = OptimiserConfig(name="sgd", lr=0.1, momentum=0.0, weight_decay=0.0)
    config = TrainConfig(
        steps=1, batch_size=3, accumulate=2, optimiser=optimiser, schedule=ScheduleConfig(name="constant")
    )
    task = seeded(PLAIN)
    train(task, config, tmp_path / "out")
    by_hand = seeded(PLAIN)
    order = Order(37, 3, 2, 1, 0)
    samples = [by_hand.dataset.sample(*key) for part in range(2) for key in order.batch(0, part, 0)]
    by_hand.losses(by_hand.collate(samples))["loss"].backward()
    for ours, theirs in zip(task.model.parameters(), by_hand.model.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs.detach() - 0.1 * theirs.grad)
        assert theirs.grad.abs().max() > 0


def test_the_gradient_is_clipped_to_its_norm(tmp_path: Path) -> None:
    optimiser = OptimiserConfig(name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip=0.01)
    task, start = seeded(PLAIN), seeded(PLAIN)
    train(task, TrainConfig(steps=1, optimiser=optimiser), tmp_path / "out")
    moved = [a - b for a, b in zip(task.model.parameters(), start.model.parameters(), strict=True)]
    assert float(torch.cat([m.detach().flatten() for m in moved]).norm()) == pytest.approx(0.01, rel=1e-3)
    assert read_table(tmp_path / "out" / "log.csv")["grad_norm"][0] > 0.1, "the log has the norm before clipping"


def test_validation_and_its_averages_do_not_touch_training(tmp_path: Path) -> None:
    often, never = seeded(ToyConfig()), seeded(ToyConfig())
    train(often, replace(SHORT, ema=0.9, validate_every=1), tmp_path / "often")
    train(never, replace(SHORT, validate_every=None), tmp_path / "never")
    assert (often.validations, never.validations) == (6, 1)
    for name, value in never.model.state_dict().items():
        assert torch.equal(value, often.model.state_dict()[name]), name


def test_files_beside_the_weights(tmp_path: Path) -> None:
    class Best(ToyTask):
        def validate(self) -> dict[str, float]:
            assert not self.model.training and not torch.is_grad_enabled()
            self.seen = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.validations += 1
            return {"accuracy": (0.5, 0.9, 0.7)[self.validations - 1], "other": float("nan")}

    torch.manual_seed(0)
    task, out = Best(ToyConfig()), tmp_path / "out"
    lines: list[tuple[str, bool]] = []
    config = replace(SHORT, steps=9, ema=0.8)
    result = train(
        task, config, out, name="toy", settings=ToyConfig(), report=lambda line, lasting: lines.append((line, lasting))
    )
    assert (result.best, result.best_step, result.ended) == (0.9, 6, "done")
    best, last = read_state_dict(out / "best.safetensors"), read_state_dict(out / "weights.safetensors")
    assert all(torch.equal(last[name], value) for name, value in task.seen.items()), "validated weights are the saved"
    assert not torch.equal(best["0.weight"], last["0.weight"])
    assert not torch.equal(last["0.weight"], task.model.state_dict()["0.weight"]), "the average is saved, not the last"
    notes = read_metadata(out / "best.safetensors")
    assert (
        notes["task"] == "toy" and notes["step"] == "6" and "count: 37" in notes["config"] and "0.9" in notes["metrics"]
    )
    log = read_table(out / "log.csv")
    assert log["step"] == [2, 4, 6, 8, 9] and {"lr", "epoch", "seconds", "loss", "largest", "grad_norm"} < log.keys()
    assert read_table(out / "validation.csv")["accuracy"] == [0.5, 0.9, 0.7]
    with Image.open(out / "curve.png") as picture:
        assert picture.size[0] > 900 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 10
    assert sum(lasting for _, lasting in lines) == 3 and any("(best)" in line for line, _ in lines)


def test_log_rows_are_means(tmp_path: Path) -> None:
    train(seeded(ToyConfig()), replace(SHORT, log_every=1), tmp_path / "each")
    train(seeded(ToyConfig()), replace(SHORT, log_every=4), tmp_path / "some")
    each, some = (read_table(tmp_path / name / "log.csv")["loss"] for name in ("each", "some"))
    assert some == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 2], rel=1e-6)


def test_half_precision_trains_where_the_processor_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[torch.dtype] = set()

    class Looks(ToyTask):
        def losses(self, batch: Batch[ToySample]) -> dict[str, Tensor]:
            assert batch.point.dtype == torch.float32
            seen.add(self.model[0](batch.point).dtype)
            return super().losses(batch)

    half = replace(SHORT, precision="bf16-mixed")
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(processes, "HAS_BFLOAT16", has)
        seen.clear()
        lines: list[str] = []
        torch.manual_seed(0)
        task = Looks(PLAIN)
        result = train(task, half, tmp_path / str(has), report=lambda line, _, to=lines: to.append(line))
        assert result.step == 6 and task.model[0].weight.dtype == torch.float32 and seen == {dtype}
        assert sum("32 bit" in line for line in lines) == (0 if has else 1)
    plain = seeded(PLAIN)
    train(plain, SHORT, tmp_path / "plain")
    assert torch.equal(plain.model[0].weight, task.model[0].weight)


def test_half_precision_goes_on_on_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = replace(SHORT, precision="bf16-mixed")
    monkeypatch.setattr(processes, "HAS_BFLOAT16", False)
    assert train(seeded(PLAIN), half, tmp_path / "out", max_time=0).step == 1
    monkeypatch.setattr(processes, "HAS_BFLOAT16", True)
    assert train(seeded(PLAIN), half, tmp_path / "out").step == 6


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(tmp_path: Path) -> None:
    order = Order(37, 4, 1, 1, 0)
    poison = order.batch(4, 0, 0)[2][0]
    expected = f"not finite at step 4 with samples .*{poison} \\(epoch 0\\).*checkpoint before it is kept"
    with pytest.raises(Vision3DError, match=expected):
        train(seeded(replace(PLAIN, poison=poison)), SHORT, tmp_path / "out")
    found = torch.load(tmp_path / "out" / "last.pt", weights_only=True)
    assert found["progressed"]["step"] == 4
    assert all(bool(value.isfinite().all()) for value in found["model"].values())


def test_a_gradient_that_is_not_finite_stops(tmp_path: Path) -> None:
    class Steep(ToyTask):
        def losses(self, batch: Batch[ToySample]) -> dict[str, Tensor]:
            return {"loss": self.model(batch.point).mul(0).sum().sqrt()}

    with pytest.raises(Vision3DError, match=r"the gradient .* is not finite at step 0"):
        train(Steep(PLAIN), SHORT, tmp_path / "out")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_unreadable_sample_is_named(workers: int, tmp_path: Path) -> None:
    config = replace(SHORT, steps=10, workers=workers, validate_every=None)
    with pytest.raises(Vision3DError) as caught:
        train(seeded(ToyConfig(unreadable=5)), config, tmp_path / "out")
    assert str(caught.value) == "training sample 5 (epoch 0): toys/5.png is damaged; fetch it again"


def test_wrong_tasks_are_refused(tmp_path: Path) -> None:
    class NoLoss(ToyTask):
        def losses(self, batch: Batch[ToySample]) -> dict[str, Tensor]:
            return {"total": self.model(batch.point).sum()}

    class NoGradient(ToyTask):
        def losses(self, batch: Batch[ToySample]) -> dict[str, Tensor]:
            return {"loss": self.model(batch.point).sum().detach()}

    class NoMetric(ToyTask):
        main_metric = "recall"

    class Bound(ToyTask):
        def collate(self, samples: list[ToySample]) -> Batch[ToySample]:  # type: ignore[override]
            raise AssertionError

    for task, config, message in (
        (NoLoss(PLAIN), SHORT, 'needs a "loss"'),
        (NoGradient(PLAIN), SHORT, 'needs a "loss"'),
        (NoMetric(PLAIN), SHORT, "main metric 'recall'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(task, config, tmp_path / type(task).__name__)
    with pytest.raises(TypeError, match="staticmethod"):
        train(Bound(PLAIN), replace(SHORT, workers=1), tmp_path / "bound")
    assert isinstance(ToyTask(PLAIN), Task)


def test_bad_starts_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="training set is empty"):
        train(ToyTask(replace(PLAIN, count=0)), SHORT, out)
    assert not out.exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UsageError, match="holds something else"):
        train(seeded(PLAIN), SHORT, tmp_path / "photos")
    with open_folder(out), pytest.raises(UsageError, match="another training works in"):
        train(seeded(PLAIN), SHORT, out)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no GPU here"):
            train(seeded(PLAIN), replace(SHORT, device="cuda"), out)

    train(seeded(PLAIN), SHORT, out, name="toy", settings=PLAIN)
    with pytest.raises(
        UsageError, match=r"settings\.noise was 0\.3 and is 0\.5; train\.optimiser\.lr was 0\.001 and is"
    ):
        other = replace(SHORT, optimiser=OptimiserConfig(lr=0.5))
        train(seeded(PLAIN), other, out, name="toy", settings=replace(PLAIN, noise=0.5))
    free = replace(SHORT, checkpoint_every=9, validate_every=None, log_every=7, threads=torch.get_num_threads())
    assert train(seeded(PLAIN), free, out, name="toy", settings=PLAIN).step == 6
    (out / "last.pt").write_bytes(b"PK nonsense")
    with pytest.raises(Vision3DError, match="not a readable checkpoint"):
        train(seeded(PLAIN), SHORT, out, name="toy", settings=PLAIN)
    assert train(seeded(PLAIN), replace(SHORT, steps=2), out, fresh=True).step == 2


@pytest.mark.parametrize(
    "wrong", [{}, {"steps": 3, "epochs": 2.0}, {"steps": 0}, {"steps": 1, "ema": 1.0}, {"steps": 1, "workers": -1}]
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        TrainConfig(**wrong)


def test_a_table_is_cut_back_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for step in (2, 4, 6):
        append_row(path, {"step": step, "loss": step / 3})
    with pytest.raises(ValueError, match="extra"):
        append_row(path, {"step": 8, "loss": 1.0, "extra": 2.0})
    with path.open("a") as file:
        file.write("8,0.1")  # a kill in the middle of a row
    assert read_table(path)["step"] == [2, 4, 6]
    cut_back(path, 5)
    assert path.read_text() == "step,loss\n2,0.66666667\n4,1.3333333\n"
    cut_back(path, 1)
    assert not path.exists() and read_table(path) == {}


def test_batches_move_whole() -> None:
    sample = ToySample(torch.zeros(2), 1)
    moved = to_device({"a": [torch.ones(1), "name"], "b": (sample, None)}, torch.device("meta"))
    assert moved["a"][0].device.type == "meta" and moved["a"][1] == "name"
    assert moved["b"][0].point.device.type == "meta" and moved["b"][0].label == 1 and moved["b"][1] is None


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(tasks.TASKS, "toy", ("training_toys", "ToyConfig"))
    file, out = tmp_path / "toy.yaml", tmp_path / "out"
    file.write_text("task: toy\nsettings: {noise: 0.5}\ntrain: {batch_size: 2, steps: 4}\n")
    command = ["train", str(file), "--out", str(out), "--train.optimiser.lr", "0.02", "--settings.count", "9"]
    assert cli.main([*command, "--max-time", "1e-9", "--json"]) == 0
    assert '"ended": "max-time"' in capsys.readouterr().out
    assert cli.main(command) == 0
    assert "4 of 4 steps, best accuracy" in capsys.readouterr().out
    assert cli.main(["train", str(out / "config.yaml"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    again = read_state_dict(tmp_path / "again" / "weights.safetensors")
    assert all(torch.equal(again[k], v) for k, v in read_state_dict(out / "weights.safetensors").items())
    capsys.readouterr()
    assert cli.main(command[:-2]) == 2
    assert "settings.count was 9 and is 37" in capsys.readouterr().err
    assert cli.main([*command[:-2], "--fresh", "--quiet"]) == 0
    for text, message in (
        ("task: toy\ntrain: {steps: 3, speed: 2}\n", "unknown key 'train.speed'"),
        ("task: toy\nsettings: {color: 2}\ntrain: {steps: 3}\n", "unknown key 'settings.color'"),
        ("task: toy\nsettings: {features: 0}\ntrain: {steps: 3}\n", "features must be at least 1"),
        ("task: bird\ntrain: {steps: 3}\n", "task 'bird' is not one of"),
        ("train: {steps: 3}\n", "key 'task' is missing"),
    ):
        file.write_text(text)
        assert cli.main(["train", str(file), "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["train"]) == 2 and cli.main(["train", "--help"]) == 0
