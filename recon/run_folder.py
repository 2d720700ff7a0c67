"""The folder of a run: who owns it, and stages whose finished outputs are kept and reused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vision3d.data.photo_folder import RUN_MARKER
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_directory, atomic_write_text, recover_leftovers

RUN_FILE = "run.json"

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """OUT of `vision3d reconstruct`: results at the top, work in progress under stages/."""

    path: Path

    @property
    def stages(self) -> Path:
        """Where caches and stage outputs lie; deleting it costs time, never a result."""
        return self.path / "stages"

    def stage(self, name: str, key: dict[str, object], build: Callable[[Path], None], load: Callable[[Path], T]) -> T:
        """What `load` reads from the folder with a stage's output.

        `key` is everything that the output depends on (plain JSON values). An output with that key is reused;
        otherwise `build` fills a temporary folder, which gets its final name only when it is whole. Outputs of the
        same stage with other keys go only after that. An output that was damaged since, so that it cannot be read, is
        made again.
        """
        text = json.dumps(key, sort_keys=True, ensure_ascii=False)
        final = self.stages / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if (final / "key.json").is_file():
            try:
                return load(final)
            except Exception as error:  # damaged files raise nearly anything
                log.warning("%s is damaged (%s): it is made again", final, error)
        with atomic_directory(final) as folder:
            build(folder)
            (folder / "key.json").write_text(text, encoding="utf-8")
        for old in self.stages.glob(f"{name}-*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
        return load(final)

    def claim(self, name: str, key: dict[str, object], results: Sequence[str]) -> None:
        """Makes room for results at the top that belong together: those of another key (an earlier run with other
        settings) are removed first, so that a run stopped halfway never leaves a mixture."""
        text = hashlib.sha256(json.dumps(key, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        mark = self.stages / f"{name}.claim"
        if mark.is_file() and mark.read_text(encoding="utf-8") == text:
            return
        mark.unlink(missing_ok=True)
        for result in results:
            path = self.path / result
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        atomic_write_text(mark, text)

    def once(self, name: str, key: dict[str, object], results: Sequence[str], build: Callable[[], None]) -> None:
        """Lets `build` write results at the top, unless an earlier run with the same key did and they are there."""
        text = hashlib.sha256(json.dumps(key, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
        mark = self.stages / f"{name}.made"
        there = all((self.path / result).exists() for result in results)
        if there and mark.is_file() and mark.read_text(encoding="utf-8") == text:
            return
        mark.unlink(missing_ok=True)
        build()
        atomic_write_text(mark, text)


@contextmanager
def open_run(path: Path) -> Iterator[RunFolder]:
    """Takes OUT for one run at a time: creates it, or goes on with an earlier run's.

    UsageError if it is a file, holds something that is not a run of ours, or if another run works in it;
    Vision3DError if it cannot be written to.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file; name a folder")
    marker = path / RUN_MARKER
    if path.is_dir() and not is_run(path) and any(not _empty_stages(entry) for entry in path.iterdir()):
        raise UsageError(f"--out {path} holds something else; name a new or empty folder, or an earlier run's")
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        lock = marker.open("a", encoding="utf-8")
    except OSError as error:
        raise Vision3DError(f"cannot write to --out {path}: {error.strerror}; choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another run works in {path}; wait for it or name another --out") from error
        recover_leftovers(marker.parent)
        recover_leftovers(path)
        yield RunFolder(path)


def is_run(path: Path) -> bool:
    """Whether a run of ours made this folder: by its marker, or by run.json where stages/ was deleted."""
    if (path / RUN_MARKER).is_file():
        return True
    try:
        return "vision3d" in json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _empty_stages(entry: Path) -> bool:
    """What a run leaves that was killed while it made its folder."""
    return entry.name == "stages" and entry.is_dir() and not any(entry.iterdir())
