"""First phase of evaluating matchers: match every pair and save what came out, so that metrics never run a model."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from vision3d.core import Correspondences, Progress, silent
from vision3d.data.decoding import load_photo_at, resized_size
from vision3d.errors import MissingWeightsError, UsageError, Vision3DError
from vision3d.io.atomic import atomic_file
from vision3d.matching.base import Matcher


@runtime_checkable
class PhotoPair(Protocol):
    """What matching needs of a pair: a unique, path-like name and two files, None where a list names none."""

    @property
    def name(self) -> str: ...
    @property
    def path0(self) -> Path | None: ...
    @property
    def path1(self) -> Path | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSize:
    """px that photos are matched at: `exact` (width, height), or a longer or shorter side that is never exceeded (small
    photos are not enlarged), then rounded down to a multiple, which may change the aspect a little; all None: as is."""

    longer: int | None = None
    shorter: int | None = None
    exact: tuple[int, int] | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        given = [value for value in (self.longer, self.shorter, self.exact) if value is not None]
        if len(given) > 1:
            raise UsageError("give one of the longer side, the shorter side and the exact size of photos")
        if min([32, *(s for s in (self.longer, self.shorter) if s), *(self.exact or ())]) < 32 or self.multiple < 1:
            raise UsageError(f"photos are matched at 32 px or more, rounded to a multiple of at least 1: {self}")

    def of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that a photo of `size` is loaded at."""
        if self.exact is not None:
            return self.exact
        longer = self.longer
        if self.shorter is not None:
            longer = max(1, round(self.shorter * max(size) / min(size)))
        width, height = resized_size(size, longer)
        return _down(width, self.multiple), _down(height, self.multiple)

    def json(self) -> dict[str, object]:
        """Plain values of what is set."""
        rest = {"shorter": self.shorter, "exact": self.exact and list(self.exact)}
        plain: dict[str, object] = {"max_size": self.longer, **{k: v for k, v in rest.items() if v is not None}}
        return plain if self.multiple == 1 else {**plain, "multiple": self.multiple}

    def text(self) -> str:
        """In words."""
        if self.exact is not None:
            return f"photos resized to {self.exact[0]}x{self.exact[1]} px"
        side = f"photos with a longer side of at most {self.longer} px" if self.longer else "photos at their full size"
        if self.shorter is not None:
            side = f"photos with a shorter side of at most {self.shorter} px"
        return side + (f", sides rounded down to multiples of {self.multiple}" if self.multiple > 1 else "")


@dataclass(frozen=True, slots=True)
class SavedMatches:
    """Matches of a pair (float64), sizes of the original photos (width, height), seconds that matching took; error: why
    there are none, where the pair failed."""

    matches: Correspondences
    size0: tuple[int, int]
    size1: tuple[int, int]
    seconds: float
    error: str = ""


def save_matches(
    pairs: Sequence[PhotoPair],
    matcher: Matcher,
    folder: Path,
    max_size: int | None = None,
    progress: Progress = silent,
) -> None:
    """Matches every pair into folder/NAME.npz; files that fit the photos and the matcher's settings are kept.

    max_size: longer side in px at which photos are loaded; default: the matcher's own. Vision3DError: a photo
    cannot be read, weights are missing.
    """
    size = PhotoSize(longer=matcher.max_size if max_size is None else max_size)
    for done, pair in enumerate(pairs):
        progress(matcher.name, done, len(pairs))
        save_pair(pair, matcher, folder, size)
    progress(matcher.name, len(pairs), len(pairs))


def save_pair(pair: PhotoPair, matcher: Matcher, folder: Path, size: PhotoSize, keep_failures: bool = False) -> None:
    """Matches one pair into folder/NAME.npz unless a file that fits is there.

    keep_failures: a pair that cannot be matched (no photo, an unreadable one, a matcher that breaks on it) is saved as
    such, and tried again by the next call.
    """
    path = matches_path(folder, pair)
    try:
        key = _key(pair, matcher, size)
        if _saved_key(path) == key:
            return
        _write(path, _matched(pair, matcher, size), key)
    except (MissingWeightsError, UsageError):
        raise
    except (Vision3DError, ValueError, RuntimeError) as error:
        if not keep_failures:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        _write(path, SavedMatches(Correspondences.empty(), (0, 0), (0, 0), 0.0, reason[:300]), "")


def load_matches(folder: Path, pair: PhotoPair) -> SavedMatches:
    """The saved matches of a pair."""
    with np.load(matches_path(folder, pair), allow_pickle=False) as data:
        points0, points1, scores = (
            torch.from_numpy(data[k].astype(np.float64)) for k in ("points0", "points1", "scores")
        )
        (width0, height0), (width1, height1) = data["size0"].tolist(), data["size1"].tolist()
        matches, error = Correspondences(points0, points1, scores), str(data["error"]) if "error" in data else ""
        return SavedMatches(matches, (width0, height0), (width1, height1), float(data["seconds"]), error)


def matches_path(folder: Path, pair: PhotoPair) -> Path:
    """Where the matches of a pair are saved."""
    return folder / f"{pair.name}.npz"


def file_digest(path: Path) -> str:
    """sha256 of a file's content, remembered as long as its time and size stay. Vision3DError: it cannot be read."""
    try:
        state = path.stat()
        return _digest(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None


@lru_cache(maxsize=4096)
def _digest(path: Path, _time: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _matched(pair: PhotoPair, matcher: Matcher, size: PhotoSize) -> SavedMatches:
    image0, image1 = (load_photo_at(path, size.of) for path in _photos(pair))
    start = time.perf_counter()
    matches = matcher.match(image0, image1)
    seconds = time.perf_counter() - start
    if not all(bool(torch.isfinite(t).all()) for t in (matches.points0, matches.points1, matches.scores)):
        raise ValueError(f"{matcher.name} gave points or scores that are not finite")
    return SavedMatches(matches, image0.original_size, image1.original_size, seconds)


def _write(path: Path, saved: SavedMatches, key: str) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(
            stream,
            points0=saved.matches.points0.cpu().double().numpy(),
            points1=saved.matches.points1.cpu().double().numpy(),
            scores=saved.matches.scores.cpu().double().numpy(),
            size0=np.array(saved.size0),
            size1=np.array(saved.size1),
            seconds=np.array(saved.seconds),
            error=np.array(saved.error),
            key=np.array(key),
        )


def _photos(pair: PhotoPair) -> tuple[Path, Path]:
    if pair.path0 is None or pair.path1 is None:
        raise Vision3DError(f"the list names no photo for a side of {pair.name}")
    return pair.path0, pair.path1


def _key(pair: PhotoPair, matcher: Matcher, size: PhotoSize) -> str:
    photos = [file_digest(path) for path in _photos(pair)]
    content = {"photos": photos, "matcher": matcher.name, "settings": matcher.settings, **size.json()}
    return json.dumps(content, sort_keys=True)


def _saved_key(path: Path) -> str | None:
    try:
        with np.load(path, allow_pickle=False) as data:
            return str(data["key"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _down(side: int, multiple: int) -> int:
    return max(side // multiple * multiple, min(side, multiple))
