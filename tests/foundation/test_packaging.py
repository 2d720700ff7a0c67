"""The wheel holds exactly the files of the packages that git knows, as real files under vision3d/."""

import subprocess
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
MAPPED = ("matching", "recon", "detection", "configs")


def _git_files() -> set[str]:
    """Files of the packages as the wheel should name them; new files that are not ignored count, links do not."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    done = subprocess.run([*command, "vision3d", *MAPPED], capture_output=True, text=True, check=True)
    names = [name for name in done.stdout.split("\0") if name]
    files = [name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    return {name if name.startswith("vision3d/") else f"vision3d/{name}" for name in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    path = next(iter(WheelBuilder(str(ROOT)).build(directory=str(out), versions=["standard"])))
    return zipfile.ZipFile(path)


def test_wheel_holds_what_git_holds(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = _git_files()
    assert not names - expected, f"in the wheel but not in git: {sorted(names - expected)}"
    assert not expected - names, f"in git but not in the wheel: {sorted(expected - names)}"
    assert {"vision3d/py.typed", "vision3d/matching/base.py", "vision3d/configs/README.md"} <= names


def test_wheel_has_no_top_level_matching(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vision3d"}


def test_wheel_carries_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    info = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in info
    assert "vision3d = vision3d.cli.main:main" in wheel.read(info["entry_points.txt"]).decode()
    assert "Classifier: Private :: Do Not Upload" in wheel.read(info["METADATA"]).decode()
