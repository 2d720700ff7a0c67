"""Times us beside a peer on the same input, alternating, and checks that both find the same.

A contender is prepared untimed (imports, input), then called. Light cases run in this process, with one untimed call
first. Cases with `isolate` run every call in a fresh process, so that neither finds the other's memory, threads or
caches; then a contender must be picklable. peak_mb is what the resident memory grew by during the call, at most. On a
machine that is busy with something else, compare the CPU seconds that are printed beside the wall time.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vision3d.errors import Vision3DError

Prepare = Callable[[], Callable[[], Any]]
"""Does what is not timed, and returns the call that is."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input, us and our peers on it.

    difference: how far a peer's result is from ours, beyond `tolerance` they do not agree. A peer that is None is not
    installed. describe: a result in a few words. limit_s: what our median must not exceed, if there is such a limit.
    """

    name: str
    ours: Prepare
    peers: Mapping[str, Prepare | None]
    difference: Callable[[Any, Any], float]
    tolerance: float
    describe: Callable[[Any], str] | None = None
    limit_s: float | None = None
    isolate: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One timed call: wall time, CPU time of all threads, peak growth of the resident memory in MB (NaN: unknown)."""

    seconds: float
    cpu_s: float
    peak_mb: float
    result: Any


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one contender took: medians, the highest peak, its last result. NaN where it is missing or failed."""

    median_s: float = math.nan
    cpu_s: float = math.nan
    peak_mb: float = math.nan
    result: Any = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured case. differences: by peer, NaN where the peer is missing or failed."""

    case: Case
    ours: Figures
    peers: Mapping[str, Figures]
    differences: Mapping[str, float] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether every peer that ran found the same, and our time is within the limit."""
        in_time = self.case.limit_s is None or self.ours.median_s <= self.case.limit_s
        return in_time and not any(difference > self.case.tolerance for difference in self.differences.values())


def measure(case: Case, repeats: int = 5, environment: Mapping[str, str] | None = None) -> Row:
    """Calls us and each peer in turn, `repeats` times. `environment` is set in the processes of isolated cases.

    Vision3DError if our own side fails; a peer that fails is reported in its note.
    """
    contenders: dict[str, Prepare] = {"ours": case.ours}
    contenders |= {name: prepare for name, prepare in case.peers.items() if prepare is not None}
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    failed: dict[str, str] = {}
    ready = {} if case.isolate else {name: prepare() for name, prepare in contenders.items()}
    for call in ready.values():
        call()
    for repeat in range(repeats):
        for name, prepare in contenders.items():
            if name in failed:
                continue
            print(f"{case.name}: {name}, call {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
            try:
                run = _isolated(prepare, environment or {}) if case.isolate else timed(ready[name])
            except Vision3DError as error:
                if name == "ours":
                    raise
                failed[name] = f"failed: {error}"
            else:
                runs[name].append(run)
    figures = {name: _figures(done, case) for name, done in runs.items() if name not in failed}
    peers = {
        name: Figures(note="not installed")
        if prepare is None
        else figures.get(name) or Figures(note=failed.get(name, ""))
        for name, prepare in case.peers.items()
    }
    ours = figures["ours"]
    differences = {
        name: float(case.difference(ours.result, peer.result)) if not math.isnan(peer.median_s) else math.nan
        for name, peer in peers.items()
    }
    return Row(case=case, ours=ours, peers=peers, differences=differences)


def timed(call: Callable[[], Any]) -> Run:
    """Calls it once."""
    gc.collect()
    _give_back_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forgets the high-water mark
        before = _status_kb("VmRSS")
    except OSError:
        before = math.nan
    start, start_cpu = time.perf_counter(), _cpu_seconds()
    result = call()
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - start_cpu
    peak = (_status_kb("VmHWM") - before) / 1000 if not math.isnan(before) else math.nan
    return Run(seconds, cpu, peak, result)


def as_json(bench: str, rows: list[Row]) -> str:
    """One JSON object; ratio is the peer's median over ours, and null stands where a peer is missing."""
    out = []
    for row in rows:
        peers = {
            name: {
                "median_s": _number(peer.median_s),
                "peak_mb": _number(peer.peak_mb),
                "ratio": _number(peer.median_s / row.ours.median_s),
                "max_abs_diff": _number(row.differences[name]),
            }
            for name, peer in row.peers.items()
        }
        ours = {"median_s": _number(row.ours.median_s), "peak_mb": _number(row.ours.peak_mb)}
        out.append({"case": row.case.name, "ours": ours, "peers": peers, "limit_s": row.case.limit_s})
    return json.dumps({"bench": bench, "machine": machine(), "rows": out})


def report(bench: str, rows: list[Row], *, as_json_text: bool) -> int:
    """Prints the rows on stdout; 0 when all agree and keep their limit, else 1."""
    if as_json_text:
        print(as_json(bench, rows))
    else:
        print(f"{bench} on {machine()}")
    for row in rows:
        for line in _lines(row):
            print(line, file=sys.stderr if as_json_text else sys.stdout)
    return 0 if all(row.agrees for row in rows) else 1


def machine() -> str:
    """CPU, cores, Python and the versions that speed depends on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = []
    for name in ("torch", "numba", "pycolmap"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([f"{model} with {cpus} CPUs", f"Python {platform.python_version()}", *versions])


def _lines(row: Row) -> list[str]:
    limit = f", limit {row.case.limit_s:g} s" if row.case.limit_s is not None else ""
    lines = [row.case.name, f"  {'ours':<10} {_shown(row.ours)}{limit}"]
    for name, peer in row.peers.items():
        if math.isnan(peer.median_s):
            lines.append(f"  {name:<10} {peer.note}")
            continue
        difference = row.differences[name]
        verdict = "agree" if difference <= row.case.tolerance else f"DISAGREE, beyond {row.case.tolerance:g}"
        lines.append(f"  {name:<10} {_shown(peer)}")
        ratio = peer.median_s / row.ours.median_s
        lines.append(
            f"  {'':<10} {name} takes {ratio:.2f} times as long; results differ by {difference:.3g}: {verdict}"
        )
    return lines


def _shown(figures: Figures) -> str:
    note = f"; {figures.note}" if figures.note else ""
    return f"{figures.median_s:9.3f} s (CPU {figures.cpu_s:.3f} s) {figures.peak_mb:6.0f} MB{note}"


def _figures(runs: list[Run], case: Case) -> Figures:
    result = runs[-1].result
    return Figures(
        median_s=statistics.median(run.seconds for run in runs),
        cpu_s=statistics.median(run.cpu_s for run in runs),
        peak_mb=max(run.peak_mb for run in runs),
        result=result,
        note=case.describe(result) if case.describe else "",
    )


def _isolated(prepare: Prepare, environment: Mapping[str, str]) -> Run:
    """One timed call in a fresh process; Vision3DError with the reason if it raises or dies."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, prepare, dict(environment)))
    process.start()
    there.close()
    try:
        outcome = here.recv()
    except EOFError:
        process.join()
        raise Vision3DError(f"the process ended with exit code {process.exitcode}") from None
    except BaseException:
        process.terminate()
        raise
    finally:
        here.close()
    process.join()
    if isinstance(outcome, str):
        raise Vision3DError(outcome)
    assert isinstance(outcome, Run)
    return outcome


def _child(connection: Connection, prepare: Prepare, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # before torch and OpenMP read their thread counts
    try:
        connection.send(timed(prepare()))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def _cpu_seconds() -> float:
    """User and system time of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _status_kb(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return float(line.split()[1])
    return math.nan


def _give_back_free_memory() -> None:
    """glibc keeps freed memory; a call that reuses it would seem to need none."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
