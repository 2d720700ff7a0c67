"""A final name only ever holds a complete result, whatever goes wrong."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vision3d.core import Vision3DError
from vision3d.io import atomic
from vision3d.io.atomic import (
    atomic_directory,
    atomic_file,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    recover_leftovers,
)


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_writes_and_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "ü.txt"
    atomic_write_text(path, "eins")
    atomic_write_text(path, "zwei\n")
    assert path.read_text(encoding="utf-8") == "zwei\n"
    atomic_write_json(path, {"ä": [1.5]})
    assert '"ä"' in path.read_text(encoding="utf-8")
    atomic_write_bytes(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [p.name for p in path.parent.iterdir()] == ["ü.txt"]


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        atomic_write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_old_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(atomic, "_sync", full)
    with pytest.raises(Vision3DError, match=r"cannot write .*x\.bin: the disk is full"):
        atomic_write_bytes(path, b"new")
    with pytest.raises(Vision3DError, match="the disk is full"), atomic_directory(tmp_path / "d") as folder:
        (folder / "part").write_bytes(b"1")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_really_full() -> None:
    try:
        Path("/dev/full").write_bytes(b"1")
    except OSError as error:
        assert "the disk is full" in str(atomic.write_error(Path("x"), error))


def test_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        error = PermissionError(errno.EACCES, "Permission denied", str(folder / "x"))
        assert "no permission" in str(atomic.write_error(folder / "x", error))
        pytest.skip("this user may write everywhere")
    with pytest.raises(Vision3DError, match=r"locked.*no permission to write there: choose another output folder"):
        atomic_write_text(folder / "x", "1")


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with pytest.raises(Vision3DError, match="cannot write"):
        atomic_write_text(tmp_path / "file" / "x.txt", "1")
    with pytest.raises(Vision3DError, match="a file has that name"), atomic_directory(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "1"


def test_other_errors_inside_the_block_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "x"):
        (tmp_path / "elsewhere" / "input.txt").read_text()
    assert list(tmp_path.iterdir()) == []


def test_directory_is_swapped_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for version in ("1", "2"):
        with atomic_directory(path) as folder:
            (folder / f"only {version}").write_text(version)
            (folder / "sub").mkdir()
            (folder / "sub" / "deep").write_text(version)
            if version == "2":
                assert (path / "sub" / "deep").read_text() == "1"
    assert sorted(p.name for p in path.iterdir()) == ["only 2", "sub"]
    with pytest.raises(RuntimeError), atomic_directory(path) as folder:
        (folder / "half").write_text("3")
        raise RuntimeError
    assert (path / "sub" / "deep").read_text() == "2" and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_failed_swap_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    rename: Callable[[Path, Path], Path] = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(Vision3DError, match="disk is full"), atomic_directory(path) as folder:
        (folder / "a").write_text("new")
    assert (path / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["model"]


_KILLED = """
import os, sys
from pathlib import Path
from vision3d.io.atomic import atomic_directory, atomic_file
path = Path(sys.argv[2])
rename = Path.rename
count = 0
def dying(self, target):
    global count
    count += 1
    if sys.argv[1] == "swap" and count == 2:
        os._exit(9)
    return rename(self, target)
Path.rename = dying
with (atomic_file if sys.argv[1] == "file" else atomic_directory)(path) as t:
    (t if sys.argv[1] == "file" else t / "a").write_text("new")
    if sys.argv[1] != "swap":
        os._exit(9)
"""


@pytest.mark.parametrize("moment", ["file", "fill", "swap"])
def test_kill_and_recover(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "result"
    if moment == "file":
        path.write_text("old")
    else:
        path.mkdir()
        (path / "a").write_text("old")
    code = subprocess.run([sys.executable, "-c", _KILLED, moment, str(path)], check=False).returncode
    assert code == 9
    if moment != "swap":
        assert path.exists()
    assert recover_leftovers(tmp_path) and recover_leftovers(tmp_path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
    assert (path if moment == "file" else path / "a").read_text() == "old"


def test_recover_leaves_running_processes_and_other_hidden_files_alone(tmp_path: Path) -> None:
    mine = tmp_path / f".x.{os.getpid()}-00000000.tmp"
    dead = tmp_path / f".x.{_dead_pid()}-00000000.tmp"
    for file in (mine, dead, tmp_path / ".hidden", tmp_path / ".x.tmp"):
        file.write_text("1")
    assert recover_leftovers(tmp_path) == [tmp_path / "x"]
    assert mine.exists() and not dead.exists() and (tmp_path / ".hidden").exists() and (tmp_path / ".x.tmp").exists()
    assert recover_leftovers(tmp_path / "missing") == []
