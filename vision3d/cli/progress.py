"""Progress bars on stderr for long commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from vision3d.core.progress import Progress, silent


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[Progress]:
    """A Progress that draws one bar a stage on stderr; off a terminal it prints one line when a stage ends."""
    if quiet:
        yield silent
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=max(total, 1))
            bars.update(tasks[stage], completed=done if total else 1, total=max(total, 1))

        yield report


def _lines(console: Console) -> Progress:
    said: set[tuple[str, int]] = set()

    def report(stage: str, done: int, total: int) -> None:
        if done >= total and (stage, total) not in said:
            said.add((stage, total))
            console.print(f"{stage}: {done}/{total}", highlight=False, soft_wrap=True)

    return report
