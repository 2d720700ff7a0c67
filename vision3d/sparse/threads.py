"""Numba's threads follow torch's."""

from __future__ import annotations

import numba
import torch


def use_torch_threads() -> int:
    """Lets Numba use as many threads as torch does, and returns how many."""
    threads: int = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(threads)
    return threads
