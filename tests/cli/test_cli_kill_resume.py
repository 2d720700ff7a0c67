"""A run killed five times at random moments ends in the same result as one that was left alone."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from synthetic_photos import room_corner

from vision3d.io.ply import read_ply


def _start(photos: Path, out: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "vision3d.cli.main",
        "reconstruct",
        "--until",
        "poses",
        str(photos),
        "--out",
        str(out),
        "--json",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(photos: Path, out: Path) -> float:
    started = time.monotonic()
    process = _start(photos, out)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return time.monotonic() - started


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    room_corner(photos, 6)
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    seconds = _finish(photos, unbroken)

    dice = random.Random(7)
    hits = tries = 0
    while hits < 5:
        tries += 1
        assert tries <= 20, "runs end too early to be killed"
        started, whole = time.monotonic(), not killed.exists()
        process = _start(photos, killed)
        try:
            process.communicate(timeout=dice.uniform(0.2, 1.0) * seconds)
            if whole:  # the first run compiled kernels and took longer
                seconds = time.monotonic() - started
            shutil.rmtree(killed)  # this one ended before its kill, as resumed runs are shorter: the next starts anew
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            hits += 1
        # Whatever has a final name is whole.
        for path in killed.glob("*.json"):
            json.loads(path.read_text())
    _finish(photos, killed)

    ours, truth = (json.loads((out / "cameras.json").read_text())["images"] for out in (killed, unbroken))
    assert ours.keys() == truth.keys() and len(ours) == 6
    for name in truth:
        np.testing.assert_allclose(ours[name]["cam_from_world"], truth[name]["cam_from_world"], atol=1e-6)
        np.testing.assert_allclose(ours[name]["K"], truth[name]["K"], atol=1e-3)
    clouds = [read_ply(out / "points.ply").cloud.points.numpy() for out in (killed, unbroken)]
    assert clouds[0].shape == clouds[1].shape
    np.testing.assert_allclose(clouds[0], clouds[1], atol=1e-4)
    assert not [path for path in killed.rglob("*") if path.name.endswith((".tmp", ".old"))]


def test_a_run_that_is_told_to_end_says_no_more(tmp_path: Path) -> None:
    """SIGTERM ends it as any program: pycolmap's logging would print a native trace."""
    room_corner(tmp_path / "photos", 3)
    process = _start(tmp_path / "photos", tmp_path / "out")
    assert process.stderr is not None
    seen = ""
    while "features" not in seen:  # pycolmap is imported by then
        character = process.stderr.read(1)
        assert character, seen
        seen += character
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM
    assert "***" not in rest and "PC:" not in rest, rest
