"""The folder of a run: who owns it, and stages whose finished outputs are kept and reused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_directory, recover_leftovers

RUN_FILE = "run.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """OUT of `vision3d reconstruct`: results at the top, work in progress under stages/."""

    path: Path

    @property
    def stages(self) -> Path:
        """Where caches and stage outputs lie; deleting it costs time, never a result."""
        return self.path / "stages"

    def stage(self, name: str, key: dict[str, object], build: Callable[[Path], None]) -> tuple[Path, bool]:
        """The folder with a stage's output, and whether it had to be made.

        `key` is everything that the output depends on (plain JSON values). An output with that key is reused;
        otherwise `build` fills a temporary folder, which gets its final name only when it is whole. Outputs of the
        same stage with other keys go only after that.
        """
        text = json.dumps(key, sort_keys=True, ensure_ascii=False)
        final = self.stages / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if (final / "key.json").is_file():
            return final, False
        with atomic_directory(final) as folder:
            build(folder)
            (folder / "key.json").write_text(text, encoding="utf-8")
        for old in self.stages.glob(f"{name}-*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
        return final, True


@contextmanager
def open_run(path: Path) -> Iterator[RunFolder]:
    """Takes OUT for one run at a time: creates it, or goes on with an earlier run's.

    UsageError if it is a file, holds something that is not a run of ours, or if another run works in it;
    Vision3DError if it cannot be written to.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file; name a folder")
    marker = path / "stages" / "RUN"
    if path.is_dir() and not marker.is_file() and any(not _empty_stages(entry) for entry in path.iterdir()):
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


def _empty_stages(entry: Path) -> bool:
    """What a run leaves that was killed while it made its folder."""
    return entry.name == "stages" and entry.is_dir() and not any(entry.iterdir())
