"""When a run ends before its last step: a signal or the time limit; the step that is under way is finished first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

Ended = Literal["done", "max-time", "interrupted"]


class Stop:
    """Asked after every step. A second signal stops at once."""

    def __init__(self, max_time: float | None) -> None:
        self._started = time.monotonic()
        self._limit = None if max_time is None else 60 * max_time
        self._signalled = False

    def reason(self) -> Ended | None:
        """Why to stop now, or None."""
        if self._signalled:
            return "interrupted"
        if self._limit is not None and time.monotonic() - self._started >= self._limit:
            return "max-time"
        return None

    def _signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            raise KeyboardInterrupt
        self._signalled = True


@contextmanager
def watch_for_stop(max_time: float | None) -> Iterator[Stop]:
    """SIGINT and SIGTERM ask for a stop within the block (on the main thread). max_time in minutes."""
    stop = Stop(max_time)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop._signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
