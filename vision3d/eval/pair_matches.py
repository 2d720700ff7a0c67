"""First phase of `evaluate pairs`: match every pair and save what came out, so that metrics never run a model."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vision3d.core import Correspondences, Progress, silent
from vision3d.data.photos import load_photo
from vision3d.eval.pair_sets import BenchmarkPair
from vision3d.io.atomic import atomic_file
from vision3d.matching.base import Matcher


@dataclass(frozen=True, slots=True)
class SavedMatches:
    """Matches of a pair (float64), sizes of the original photos (width, height), seconds that matching took."""

    matches: Correspondences
    size0: tuple[int, int]
    size1: tuple[int, int]
    seconds: float


def save_matches(
    pairs: Sequence[BenchmarkPair],
    matcher: Matcher,
    folder: Path,
    max_size: int | None = None,
    progress: Progress = silent,
) -> None:
    """Matches every pair into folder/NAME.npz; files that fit the photos and the matcher's settings are kept.

    max_size: longer side in px at which photos are loaded; default: the matcher's own.
    """
    size = matcher.max_size if max_size is None else max_size
    for done, pair in enumerate(pairs):
        progress(matcher.name, done, len(pairs))
        path = matches_path(folder, pair)
        key = _key(pair, matcher, size)
        if _saved_key(path) == key:
            continue
        image0, image1 = load_photo(pair.path0, size), load_photo(pair.path1, size)
        start = time.perf_counter()
        matches = matcher.match(image0, image1)
        seconds = time.perf_counter() - start
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                points0=matches.points0.cpu().double().numpy(),
                points1=matches.points1.cpu().double().numpy(),
                scores=matches.scores.cpu().double().numpy(),
                size0=np.array(image0.original_size),
                size1=np.array(image1.original_size),
                seconds=np.array(seconds),
                key=np.array(key),
            )
    progress(matcher.name, len(pairs), len(pairs))


def load_matches(folder: Path, pair: BenchmarkPair) -> SavedMatches:
    """The saved matches of a pair."""
    with np.load(matches_path(folder, pair), allow_pickle=False) as data:
        points0, points1, scores = (
            torch.from_numpy(data[k].astype(np.float64)) for k in ("points0", "points1", "scores")
        )
        (width0, height0), (width1, height1) = data["size0"].tolist(), data["size1"].tolist()
        matches = Correspondences(points0, points1, scores)
        return SavedMatches(matches, (width0, height0), (width1, height1), float(data["seconds"]))


def matches_path(folder: Path, pair: BenchmarkPair) -> Path:
    """Where the matches of a pair are saved."""
    return folder / f"{pair.name}.npz"


def _key(pair: BenchmarkPair, matcher: Matcher, max_size: int) -> str:
    photos = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (pair.path0, pair.path1)]
    content = {"photos": photos, "matcher": matcher.name, "settings": matcher.settings, "max_size": max_size}
    return json.dumps(content, sort_keys=True)


def _saved_key(path: Path) -> str | None:
    try:
        with np.load(path, allow_pickle=False) as data:
            return str(data["key"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
