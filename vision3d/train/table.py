"""A CSV table that grows by rows keyed by step, and is cut back to a step when a run resumes there."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from vision3d.errors import Vision3DError
from vision3d.io.atomic import atomic_write_text


def append_row(path: Path, row: Mapping[str, float | int]) -> None:
    """Adds a row, whose first key is step; the first row decides the columns. ValueError for other columns later."""
    new = not path.exists()
    if not new:
        with path.open(encoding="utf-8", newline="") as file:
            columns = next(csv.reader(file), [])
        if set(columns) != set(row):
            differing = ", ".join(sorted(set(columns) ^ set(row)))
            raise ValueError(f"losses and metrics must have the same names all the time; {differing} came or went")
        row = {name: row[name] for name in columns}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if new:
        writer.writerow(row)
    writer.writerow([f"{value:.8g}" if isinstance(value, float) else value for value in row.values()])
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(stream.getvalue())
    except OSError as error:
        raise Vision3DError(f"cannot write {path}: {error.strerror}") from error


def read_table(path: Path) -> dict[str, list[float]]:
    """Column -> values; a last row that was cut off by a kill is left out. Empty if there is no table."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if not lines:
        return {}
    rows = [[float(value) for value in line] for line in lines[1:] if len(line) == len(lines[0])]
    return {name: [row[k] for row in rows] for k, name in enumerate(lines[0])}


def cut_back(path: Path, step: int) -> None:
    """Drops rows after a step, and the table if none is left."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
    if kept:
        atomic_write_text(path, "".join([lines[0], *kept]))
    else:
        path.unlink()
