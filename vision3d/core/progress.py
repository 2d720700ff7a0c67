"""How long work says how far it is: a function of (stage, done, total)."""

from __future__ import annotations

from collections.abc import Callable

# (name of the stage, steps done, steps in all); called with done = 0 at the start and done = total at the end.
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Reports nothing: the default for the library."""
