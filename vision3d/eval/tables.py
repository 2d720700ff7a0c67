"""A table of results with its protocol, printed with rich or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a title; caption: the protocol, without which the numbers mean nothing.

    digits: decimal places per column (for floats). None is printed as a dash.
    """

    title: str
    caption: str
    columns: tuple[str, ...]
    digits: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def text(self) -> list[list[str]]:
        """The cells as printed."""
        return [[_text(cell, n) for cell, n in zip(row, self.digits, strict=True)] for row in self.rows]

    def markdown(self) -> str:
        """A Markdown section: heading, caption, table."""
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in [list(self.columns), *self.text()]]
        align = ["---" if isinstance(c, str) else "---:" for c in (self.rows[0] if self.rows else self.columns)]
        lines = [f"### {self.title}", "", self.caption, ""]
        lines += ["| " + " | ".join(row) + " |" for row in [escaped[0], align, *escaped[1:]]]
        return "\n".join(lines) + "\n"

    def json(self) -> dict[str, object]:
        """Plain values: {"title", "caption", "rows": [{column: value}]}, numbers unrounded."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"title": self.title, "caption": self.caption, "rows": rows}


def print_tables(tables: Sequence[Table], console: Console | None = None) -> None:
    """Prints tables on stdout, or on the given console. Off a terminal nothing is cut to its width."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, 160))
    for table in tables:
        view = RichTable(title=table.title, title_justify="left", title_style="bold")
        for i, column in enumerate(table.columns):
            numeric = bool(table.rows) and not isinstance(table.rows[0][i], str)
            view.add_column(column, justify="right" if numeric else "left")
        for row in table.text():
            view.add_row(*row)
        console.print(view)
        console.print(table.caption, markup=False, highlight=False)
        console.print()


def _text(cell: Cell, digits: int) -> str:
    if cell is None:
        return "–"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)
