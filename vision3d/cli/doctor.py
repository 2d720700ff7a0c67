"""`vision3d doctor`: what works on this machine, and what to do about what does not.

Every library is tried in an interpreter of its own, so that one that crashes or hangs is a line in the table.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import vision3d
from vision3d.cli.doctor_probes import ABSENT

TIMEOUT_S = 180
MIN_DISK_GIB = 2.0
MIN_MEMORY_GIB = 4.0

# Debian and Ubuntu packages of libraries that wheels expect from the system.
APT = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libxcb.so.1": "libxcb1",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libgomp.so.1": "libgomp1",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libstdc++.so.6": "libstdc++6",
}
# The loader names one missing library at a time; these wheels need all of theirs.
APT_TOGETHER = {
    "open3d": ("libgl1", "libegl1", "libx11-6", "libgomp1", "libidn2-0", "libusb-1.0-0"),
    "opencv": ("libgl1", "libglib2.0-0", "libxcb1"),
}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Tries what vision3d needs and what it can use, and says what to do about what does not work."""

    json: bool = False
    """print the findings as JSON"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table. status: "ok", "absent" (not there, and not needed) or "broken"."""

    name: str
    status: Literal["ok", "absent", "broken"]
    detail: str
    advice: str = ""
    needed: bool = False


# Probe -> (needed, what to do where it is not installed or found).
CHECKS: dict[str, tuple[bool, str]] = {
    "torch": (True, "pip install torch"),
    "numba": (True, "pip install numba"),
    "opencv": (True, "pip install opencv-python-headless"),
    "pycolmap": (True, "pip install pycolmap"),
    "libraries": (True, "in vision3d's folder: pip install ."),
    "cuda": (False, "nothing to do: everything runs on the CPU"),
    "gsplat": (False, "only for splatting on a GPU: pip install '.[cuda]'"),
    "spconv": (False, "only for detection on a GPU: pip install '.[cuda]'"),
    "open3d": (False, "only for its point-cloud baselines: pip install '.[clouds]'"),
}


def run(config: DoctorConfig) -> int:
    """Prints the findings; 0 when everything that vision3d needs works, else 1."""
    findings = examine()
    works = all(finding.status == "ok" for finding in findings if finding.needed)
    if config.json:
        print(json.dumps({"ok": works, "checks": [asdict(finding) for finding in findings]}, indent=1))
    else:
        _print(findings, works)
    return 0 if works else 1


def examine() -> list[Finding]:
    """Every finding, in the order of the table."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        weights = pool.submit(probe, "weights")
        tried = list(pool.map(lambda name: judge(name, *probe(name)), CHECKS))
        return [_python(), *tried, *weight_findings(*weights.result()), _memory(), *_disk()]


def probe(name: str) -> tuple[int, str, str]:
    """Runs a probe in an interpreter of its own: exit code (negative: the signal), what it printed, what went wrong."""
    root = str(Path(vision3d.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-P", "-m", "vision3d.cli.doctor_probes", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer after {TIMEOUT_S} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, done.stdout.strip(), lines[-1] if lines else ""


def judge(name: str, code: int, output: str, error: str) -> Finding:
    """What the result of a probe means."""
    needed, install = CHECKS[name]
    if code == 0:
        return Finding(name=name, status="ok", detail=output, needed=needed)
    module = re.search(r"No module named '([\w.]+)'", error)
    if code == ABSENT:
        detail = "no CUDA GPU" if name == "cuda" else "not installed"
        return Finding(name=name, status="absent", detail=detail, advice=install, needed=needed)
    if code < 0:
        detail = f"crashed ({signal.Signals(-code).name})"
        advice = f"this build does not run on this machine, try another version of it: {install}"
    elif library := missing_library(error):
        detail = f"needs the system's {library}"
        advice = _apt_advice(name, library)
    else:
        detail = error or f"exit code {code}"
        advice = install if module else install.replace("pip install", "pip install --force-reinstall")
    return Finding(name=name, status="broken", detail=detail, advice=advice, needed=needed)


def missing_library(error: str) -> str | None:
    """The shared library that the loader did not find, from the text of an ImportError or OSError."""
    found = re.search(r"(lib[\w.+-]+?\.so[\d.]*): (?:cannot open shared object file|file too short)", error)
    return found[1] if found else None


def _apt_advice(name: str, library: str) -> str:
    packages = APT_TOGETHER.get(name) or ((APT[library],) if library in APT else ())
    apt = f"apt-get install {' '.join(packages)}" if packages else f"install the system package that has {library}"
    if name == "opencv":
        headless = "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless"
        return f"another package brought opencv-python: {headless} (or: {apt})"
    return apt


def weight_findings(code: int, output: str, error: str) -> list[Finding]:
    """One line for each command that would bring missing weights, one for those found."""
    if code != 0:
        return [Finding(name="weights", status="broken", detail=error or f"exit code {code}", advice="see torch above")]
    table: dict[str, tuple[str | None, str]] = json.loads(output)
    findings = []
    if found := [name for name, (path, _) in table.items() if path]:
        findings.append(Finding(name="weights", status="ok", detail=", ".join(found)))
    for install in dict.fromkeys(install for path, install in table.values() if not path):
        names = [name for name, (path, command) in table.items() if not path and command == install]
        findings.append(Finding(name="weights", status="absent", detail=f"missing: {', '.join(names)}", advice=install))
    return findings


def _python() -> Finding:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cpus} CPUs"
    return Finding(name="python", status="ok", detail=f"{detail}, vision3d {vision3d.__version__}", needed=True)


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    except (OSError, StopIteration):
        return Finding(name="memory", status="ok", detail="not known on this system")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, max(0, int(text) - used) / 2**30)
    if free < MIN_MEMORY_GIB:
        advice = "use fewer or smaller photos (--max-size), or close other programs"
        return Finding(name="memory", status="broken", detail=f"{free:.1f} GiB available", advice=advice)
    return Finding(name="memory", status="ok", detail=f"{free:.1f} GiB available")


def _disk() -> list[Finding]:
    findings = []
    seen: set[int] = set()
    for what, folder in (("this folder", Path.cwd()), ("home", Path.home()), ("temporary", tempfile.gettempdir())):
        device = os.stat(folder).st_dev  # noqa: PTH116 - gettempdir is text
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free / 2**30
        full = free < MIN_DISK_GIB
        advice = f"free some space on the disk of {folder}" if full else ""
        detail = f"{free:.1f} GiB free ({what}: {folder})"
        findings.append(Finding(name="disk", status="broken" if full else "ok", detail=detail, advice=advice))
    return findings


def _print(findings: list[Finding], works: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = {"ok": "green", "absent": "yellow", "broken": "red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        table.add_row(finding.name, Text(finding.status, style[finding.status]), Text(finding.detail))
    console = Console()
    console.print(table)
    to_do = [finding for finding in findings if finding.advice]
    if to_do:
        print("\nwhat to do:")
    for finding in to_do:  # not in the table: a command must stay on one line to be copied
        print(f"  {finding.name}: {finding.advice}")
    print("\nvision3d works on this machine" if works else "\nvision3d does not work yet on this machine")
