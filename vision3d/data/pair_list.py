"""Lists of picture pairs as CSV files with a header, and the sizes of pictures that no annotation says."""

from __future__ import annotations

import csv
import functools
from pathlib import Path, PurePosixPath

from vision3d.core import UsageError, Vision3DError
from vision3d.data.decoding import open_photo


def read_pair_list(root: Path, names: tuple[str, ...], columns: int, kind: str) -> tuple[Path, list[list[str]]]:
    """The first file of `names` in `root` that exists, and its rows without the header.

    columns: fewest that a row has. kind: the data set, for errors.

    Raises:
        UsageError: none of the files exists, or it lists no pairs. Vision3DError: a row has too few columns, or the
            file cannot be read.
    """
    file = next((root / name for name in names if (root / name).is_file()), None)
    if file is None:
        raise UsageError(f"{root} is no {kind} folder: it holds none of {', '.join(names)}")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if row][1:]
    except (OSError, ValueError, csv.Error) as error:
        raise Vision3DError(f"cannot read the list of pairs {file}: {error}") from None
    if not rows:
        raise UsageError(f"{file} lists no pairs")
    for number, row in enumerate(rows, 2):
        if len(row) < columns:
            raise Vision3DError(f"{file}, row {number}: {len(row)} columns, {kind} has {columns} or more")
    return file, rows


def inside(root: Path, name: str, file: Path) -> Path:
    """ROOT/NAME for a relative name with slashes. Vision3DError if it leads out of the folder; `file` says so."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise Vision3DError(f"{file}: {name!r} does not name a file inside {root}")
    return root.joinpath(*parts)


def chosen(categories: tuple[str, ...], known: set[str], file: Path) -> None:
    """UsageError for a category that the list does not have."""
    for category in categories:
        if category not in known:
            raise UsageError(f"category {category} has no pairs in {file}: it has {', '.join(sorted(known))}")


@functools.lru_cache(maxsize=1 << 16)
def picture_size(file: Path) -> tuple[int, int]:
    """(width, height) px from the file's header. Vision3DError if it is missing or no picture."""
    return open_photo(file, str(file))[1].size
