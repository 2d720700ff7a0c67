"""The feature and match store: round trips, bounded memory, kills and damage."""

import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from vision3d.core import Correspondences
from vision3d.matching.base import Features, Matches
from vision3d.matching.nearest import quantise
from vision3d.matching.store import FeatureStore, MatchStore, SegmentStore, settings_key

SETTINGS: dict[str, object] = {"name": "test", "max_size": 640}


def _features(n: int = 50, dim: int = 128) -> Features:
    return Features(
        keypoints=torch.rand(n, 2) * 600,
        descriptors=quantise(torch.rand(n, dim) * 0.2),
        scores=torch.rand(n),
        scales=torch.rand(n) * 9,
        angles=torch.rand(n) * 6,
        image_size=(640, 480),
    )


def _same(a: Features | None, b: Features) -> bool:
    return (
        a is not None
        and a.image_size == b.image_size
        and all(
            torch.equal(getattr(a, k), getattr(b, k))
            for k in ("keypoints", "descriptors", "scores", "scales", "angles")
        )
    )


def test_features_round_trip_exactly_before_and_after_reopening(tmp_path: Path) -> None:
    first, empty = _features(), _features(0)
    with FeatureStore(tmp_path, SETTINGS) as store:
        assert store.get("a") is None
        store.put("a", first)
        store.put("a", empty, turn=1)
        assert _same(store.get("a"), first)
    reopened = FeatureStore(tmp_path, SETTINGS)
    assert _same(reopened.get("a"), first)
    assert _same(reopened.get("a", turn=1), empty)
    assert reopened.get("a", turn=2) is None
    assert FeatureStore(tmp_path, {**SETTINGS, "max_size": 800}).get("a") is None


def test_later_entry_replaces_earlier(tmp_path: Path) -> None:
    old, new = _features(), _features()
    for features in (old, new):
        with FeatureStore(tmp_path, SETTINGS) as store:
            store.put("a", features)
    assert _same(FeatureStore(tmp_path, SETTINGS).get("a"), new)


def test_matches_are_found_in_either_order(tmp_path: Path) -> None:
    matches = Matches(torch.tensor([[0, 5], [3, 2]]), torch.tensor([0.5, 1.0]))
    with MatchStore(tmp_path, SETTINGS) as store:
        store.put("a", "b", matches, turn1=3)
        store.put("a", "c", Matches.empty())
    store = MatchStore(tmp_path, SETTINGS)
    found = store.get("a", "b", turn1=3)
    swapped = store.get("b", "a", turn0=3)
    assert found is not None and torch.equal(found.indices, matches.indices)
    assert swapped is not None and swapped.indices.tolist() == [[5, 0], [2, 3]]
    assert store.get("a", "b") is None
    empty = store.get("a", "c")
    assert empty is not None and empty.indices.shape == (0, 2)
    assert store.get_correspondences("a", "b", turn1=3) is None


def test_correspondences_round_trip(tmp_path: Path) -> None:
    pairs = Correspondences(torch.rand(7, 2) * 500, torch.rand(7, 2) * 500, torch.rand(7))
    with MatchStore(tmp_path, SETTINGS) as store:
        store.put_correspondences("a", "b", pairs)
    found = MatchStore(tmp_path, SETTINGS).get_correspondences("a", "b")
    assert found is not None and torch.equal(found.points1, pairs.points1)


def test_memory_is_bounded_whatever_the_number_of_photos(tmp_path: Path) -> None:
    store = SegmentStore(tmp_path, segment_bytes=10_000, cache_bytes=20_000)
    for i in range(100):
        store.write(f"k{i}", {"x": np.full(1000, i, np.int32)})
        assert store._waiting_bytes < 10_000 and store._cached_bytes <= 20_000
    for i in range(100):
        arrays = store.read(f"k{i}")
        assert arrays is not None and arrays["x"][0] == i
        assert store._cached_bytes <= 20_000


@pytest.mark.parametrize("damage", ["truncate", "flip", "text", "empty"])
def test_damaged_segment_is_dropped_and_rebuilt(tmp_path: Path, damage: str) -> None:
    for key in ("a", "b"):
        with FeatureStore(tmp_path, SETTINGS) as store:
            store.put(key, _features(500))
    segments = sorted(store.path.glob("*.h5"))
    assert len(segments) == 2
    data = bytearray(segments[0].read_bytes())
    if damage == "flip":
        with h5py.File(segments[0], "r") as file:
            at = file["a-0/keypoints"].id.get_chunk_info(0).byte_offset
        data[at + 100] ^= 0xFF
    segments[0].write_bytes(
        {"truncate": bytes(data[: len(data) // 2]), "flip": bytes(data), "text": b"hello", "empty": b""}[damage]
    )
    again = FeatureStore(tmp_path, SETTINGS)
    assert again.get("a") is None
    assert again.get("b") is not None
    features = _features()
    again.put("a", features)
    again.close()
    assert _same(FeatureStore(tmp_path, SETTINGS).get("a"), features)


WRITER = """
import sys, torch, numpy as np
from pathlib import Path
from vision3d.matching.store import SegmentStore
store = SegmentStore(Path(sys.argv[1]), segment_bytes=50_000)
for i in range(100_000):
    store.write(f"k{i:06d}", {"x": np.full(4000, i, np.int32)})
    if i == 20: print("going", flush=True)
"""


def test_killed_writer_leaves_only_whole_segments(tmp_path: Path) -> None:
    for wait in (0.0, 0.013, 0.029):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "going\n"
        time.sleep(wait)
        process.kill()
        process.wait()
        process.stdout.close()
        store = SegmentStore(tmp_path)
        assert not list(tmp_path.glob("*.part"))
        assert len(store.entries()) >= 12
        for key in store.entries():
            arrays = store.read(key)
            assert arrays is not None and (arrays["x"] == int(key[1:])).all()


def test_settings_key_depends_on_values_not_on_order() -> None:
    assert settings_key({"a": 1, "b": 2}) == settings_key({"b": 2, "a": 1})
    assert settings_key({"a": 1}) != settings_key({"a": 2})
