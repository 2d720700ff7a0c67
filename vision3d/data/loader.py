"""The one loader: batches of dataclass samples in an order that the seed alone decides."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader

from vision3d.data.collate import Batch, collate

T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class SampleSource(Protocol[T_co]):
    """Samples by index, such as `PairDataset`; it must be picklable to be used with workers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


def make_loader(
    source: SampleSource[T_co],
    batch_size: int = 1,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    drop_last: bool = False,
    pin_memory: bool = False,
) -> DataLoader[Batch[T_co]]:
    """A DataLoader over the source.

    The order depends on the seed and the epoch (the how-manieth pass over the loader), never on the number of workers.
    Workers are started by forkserver (or spawn), because the threads of Numba and OpenMP do not survive a fork; each
    computes with one thread, is seeded from (seed, worker) and stays for the following epochs. With workers, a script
    needs the usual `if __name__ == "__main__"`.
    """
    return DataLoader(
        source,  # type: ignore[arg-type]  # torch asks for its own Dataset class where it only needs the two methods
        batch_size=batch_size,
        shuffle=shuffle,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=collate,
        drop_last=drop_last,
        pin_memory=pin_memory,
        **worker_options(workers, seed),
    )


def worker_options(workers: int, seed: int) -> dict[str, Any]:
    """How every DataLoader here starts its workers; see `make_loader`."""
    if workers == 0:
        return {"num_workers": 0}
    methods = multiprocessing.get_all_start_methods()
    return {
        "num_workers": workers,
        "multiprocessing_context": "forkserver" if "forkserver" in methods else "spawn",
        "persistent_workers": True,
        "worker_init_fn": partial(_start_worker, seed),
    }


def _start_worker(seed: int, worker: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.manual_seed(seed * 10_007 + worker)
    random.seed(seed * 10_007 + worker)
    np.random.seed((seed * 10_007 + worker) % 2**32)  # noqa: NPY002  # libraries below us may use the global state


def _end_with_parent() -> None:
    """Ends this process when the one that uses it was killed: torch's own watch sees only the forkserver, which lives
    as long as its workers do."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
