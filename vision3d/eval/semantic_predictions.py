"""First phase of evaluating semantic matchers: each pair's keypoints carried over and saved, so that PCK runs no model.

OUT/predictions/METHOD.jsonl: a line per pair in the order of the pairs. While a method runs its lines are appended to
METHOD.partial.jsonl, so a run that was killed goes on where it stopped; lines that no longer fit (other settings,
pictures or keypoints) are made anew. A method that is fitted to collections first is fitted to the pictures of each
category, without their labels, into OUT/fits.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from vision3d.core import Progress, silent
from vision3d.data.photos import load_photo
from vision3d.data.semantic_pairs import SemanticPair
from vision3d.errors import UsageError, Vision3DError
from vision3d.io.atomic import atomic_write_text
from vision3d.matching.semantic.base import CollectionMatcher, DenseFeatures, SemanticMatcher
from vision3d.matching.semantic.catalogue import make_semantic_matcher

FORMAT = 1  # of the lines; another number makes them all anew
CHUNK = 16  # pairs that a process takes at a time
CACHE_MB = 512  # of features per process: those of the pictures used last


@dataclass(frozen=True, slots=True)
class Prediction:
    """found [n 2]: where a pair's keypoints were found, px of image 1. seconds: describing the pictures that had to be
    (pictures), with reading them, and carrying the points over."""

    found: Float64[np.ndarray, "n 2"]
    pictures: int
    describe_s: float
    transfer_s: float


class Describer:
    """Features of pictures by one matcher; those used last are kept, up to `cache_mb`."""

    def __init__(self, matcher: SemanticMatcher, cache_mb: int = CACHE_MB) -> None:
        self.matcher = matcher
        self._room = cache_mb << 20
        self._kept: OrderedDict[Path, DenseFeatures] = OrderedDict()
        self._size = 0
        self.pictures = 0  # described so far

    def __call__(self, file: Path, size: tuple[int, int]) -> DenseFeatures:
        """The features of a picture, which must have `size` (width, height) px.

        Raises:
            Vision3DError: a picture that cannot be read or described, or has another size; the message names it.
        """
        if file in self._kept:
            self._kept.move_to_end(file)
            return self._kept[file]
        image = load_photo(file, self.matcher.max_size, name=str(file))
        if image.original_size != size:
            found, said = ("x".join(map(str, s)) for s in (image.original_size, size))
            raise Vision3DError(f"{file} has {found} px, its annotation says {said}: unpack the data set again")
        try:
            features = self.matcher.describe(image)
        except ValueError as error:
            raise Vision3DError(f"{file}: {error}") from None
        self.pictures += 1
        self._kept[file] = features
        self._size += _bytes(features)
        while self._size > self._room and len(self._kept) > 2:  # a pair's two pictures are needed at once
            self._size -= _bytes(self._kept.popitem(last=False)[1])
        return features


def predict(pair: SemanticPair, describe: Describer) -> Prediction:
    """Carries the pair's keypoints over. Errors as in `Describer`."""
    before, start = describe.pictures, time.perf_counter()
    features = describe(pair.image0, pair.size0), describe(pair.image1, pair.size1)
    middle = time.perf_counter()
    found = describe.matcher.transfer(*features, pair.points0)
    end = time.perf_counter()
    return Prediction(found.double().cpu().numpy(), describe.pictures - before, middle - start, end - middle)


def save_predictions(
    pairs: Sequence[SemanticPair], method: str, out: Path, workers: int = 1, progress: Progress = silent
) -> None:
    """Carries the keypoints of every pair over by the semantic matcher called `method`, into OUT/predictions.

    workers: processes that share the pairs, each with one thread if there are several.

    Raises:
        UsageError: fewer than one worker, or no such method. Vision3DError: a picture cannot be read or described,
            weights are missing, or OUT cannot be written.
    """
    if workers < 1:
        raise UsageError(f"workers are 1 or more, got {workers}")
    matcher = make_semantic_matcher(method)
    settings = matcher.settings
    fits: Path | None = None
    if isinstance(matcher, CollectionMatcher):
        fits = out / "fits"
        settings = {**settings, "collections": matcher.fit(collections(pairs), fits, progress)}
    path, partial = predictions_path(out, method), predictions_path(out, method).with_suffix(".partial.jsonl")
    keys = _keys(pairs, settings)
    done = {**_lines(path, keys), **_lines(partial, keys)}
    left = [pair for pair in pairs if pair.pair_id not in done]
    progress(method, len(pairs) - len(left), len(pairs))
    if left:
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_line(partial)
        with partial.open("a", encoding="utf-8") as log:
            for predicted in _run(left, method, fits, min(workers, -(-len(left) // CHUNK))):
                for pair_id, prediction in predicted:
                    done[pair_id] = _line(pair_id, keys[pair_id], prediction)
                    log.write(done[pair_id] + "\n")
                log.flush()
                progress(method, len(done), len(pairs))
    if left or not path.is_file():
        header = json.dumps({"method": method, "settings": settings, "workers": workers, "pairs": len(pairs)})
        atomic_write_text(path, "\n".join([header, *(done[pair.pair_id] for pair in pairs)]) + "\n")
    partial.unlink(missing_ok=True)
    progress(method, len(pairs), len(pairs))


def read_predictions(pairs: Sequence[SemanticPair], method: str, out: Path) -> dict[str, Prediction]:
    """What `save_predictions` saved, by the pair's id. Vision3DError if something of it is missing or broken."""
    path = predictions_path(out, method)
    found: dict[str, Prediction] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            data = json.loads(line)
            points = np.array(data["found"], np.float64).reshape(-1, 2)
            found[data["pair"]] = Prediction(points, data["pictures"], data["describe_s"], data["transfer_s"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Vision3DError(f"cannot read the predictions {path}: {error}; remove the file and run again") from None
    for pair in pairs:
        if pair.pair_id not in found or len(found[pair.pair_id].found) != len(pair.points0):
            raise Vision3DError(f"{path} lacks the pair {pair.pair_id}: remove the file and run again")
    return {pair.pair_id: found[pair.pair_id] for pair in pairs}


def predictions_path(out: Path, method: str) -> Path:
    """Where a method's predictions are saved; a name that is no file name gets a digest."""
    name = re.sub(r"[^\w.-]+", "_", method)[:80]
    if name != method:
        name += "-" + hashlib.blake2b(method.encode(), digest_size=4).hexdigest()
    return out / "predictions" / f"{name}.jsonl"


def collections(pairs: Sequence[SemanticPair]) -> dict[str, list[Path]]:
    """The pictures of each category, once each, in order."""
    found: dict[str, set[Path]] = {}
    for pair in pairs:
        found.setdefault(pair.category, set()).update((pair.image0, pair.image1))
    return {category: sorted(files) for category, files in found.items()}


def fitted_matcher(method: str, fits: Path | None) -> SemanticMatcher:
    """The matcher called `method`, with its fits in use where it has any. Errors as in both."""
    matcher = make_semantic_matcher(method)
    if fits is not None and isinstance(matcher, CollectionMatcher):
        matcher.use(fits)
    return matcher


def _run(
    left: list[SemanticPair], method: str, fits: Path | None, workers: int
) -> Iterator[list[tuple[str, Prediction]]]:
    """The predictions, some pairs at a time. Neighbours in the list share pictures: each process gets one stretch."""
    chunks = [left[i : i + CHUNK] for i in range(0, len(left), CHUNK)]
    if workers == 1:
        describe = Describer(fitted_matcher(method, fits))
        for chunk in chunks:
            yield [(pair.pair_id, predict(pair, describe)) for pair in chunk]
        return
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context, _one_thread) for _ in range(workers)]
    try:
        jobs: list[Future[list[tuple[str, Prediction]]]] = [
            pools[i * workers // len(chunks)].submit(_predict_chunk, method, fits, [_packed(pair) for pair in chunk])
            for i, chunk in enumerate(chunks)
        ]
        for job in as_completed(jobs):
            yield job.result()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@functools.lru_cache(maxsize=1)
def _describer(method: str, fits: Path | None) -> Describer:
    """A process's own, kept from chunk to chunk."""
    return Describer(fitted_matcher(method, fits))


def _predict_chunk(method: str, fits: Path | None, chunk: list[dict[str, Any]]) -> list[tuple[str, Prediction]]:
    describe = _describer(method, fits)
    return [(pair.pair_id, predict(pair, describe)) for pair in map(_unpacked, chunk)]


def _packed(pair: SemanticPair) -> dict[str, Any]:
    """The pair without tensors: torch would hold a file open for each that goes to another process."""
    values = {field.name: getattr(pair, field.name) for field in fields(pair)}
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in values.items()}


def _unpacked(values: dict[str, Any]) -> SemanticPair:
    tensors: dict[str, Any] = {n: torch.from_numpy(v) for n, v in values.items() if isinstance(v, np.ndarray)}
    return SemanticPair(**{**values, **tensors})


def _bytes(features: DenseFeatures) -> int:
    grids = [grid for grid in (features.grid, features.mirrored) if grid is not None]
    return sum(grid.numel() * grid.element_size() for grid in grids)


def _keys(pairs: Sequence[SemanticPair], settings: dict[str, object]) -> dict[str, str]:
    """By the pair's id: a digest of all that its line depends on."""

    @functools.cache
    def content(file: Path) -> bytes:
        try:
            return hashlib.blake2b(file.read_bytes(), digest_size=16).digest()
        except OSError as error:
            raise Vision3DError(f"cannot read the picture {file}: {error.strerror or error}") from None

    common = json.dumps([FORMAT, settings], sort_keys=True).encode()
    keys = {}
    for pair in pairs:
        points = pair.points0.double().numpy().tobytes()
        sizes = json.dumps([pair.size0, pair.size1]).encode()
        parts = common, content(pair.image0), content(pair.image1), sizes, points
        keys[pair.pair_id] = hashlib.blake2b(b"|".join(parts), digest_size=12).hexdigest()
    return keys


def _line(pair_id: str, key: str, prediction: Prediction) -> str:
    values = {**asdict(prediction), "found": prediction.found.round(4).tolist()}
    plain = {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}
    return json.dumps({"pair": pair_id, "key": key, **plain}, allow_nan=False)


def _lines(path: Path, keys: dict[str, str]) -> dict[str, str]:
    """The lines of a file that still fit, by the pair's id; a line that was cut off does not."""
    out: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return out
    for line in lines:
        try:
            data: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(data, dict) and data.get("key") is not None and keys.get(data.get("pair", "")) == data["key"]:
            out[data["pair"]] = line
    return out


def _end_line(path: Path) -> None:
    """Cuts off a line that was being written when a run was killed."""
    if path.is_file():
        data = path.read_bytes()
        with path.open("r+b") as stream:
            stream.truncate(data.rfind(b"\n") + 1)
