"""Write files and folders so that a final name only ever holds a complete result."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vision3d.errors import Vision3DError

# .NAME.PID-RANDOM.tmp is being written, .NAME.PID-RANDOM.old is the version that a swap is replacing.
_LEFTOVER = re.compile(r"^\.(?P<name>.+)\.(?P<pid>[0-9]+)-[0-9a-f]{8}\.(?P<kind>tmp|old)$")

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space and run it again",
    errno.EDQUOT: "the disk quota is used up: free some space and run it again",
    errno.EROFS: "the disk is read-only: choose another output folder",
    errno.EACCES: "no permission to write there: choose another output folder or change its permissions",
    errno.EPERM: "no permission to write there: choose another output folder or change its permissions",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file is larger than allowed here",
}


def write_error(path: Path, error: OSError) -> Vision3DError:
    """The error to show a person when writing `path` failed."""
    reason = _ADVICE.get(error.errno or 0, error.strerror or str(error))
    return Vision3DError(f"cannot write {path}: {reason}")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to; it becomes `path` if the block succeeds.

    The folder is created where needed. The temporary name ends in .tmp: tell writers that go by the ending what the
    format is.

    Raises:
        Vision3DError: writing failed (disk full, read-only, ...); `path` is as it was and nothing is left behind.
    """
    path = Path(path)
    temporary = _beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if _is_ours(error, temporary, path):
            raise write_error(path, error) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file at once. Vision3DError as in `atomic_file`."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a whole text file (UTF-8, line ends as given) at once. Vision3DError as in `atomic_file`."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | Path, value: object, indent: int | None = 1) -> None:
    """Write plain JSON values at once. ValueError for NaN and infinity, which JSON does not have."""
    atomic_write_text(path, json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Give an empty temporary folder to fill; it replaces `path` as a whole if the block succeeds.

    An existing folder stays untouched until the new one is complete and on disk. If the process is killed between the
    two renames of the swap, `recover_leftovers` puts the old one back.

    Raises:
        Vision3DError: writing failed, or `path` is a file; an existing folder is as it was.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise Vision3DError(f"cannot write the folder {path}: a file has that name")
    temporary, old = _beside(path, "tmp"), _beside(path, "old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        if _is_ours(error, temporary, path):
            raise write_error(path, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def recover_leftovers(folder: str | Path) -> list[Path]:
    """Clean up in `folder` after killed runs: call it before reading results that another run may have left.

    Removes temporary files and folders of processes that no longer run; a folder whose swap was cut in two gets its
    old version back. Returns the final paths concerned.
    """
    folder = Path(folder)
    touched: list[Path] = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _LEFTOVER.match(entry.name)
        if match is None or _alive(int(match["pid"])):
            continue
        final = folder / match["name"]
        touched.append(final)
        with contextlib.suppress(OSError):
            if match["kind"] == "old" and not final.exists():
                entry.rename(final)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    return touched


def _beside(path: Path, kind: str) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{kind}"


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_ours(error: OSError, temporary: Path, path: Path) -> bool:
    """Whether it came from writing here, and not, say, from reading another file inside the block."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG) or error.filename is None:
        return True
    name = Path(os.fsdecode(error.filename))
    return name == path or name in path.parents or temporary in (name, *name.parents)


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        try:
            os.fsync(stream.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # file systems without fsync
                raise


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
