"""First phase of the matching benchmarks: several methods on all pairs, over processes, to OUT/matches/METHOD/PAIR.npz.

Files that fit photos, method and sizes are kept, so that a killed run goes on; a pair that fails is saved as failed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vision3d.core import Progress, silent
from vision3d.data.listed_pairs import ListedPair
from vision3d.errors import UsageError
from vision3d.eval.pair_matches import PhotoSize, save_pair
from vision3d.io.atomic import recover_leftovers
from vision3d.matching.base import Matcher
from vision3d.matching.catalogue import make_matcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A matcher of the catalogue by name, with the options of its constructor."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Matcher:
        """The matcher. UsageError: no matcher has that name."""
        return make_matcher(self.name, **self.options)


def save_predictions(
    pairs: Sequence[ListedPair],
    methods: Sequence[Method],
    out: Path,
    size: PhotoSize | None,
    workers: int = 1,
    progress: Progress = silent,
) -> None:
    """Matches every pair with every method. size None: each matcher's own longer side.

    workers: processes that share the pairs (each with one thread if there are several).

    Raises:
        UsageError: fewer than one worker, an unknown method, one twice. Vision3DError: weights are missing, OUT cannot
            be written.
    """
    check_methods(methods)
    for method in methods:
        matcher, folder = method.make(), out / "matches" / method.name
        for leftovers in {path.parent for path in folder.glob("**/.*.tmp")}:
            recover_leftovers(leftovers)
        photo_size = size or PhotoSize(longer=matcher.max_size)
        one = partial(save_pair, folder=folder, size=photo_size, keep_failures=True)
        share(one, pairs, method, workers, f"matches ({method.name})", progress)


def check_methods(methods: Sequence[Method]) -> None:
    """UsageError for none, or a name that comes twice."""
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--method takes one or more different matchers, got {', '.join(names) or 'none'}")


def share(
    work: Callable[..., Any],
    pairs: Sequence[ListedPair],
    method: Method | None,
    workers: int,
    stage: str,
    progress: Progress,
) -> list[Any]:
    """work(pair, matcher) of every pair, in the order of the pairs, over that many processes.

    method: whose matcher each process makes once; None where the work needs none.
    """
    if workers < 1:
        raise UsageError(f"workers are 1 or more, got {workers}")
    progress(stage, 0, len(pairs))
    results: list[Any] = [None] * len(pairs)
    if workers == 1:
        matcher = None if method is None else method.make()
        for i, pair in enumerate(pairs):
            results[i] = work(pair, matcher)
            progress(stage, i + 1, len(pairs))
        return results
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (method,)) as pool:
        jobs = {pool.submit(_run, work, pair): i for i, pair in enumerate(pairs)}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                results[jobs[job]] = job.result()
                progress(stage, done, len(pairs))
        except BaseException:  # the first error ends the run; what is done is saved
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


_matcher: Matcher | None = None  # of this worker process


def _start(method: Method | None) -> None:
    global _matcher
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    _matcher = None if method is None else method.make()


def _run(work: Callable[..., Any], pair: ListedPair) -> Any:
    return work(pair, _matcher)
