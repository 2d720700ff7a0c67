"""`vision3d doctor`: real probes on this machine, and what it makes of libraries that are missing, broken or crash."""

import json
import sys
from pathlib import Path

import pytest

from vision3d.cli import doctor
from vision3d.cli.doctor import DoctorConfig, Finding, judge, missing_library, run, weight_findings
from vision3d.cli.doctor_probes import ABSENT, PROBES


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return doctor.examine()


def test_the_base_works_here(findings: list[Finding]) -> None:
    needed = {finding.name: finding for finding in findings if finding.needed}
    assert set(needed) == {"python", "torch", "numba", "opencv", "pycolmap", "libraries"}
    assert all(finding.status == "ok" and finding.detail for finding in needed.values()), needed


def test_every_finding_that_is_not_ok_says_what_to_do(findings: list[Finding]) -> None:
    assert all(finding.advice for finding in findings if finding.status != "ok")
    assert {"cuda", "gsplat", "spconv", "open3d", "weights", "memory", "disk"} <= {f.name for f in findings}


def test_every_check_has_a_probe() -> None:
    assert {*doctor.CHECKS, "weights"} == set(PROBES)


def test_json_and_exit_code(
    findings: list[Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert run(DoctorConfig(json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"name", "status", "detail", "advice", "needed"} == set(report["checks"][0])


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_exit_code_follows_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], needed: bool, code: int
) -> None:
    broken = Finding(name="numba", status="broken", detail="crashed", advice="pip install numba " * 9, needed=needed)
    monkeypatch.setattr(doctor, "examine", lambda: [broken])
    assert run(DoctorConfig()) == code
    shown = capsys.readouterr().out
    assert "pip install numba " * 9 in shown  # a command stays on one line


def test_missing_module() -> None:
    finding = judge("pycolmap", 1, "", "ModuleNotFoundError: No module named 'pycolmap'")
    assert (finding.status, finding.advice, finding.needed) == ("broken", "pip install pycolmap", True)


def test_an_error_of_the_library_itself() -> None:
    finding = judge("numba", 1, "", "RuntimeError: a compiled sum came out as 3")
    assert (finding.detail, finding.advice) == (
        "RuntimeError: a compiled sum came out as 3",
        "pip install --force-reinstall numba",
    )


def test_missing_system_library() -> None:
    error = "ImportError: libX11.so.6: cannot open shared object file: No such file or directory"
    finding = judge("open3d", 1, "", error)
    assert finding.detail == "needs the system's libX11.so.6"
    assert finding.advice.startswith("apt-get install libgl1 libegl1 libx11-6")
    assert "opencv-python-headless" in judge("opencv", 1, "", error.replace("libX11.so.6", "libGL.so.1")).advice
    assert "libodd.so.3" in judge("torch", 1, "", error.replace("libX11.so.6", "libodd.so.3")).advice
    assert missing_library("ImportError: cannot import name 'x'") is None


def test_crash_and_absence() -> None:
    assert judge("open3d", -4, "", "").detail == "crashed (SIGILL)"
    assert judge("cuda", ABSENT, "", "").status == "absent"


def test_a_probe_that_hangs_or_crashes_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nkill -SEGV $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    assert judge("numba", *doctor.probe("numba")).detail == "crashed (SIGSEGV)"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(doctor, "TIMEOUT_S", 0.2)
    assert "no answer" in judge("numba", *doctor.probe("numba")).detail


def test_weights_are_grouped_by_what_brings_them() -> None:
    table = {"a": ["/x/a.pth", "pip install p"], "b": [None, "pip install p"], "c": [None, "pip install p"]}
    found, missing = weight_findings(0, json.dumps(table), "")
    assert (found.status, found.detail) == ("ok", "a")
    assert (missing.status, missing.detail, missing.advice) == ("absent", "missing: b, c", "pip install p")


def test_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_MEMORY_GIB", 1e9)
    monkeypatch.setattr(doctor, "MIN_DISK_GIB", 1e9)
    assert doctor._memory().status == "broken"
    assert all(finding.status == "broken" and finding.advice for finding in doctor._disk())
