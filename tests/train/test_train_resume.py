"""A run that was stopped, interrupted or killed, and went on, equals the unbroken run bit for bit."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_toys import ToyConfig, ToyTask, seeded

from vision3d.train.config import OptimiserConfig, ScheduleConfig, TrainConfig
from vision3d.train.loop import TrainResult, train
from vision3d.train.stopping import Stop

# 37 samples, 6 a step: checkpoints lie within epochs, batches reach over their ends.
CONFIG = TrainConfig(
    steps=40,
    batch_size=3,
    accumulate=2,
    ema=0.95,
    optimiser=OptimiserConfig(lr=0.02, clip=1.0),
    schedule=ScheduleConfig(name="onecycle", low_momentum=0.85),
    validate_every=8,
    checkpoint_every=7,
    log_every=5,
)
SGD = TrainConfig(
    epochs=5.5,
    batch_size=4,
    ema=0.9,
    optimiser=OptimiserConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.001),
    schedule=ScheduleConfig(name="exponential", warmup=5),
    validate_every=None,
    checkpoint_every=9,
    log_every=4,
)


def _train(config: TrainConfig, out: Path, task: ToyTask | None = None) -> TrainResult:
    return train(task or seeded(ToyConfig()), config, out, name="toy", settings=ToyConfig())


class _DiesAt(ToyTask):
    """Its `calls`-th forward pass raises, as if the process was killed there: nothing is saved."""

    def __init__(self, config: ToyConfig, calls: int) -> None:
        super().__init__(config)
        self.calls = calls

    def losses(self, batch: object) -> dict[str, Tensor]:
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("power cut")
        return super().losses(batch)  # type: ignore[arg-type]


def _table(path: Path) -> list[list[str]]:
    """Without the column of seconds."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    keep = [k for k, name in enumerate(rows[0]) if name != "seconds"]
    return [[row[k] for k in keep] for row in rows]


def _same(left: object, right: object) -> bool:
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))  # type: ignore[arg-type]
    return left == right


def _step(out: Path) -> int:
    step: int = torch.load(out / "last.pt", weights_only=True)["progressed"]["step"]
    return step


def _assert_equal(out: Path, reference: Path) -> None:
    ours, theirs = (torch.load(folder / "last.pt", weights_only=True) for folder in (out, reference))
    for found in (ours, theirs):
        del found["progressed"]["seconds"]
    for name in theirs:
        assert _same(ours[name], theirs[name]), name
    for name in ("weights.safetensors", "best.safetensors"):
        assert (out / name).read_bytes() == (reference / name).read_bytes(), name
    for name in ("log.csv", "validation.csv"):
        assert _table(out / name) == _table(reference / name), name
    assert not list(out.glob("*.tmp"))


@pytest.mark.parametrize("config", [CONFIG, SGD], ids=["adamw", "sgd"])
def test_a_broken_run_goes_on_to_the_same_bits(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _train(config, tmp_path / "whole")
    assert whole.ended == "done" and whole.step == whole.steps

    broken = tmp_path / "broken"
    for calls in (5, 20, 31):  # before the first checkpoint, and in the middle of steps and epochs
        torch.manual_seed(0)
        with pytest.raises(RuntimeError, match="power cut"):
            _train(config, broken, _DiesAt(ToyConfig(), calls))
    asked = iter([None, None, None, "max-time"])
    with monkeypatch.context() as patched:
        patched.setattr(Stop, "reason", lambda self: next(asked))
        stopped = _train(config, broken, seeded(ToyConfig(), seed=5))  # initial weights no longer matter
    assert stopped.ended == "max-time" and stopped.step < stopped.steps
    assert _step(broken) == stopped.step
    assert _train(config, broken, seeded(ToyConfig(), seed=6)) == TrainResult(
        broken, whole.step, whole.steps, "done", whole.best, whole.best_step
    )
    _assert_equal(broken, tmp_path / "whole")
    # A finished run is left as it is.
    assert _train(config, broken).step == whole.step
    _assert_equal(broken, tmp_path / "whole")


def test_the_comparison_sees_a_lost_momentum(tmp_path: Path) -> None:
    """The test above can fail: the same run without its optimiser's state ends elsewhere."""
    _train(SGD, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        torch.manual_seed(0)
        _train(SGD, tmp_path / "broken", _DiesAt(ToyConfig(), 20))
    found = torch.load(tmp_path / "broken" / "last.pt", weights_only=True)
    found["optimiser"]["state"] = {}
    torch.save(found, tmp_path / "broken" / "last.pt")
    _train(SGD, tmp_path / "broken")
    with pytest.raises(AssertionError):
        _assert_equal(tmp_path / "broken", tmp_path / "whole")


def test_max_time_stops_after_a_step(tmp_path: Path) -> None:
    result = train(seeded(ToyConfig()), CONFIG, tmp_path / "out", max_time=1e-9)
    assert (result.ended, result.step) == ("max-time", 1)


SCRIPT = """
import sys, torch
from pathlib import Path
from training_toys import ToyConfig, seeded
from dataclasses import replace
from test_train_resume import CONFIG
from vision3d.train.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    slow = ToyConfig(slow_s=0.003)
    result = train(seeded(slow), replace(CONFIG, workers=2), Path(sys.argv[1]), name="toy", settings=ToyConfig())
    print(result.ended)
"""


def _start(script: Path, out: Path) -> subprocess.Popen:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])}
    command = [sys.executable, str(script), str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "last.pt").is_file() and _step(out) >= step:
            return
        time.sleep(0.005)
    raise AssertionError(f"no checkpoint of step {step}: {process.communicate(timeout=5)}")


@pytest.mark.slow
def test_killed_with_workers_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """SIGTERM, then SIGKILL, with two workers; the unbroken run has none."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train(CONFIG, tmp_path / "whole")
        script, out = tmp_path / "run.py", tmp_path / "killed"
        script.write_text(SCRIPT)
        process = _start(script, out)
        _wait_for_step(process, out, 7)
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=60)
        assert (process.returncode, output.strip()) == (0, "interrupted"), error
        reached = _step(out)
        process = _start(script, out)
        _wait_for_step(process, out, reached + 1)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # its workers hold the pipes: they must end too
        assert _step(out) < 40, "it ended before its kill"
        _train(CONFIG, out)
    finally:
        torch.set_num_threads(threads)
    _assert_equal(out, tmp_path / "whole")
