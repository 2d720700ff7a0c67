"""Features and matches on disk (HDF5), so that a killed run resumes and no photo is described twice.

A store is a folder of immutable HDF5 segments. Entries collect in memory until a segment is full or `flush` is called;
a segment is written under a temporary name and renamed, so a kill loses at most the entries not yet written. Data carry
checksums: a segment that is damaged is dropped with a warning and its entries count as absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import h5py
import numpy as np
import torch

from vision3d.core import Correspondences
from vision3d.errors import Vision3DError
from vision3d.io.atomic import atomic_write_bytes, recover_leftovers
from vision3d.matching.base import Features, Matches

log = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]
Store = TypeVar("Store", bound="SegmentStore")


def settings_key(settings: Mapping[str, object]) -> str:
    """A short name for settings (plain JSON values), equal exactly where they are equal."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class SegmentStore:
    """Named groups of arrays in a folder of HDF5 segments; see the module. Safe for threads, not for two processes.

    segment_bytes: entries waiting in memory before a segment is written; cache_bytes: entries kept after reading.
    """

    def __init__(self, path: Path, *, segment_bytes: int = 8 << 20, cache_bytes: int = 64 << 20) -> None:
        self.path = path
        self.segment_bytes = segment_bytes
        self.cache_bytes = cache_bytes
        self._lock = threading.RLock()
        self._waiting: dict[str, Arrays] = {}
        self._waiting_bytes = 0
        self._cache: OrderedDict[str, Arrays] = OrderedDict()
        self._cached_bytes = 0
        self._segment_of: dict[str, Path] = {}
        self._next = 0
        try:
            path.mkdir(parents=True, exist_ok=True)
            recover_leftovers(path)
            segments = sorted(path.glob("segment-*.h5"))
        except OSError as error:
            raise Vision3DError(f"{path}: cannot use this folder for features ({error.strerror})") from error
        for segment in segments:
            self._index(segment)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._waiting or key in self._segment_of

    def entries(self) -> list[str]:
        """All entries, written or waiting."""
        with self._lock:
            return sorted({*self._segment_of, *self._waiting})

    def read(self, key: str) -> Arrays | None:
        """The arrays of an entry; None if it is absent or its segment turns out to be damaged."""
        with self._lock:
            if key in self._waiting:
                return self._waiting[key]
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            segment = self._segment_of.get(key)
            if segment is None:
                return None
            try:
                with h5py.File(segment, "r") as file:
                    arrays = {name: np.asarray(dataset[()]) for name, dataset in file[key].items()}
            except (OSError, KeyError, RuntimeError) as error:
                self._drop(segment, error)
                return None
            self._remember(key, arrays)
            return arrays

    def write(self, key: str, arrays: Arrays) -> None:
        """Adds or replaces an entry; it is on disk after `flush`, or earlier when a segment is full."""
        with self._lock:
            if key in self._waiting:
                self._waiting_bytes -= _size(self._waiting[key])
            self._forget(key)
            self._waiting[key] = dict(arrays)
            self._waiting_bytes += _size(arrays)
            if self._waiting_bytes >= self.segment_bytes:
                self.flush()

    def flush(self) -> None:
        """Writes what waits in memory. Vision3DError if the disk is full or the folder cannot be written."""
        with self._lock:
            if not self._waiting:
                return
            segment = self.path / f"segment-{self._next:06d}.h5"
            # Built in memory: HDF5 itself crashes when a disk is full.
            with h5py.File(segment, "w", libver="latest", driver="core", backing_store=False) as file:
                for key, arrays in self._waiting.items():
                    group = file.create_group(key)
                    for name, array in arrays.items():
                        # checksums need chunks, and chunks need data
                        group.create_dataset(name, data=array, fletcher32=True if array.size else None)
                file.flush()
                image = file.id.get_file_image()
            atomic_write_bytes(segment, image)
            self._next += 1
            for key, arrays in self._waiting.items():
                self._segment_of[key] = segment
                self._remember(key, arrays)
            self._waiting = {}
            self._waiting_bytes = 0

    def close(self) -> None:
        """Writes what waits and frees memory."""
        with self._lock:
            self.flush()
            self._cache.clear()
            self._cached_bytes = 0

    def __enter__(self: Store) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _index(self, segment: Path) -> None:
        self._next = max(self._next, int(segment.stem.rpartition("-")[2]) + 1)
        try:
            with h5py.File(segment, "r") as file:
                keys = list(file)
        except (OSError, RuntimeError) as error:
            self._drop(segment, error)
            return
        self._segment_of.update(dict.fromkeys(keys, segment))  # later segments replace earlier entries

    def _drop(self, segment: Path, error: BaseException) -> None:
        log.warning("%s is damaged (%s): its entries are computed again", segment, str(error).splitlines()[0])
        self._segment_of = {k: s for k, s in self._segment_of.items() if s != segment}
        try:
            segment.unlink(missing_ok=True)
        except OSError as problem:
            raise Vision3DError(f"{segment}: damaged, and cannot be removed ({problem.strerror})") from problem

    def _remember(self, key: str, arrays: Arrays) -> None:
        self._forget(key)
        self._cache[key] = arrays
        self._cached_bytes += _size(arrays)
        while self._cached_bytes > self.cache_bytes and self._cache:
            self._cached_bytes -= _size(self._cache.popitem(last=False)[1])

    def _forget(self, key: str) -> None:
        if key in self._cache:
            self._cached_bytes -= _size(self._cache.pop(key))


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values()) + 256


class FeatureStore(SegmentStore):
    """Features by photo (sha256 of its file) and turn (see turns.py), for one matcher's settings.

    Descriptors are kept as float16, which is exact for the matchers of this package: they round theirs to it.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], *, cache_bytes: int = 64 << 20) -> None:
        super().__init__(path / f"features-{settings_key(settings)}", cache_bytes=cache_bytes)

    def get(self, photo: str, turn: int = 0) -> Features | None:
        """The features of a photo, or None."""
        arrays = self.read(f"{photo}-{turn}")
        if arrays is None:
            return None
        width, height = arrays["image_size"].tolist()
        return Features(
            keypoints=torch.tensor(arrays["keypoints"]),
            descriptors=torch.tensor(arrays["descriptors"]).float(),
            scores=torch.tensor(arrays["scores"]),
            scales=torch.tensor(arrays["scales"]),
            angles=torch.tensor(arrays["angles"]),
            image_size=(width, height),
        )

    def put(self, photo: str, features: Features, turn: int = 0) -> None:
        """Keeps the features of a photo."""
        arrays = {
            "keypoints": features.keypoints.float().numpy(),
            "descriptors": features.descriptors.half().numpy(),
            "scores": features.scores.float().numpy(),
            "scales": features.scales.float().numpy(),
            "angles": features.angles.float().numpy(),
            "image_size": np.array(features.image_size, np.int64),
        }
        self.write(f"{photo}-{turn}", arrays)


class MatchStore(SegmentStore):
    """Matches (indices into the stored features), or correspondences for matchers without features, by pair."""

    def __init__(self, path: Path, settings: Mapping[str, object], *, cache_bytes: int = 16 << 20) -> None:
        super().__init__(path / f"matches-{settings_key(settings)}", segment_bytes=1 << 20, cache_bytes=cache_bytes)

    def get(self, photo0: str, photo1: str, turn0: int = 0, turn1: int = 0) -> Matches | None:
        """The matches of a pair, stored in this or the other order, or None."""
        arrays = self.read(_pair(photo0, photo1, turn0, turn1))
        if arrays is not None and "indices" in arrays:
            return Matches(torch.tensor(arrays["indices"]).long(), torch.tensor(arrays["scores"]))
        arrays = self.read(_pair(photo1, photo0, turn1, turn0))
        if arrays is not None and "indices" in arrays:
            return Matches(torch.tensor(arrays["indices"][:, ::-1].copy()).long(), torch.tensor(arrays["scores"]))
        return None

    def put(self, photo0: str, photo1: str, matches: Matches, turn0: int = 0, turn1: int = 0) -> None:
        """Keeps the matches of a pair."""
        arrays = {"indices": matches.indices.to(torch.int32).numpy(), "scores": matches.scores.float().numpy()}
        self.write(_pair(photo0, photo1, turn0, turn1), arrays)

    def get_correspondences(self, photo0: str, photo1: str, turn0: int = 0, turn1: int = 0) -> Correspondences | None:
        """The correspondences of a pair as they were put (this order only), or None."""
        arrays = self.read(_pair(photo0, photo1, turn0, turn1))
        if arrays is None or "points0" not in arrays:
            return None
        return Correspondences(*(torch.tensor(arrays[name]) for name in ("points0", "points1", "scores")))

    def put_correspondences(
        self, photo0: str, photo1: str, correspondences: Correspondences, turn0: int = 0, turn1: int = 0
    ) -> None:
        """Keeps the correspondences of a pair (px of the originals, float32)."""
        arrays = {
            "points0": correspondences.points0.float().numpy(),
            "points1": correspondences.points1.float().numpy(),
            "scores": correspondences.scores.float().numpy(),
        }
        self.write(_pair(photo0, photo1, turn0, turn1), arrays)


def _pair(photo0: str, photo1: str, turn0: int, turn1: int) -> str:
    return f"{photo0}-{turn0}+{photo1}-{turn1}"
