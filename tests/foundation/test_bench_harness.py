"""The bench harness: order of calls, medians, memory, agreement, missing and failing peers, fresh processes."""

import json
import math
import operator
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from vision3d.bench.harness import Case, Prepare, as_json, measure, report, timed
from vision3d.bench.reconstruct import BenchReconstructConfig, Registered, describe, rotation_difference_deg, run
from vision3d.errors import UsageError, Vision3DError


def _case(ours: Prepare, peers: dict[str, Prepare | None], **settings: object) -> Case:
    given = {"name": "case", "difference": lambda a, b: abs(a - b), "tolerance": 0.1} | settings
    return Case(ours=ours, peers=peers, **given)  # type: ignore[arg-type]


def _prepare(value: float, calls: list[float] | None = None, seconds: float = 0.0) -> Prepare:
    def call() -> float:
        if calls is not None:
            calls.append(value)
        time.sleep(seconds)
        return value

    return lambda: call


def test_calls_alternate_after_one_untimed_call_each() -> None:
    calls: list[float] = []
    row = measure(_case(_prepare(1.0, calls), {"peer": _prepare(2.0, calls)}), repeats=3)
    assert calls == [1.0, 2.0] * 4
    assert (row.ours.result, row.peers["peer"].result, row.differences["peer"]) == (1.0, 2.0, 1.0)


def test_preparing_is_not_timed() -> None:
    def slow() -> Callable[[], float]:
        time.sleep(0.3)
        return lambda: 1.0

    assert measure(_case(slow, {}), repeats=1).ours.median_s < 0.2


def test_json_has_the_agreed_shape() -> None:
    case = _case(_prepare(1.0, seconds=0.01), {"peer": _prepare(1.0, seconds=0.05), "gone": None}, limit_s=9.0)
    shown = json.loads(as_json("name", [measure(case, repeats=3)]))
    assert set(shown) == {"bench", "machine", "rows"}
    (row,) = shown["rows"]
    assert set(row) == {"case", "ours", "peers", "limit_s"}
    assert set(row["ours"]) == {"median_s", "peak_mb"}
    assert set(row["peers"]) == {"peer", "gone"}
    peer = row["peers"]["peer"]
    assert set(peer) == {"median_s", "peak_mb", "ratio", "max_abs_diff"}
    assert peer["ratio"] == pytest.approx(peer["median_s"] / row["ours"]["median_s"])  # above 1: we are faster
    assert peer["ratio"] > 1
    assert row["peers"]["gone"] == dict.fromkeys(("median_s", "peak_mb", "ratio", "max_abs_diff"))


def test_a_missing_peer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert report("name", [measure(_case(_prepare(1.0), {"gone": None}), repeats=1)], as_json_text=False) == 0
    assert "not installed" in capsys.readouterr().out


def test_disagreement_and_limit_fail(capsys: pytest.CaptureFixture[str]) -> None:
    apart = measure(_case(_prepare(1.0), {"peer": _prepare(2.0)}), repeats=1)
    assert report("name", [apart], as_json_text=False) == 1
    assert "DISAGREE" in capsys.readouterr().out
    late = measure(_case(_prepare(1.0, seconds=0.02), {}, limit_s=0.001), repeats=1)
    assert report("name", [late], as_json_text=True) == 1
    json.loads(capsys.readouterr().out)


def test_peak_memory_is_what_the_call_adds() -> None:
    keep = np.ones(30_000_000)  # 240 MB held before the call do not count
    done = timed(lambda: float(np.ones(25_000_000).sum()))
    assert done.result == 25_000_000
    assert keep.size == 30_000_000
    if not math.isnan(done.peak_mb):
        assert 180 < done.peak_mb < 260  # 200 MB


def test_a_fresh_process_for_every_call() -> None:
    case = _case(partial(partial, os.getpid), {"peer": partial(partial, os.getpid)}, isolate=True)
    row = measure(case, repeats=1)
    assert len({os.getpid(), row.ours.result, row.peers["peer"].result}) == 3


def test_environment_reaches_the_process() -> None:
    case = _case(partial(partial, os.getenv, "VISION3D_BENCH_TEST"), {}, isolate=True)
    assert measure(case, repeats=1, environment={"VISION3D_BENCH_TEST": "7"}).ours.result == "7"


def test_failures_in_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    peers: dict[str, Prepare | None] = {"peer": partial(partial, int, "x"), "dead": partial(partial, os._exit, 3)}
    row = measure(_case(partial(partial, operator.add, 1, 1), peers, isolate=True), repeats=2)
    assert row.ours.result == 2
    assert "exit code 3" in row.peers["dead"].note
    assert math.isnan(row.differences["dead"])
    assert report("name", [row], as_json_text=False) == 0
    assert "failed" in capsys.readouterr().out
    with pytest.raises(Vision3DError, match="ValueError: invalid literal"):
        measure(_case(partial(partial, int, "x"), {}, isolate=True), repeats=1)


def _turn(degrees: float) -> list[list[float]]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]


def test_rotation_difference_ignores_the_world_frame() -> None:
    ours = Registered({"a": _turn(10), "b": _turn(40), "c": _turn(170)}, 5, {})
    peer = Registered({"a": _turn(60), "b": _turn(90.5), "d": _turn(0)}, 5, {"map": 1.0})
    assert rotation_difference_deg(ours, ours) == pytest.approx(0, abs=1e-6)
    assert rotation_difference_deg(ours, peer) == pytest.approx(0.5, abs=1e-6)
    assert rotation_difference_deg(ours, Registered({"a": _turn(0)}, 0, {})) == math.inf
    assert describe(peer) == "3 photos, 5 points (map 1.0 s)"


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        run(BenchReconstructConfig(photos=tmp_path / "none"))
    with pytest.raises(UsageError, match="--repeats must be at least 1"):
        run(BenchReconstructConfig(photos=tmp_path, repeats=0))
