"""First phase of the matching benchmarks: several methods on all pairs, over processes, to OUT/matches/METHOD/PAIR.npz.

Files that fit photos, method and sizes are kept, so that a killed run goes on; a pair that fails is saved as failed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from vision3d.core import Progress, silent
from vision3d.data.listed_pairs import ListedPair, PlainPair
from vision3d.errors import UsageError, Vision3DError
from vision3d.eval.pair_matches import PhotoSize, save_pair
from vision3d.io.atomic import recover_leftovers
from vision3d.matching.base import Matcher
from vision3d.matching.catalogue import MATCHER_WEIGHTS, make_matcher
from vision3d.weights import resolve_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A matcher of the catalogue by name, with the options of its constructor."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Matcher:
        """The matcher. UsageError: no matcher has that name."""
        return make_matcher(self.name, **self.options)

    def find_weights(self) -> None:
        """Fetches published weights that are not here yet. MissingWeightsError: they cannot be had."""
        if self.options.get("weights") is None:
            for key in MATCHER_WEIGHTS.get(self.name, ()):
                resolve_weights(key)


class Workers:
    """Processes that share the pairs (one: this one). A context; each makes a method's matcher once.

    Several have one thread each. UsageError for fewer than one.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise UsageError(f"workers are 1 or more, got {count}")
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            self._pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _one_thread)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._pool is not None:  # the first error ends the run: what is done is saved
            self._pool.shutdown(wait=error is None, cancel_futures=True)
        _made.clear()

    def map(
        self,
        work: Callable[..., Any],
        pairs: Sequence[ListedPair],
        method: Method | None,
        stage: str,
        progress: Progress,
    ) -> list[Any]:
        """work(pair, matcher) of every pair, in the order of the pairs; method None: work(pair, None)."""
        progress(stage, 0, len(pairs))
        results: list[Any] = [None] * len(pairs)
        if self._pool is None:
            for i, pair in enumerate(pairs):
                results[i] = _run(work, pair, method)
                progress(stage, i + 1, len(pairs))
            return results
        jobs = {self._pool.submit(_run_plain, work, pair.plain(), method): i for i, pair in enumerate(pairs)}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                results[jobs[job]] = job.result()
                progress(stage, done, len(pairs))
        except BrokenProcessPool:
            raise Vision3DError(
                "a process that matched pairs died, most likely out of memory: run it again with fewer workers"
            ) from None
        return results


def save_predictions(
    pairs: Sequence[ListedPair],
    methods: Sequence[Method],
    out: Path,
    size: PhotoSize | None,
    workers: Workers,
    progress: Progress = silent,
) -> None:
    """Matches every pair with every method. size None: each matcher's own longer side.

    Raises:
        UsageError: no method, an unknown one, one twice. Vision3DError: weights are missing, OUT cannot be written.
    """
    check_methods(methods)
    for method in methods:
        folder = out / "matches" / method.name
        for leftovers in {path.parent for path in folder.glob("**/.*.tmp")}:
            recover_leftovers(leftovers)
        photo_size = size or PhotoSize(longer=method.make().max_size)
        one = partial(save_pair, folder=folder, size=photo_size, keep_failures=True)
        workers.map(one, pairs, method, f"matches ({method.name})", progress)


def check_methods(methods: Sequence[Method]) -> None:
    """UsageError for none, or a name that comes twice."""
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--method takes one or more different matchers, got {', '.join(names) or 'none'}")


_made: dict[str, Matcher] = {}  # matchers of this process, by method; networks are large, so the last one alone


def _run(work: Callable[..., Any], pair: ListedPair, method: Method | None) -> Any:
    if method is None:
        return work(pair, None)
    if method.name not in _made:
        _made.clear()
        _made[method.name] = method.make()
    return work(pair, _made[method.name])


def _run_plain(work: Callable[..., Any], pair: PlainPair, method: Method | None) -> Any:
    return _run(work, pair.pair(), method)


def _one_thread() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
