"""Two processes on a CPU (gloo): same weights in both, and those of one process with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_toys import ToyConfig, seeded

from vision3d.train.config import OptimiserConfig, TrainConfig
from vision3d.train.loop import train

PLAIN = ToyConfig(norm=False, dropout=0.0)
# Plain SGD: a wrong factor in the gradient shows, which AdamW would hide.
CONFIG = TrainConfig(
    steps=5,
    batch_size=3,
    accumulate=2,
    ema=0.9,
    optimiser=OptimiserConfig(name="sgd", lr=0.1),
    validate_every=2,
    checkpoint_every=2,
    processes=2,
    threads=1,
)

SCRIPT = """
import os, sys, torch
from dataclasses import replace
from pathlib import Path
from training_toys import seeded
from test_train_processes import CONFIG, PLAIN
from vision3d.train.loop import train

if __name__ == "__main__":
    out = Path(sys.argv[1])
    task = seeded(PLAIN, seed=int(os.environ.get("LOCAL_RANK", "0")))
    train(task, CONFIG, out, max_time=float(sys.argv[2]))
    result = train(task, CONFIG, out)
    rank = torch.distributed.get_rank()
    torch.save({"model": task.model.state_dict(), "validations": task.validations}, out / f"rank{rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]], ids=["own", "torchrun"]
)
def test_two_processes_equal_one_with_the_doubled_batch(launcher: list[str], tmp_path: Path) -> None:
    script, out = tmp_path / "run.py", tmp_path / "two"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])}
    command = [sys.executable, *launcher, str(script), str(out), "1e-9"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert json.loads((out / "versions.json").read_text())["machine"]["processes"] == 2
    assert [rank["validations"] for rank in ranks] == [3, 0]

    single = seeded(PLAIN)
    one = TrainConfig(
        **{**{f: getattr(CONFIG, f) for f in CONFIG.__dataclass_fields__}, "processes": 1, "batch_size": 6}
    )
    train(single, one, tmp_path / "one")
    for name, value in single.model.state_dict().items():
        assert torch.equal(ranks[0]["model"][name], ranks[1]["model"][name]), name
        torch.testing.assert_close(ranks[0]["model"][name], value, rtol=1e-5, atol=1e-6)
    start = seeded(PLAIN).model.state_dict()
    assert any(not torch.allclose(start[name], value, atol=1e-3) for name, value in single.model.state_dict().items())
