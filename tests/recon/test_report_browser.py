"""The report in a real browser: scripts run without errors and draw. Skipped where no Chromium is installed."""

import re
import shutil
import subprocess

import pytest
from report_scenes import arc_scene, report_data

from vision3d.recon.report import PhotoRow, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr")
FLAGS += ("--virtual-time-budget=4000", "--dump-dom")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found")
@pytest.mark.parametrize("case", ["scene", "nothing"])
def test_scripts_run_without_errors(tmp_path, case):
    data = report_data(arc_scene(6, 300))
    if case == "nothing":
        data = report_data(None, photos=[PhotoRow(name="a</script>.jpg", reason="no matches"), PhotoRow(name="b.jpg")])
    write_report(data, tmp_path / "report.html")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "report.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert not re.findall(r"^.*CONSOLE.*$", run.stderr, re.MULTILINE)
    assert '<div class="matrix-side"' in run.stdout
    if case == "scene":
        assert '<div id="viewer" class="live">' in run.stdout
        assert run.stdout.count("<canvas") == 2
