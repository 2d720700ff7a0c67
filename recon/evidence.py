"""What the photos say of each other: features, matches and verified pairs of one matcher, cached as they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vision3d.core import CameraPrior, Correspondences, Image, Progress
from vision3d.data.photos import PhotoInfo, load_mask, load_photo
from vision3d.matching.base import FeatureMatcher, Matcher, Matches
from vision3d.matching.store import FeatureStore, MatchStore
from vision3d.matching.turns import extract_turned, match_turned, turn_image, unturn_points
from vision3d.recon.run_folder import RunFolder
from vision3d.recon.tracks import Pair
from vision3d.recon.upright import turn_votes
from vision3d.recon.verification import VerificationConfig, verify_pair
from vision3d.recon.verified_file import read_verified, write_verified
from vision3d.recon.view_graph import PairConfig, VerifiedPair, select_pairs

BATCH = 8  # photos decoded and searched together: bounds memory
CALIBRATED = ("given", "exif")  # sources of intrinsics that two-view verification may rely on


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one matcher found: pairs (rejected ones too), number of features per photo, votes for quarter turns."""

    pairs: Mapping[Pair, VerifiedPair]
    keypoints: Mapping[str, int]
    votes: Mapping[Pair, Float[Tensor, " 4"]]


@dataclass(frozen=True, slots=True)
class Gatherer:
    """Gathers the evidence of one matcher after another on one set of photos."""

    photos: Sequence[PhotoInfo]
    priors: Mapping[str, CameraPrior]
    folder: RunFolder
    progress: Progress
    verification: VerificationConfig
    pair_config: PairConfig = field(default_factory=PairConfig)

    def gather(
        self, matcher: Matcher, pairs: Sequence[Pair] | None = None, turns: Mapping[str, int] | None = None
    ) -> Evidence:
        """Matches `pairs` (None: all worth matching, chosen by appearance for large sets) and verifies them.

        turns: quarter turns of the photos' content, see recon/upright.py; they are undone before matching.
        """
        turns = turns or {}
        features = FeatureStore(self.folder.stages / "features", matcher.settings)
        matches = MatchStore(self.folder.stages / "matches", matcher.settings)
        with features, matches:
            keypoints: dict[str, int] = {}
            if isinstance(matcher, FeatureMatcher):
                keypoints = self._extract(matcher, features, turns)
            chosen = list(pairs) if pairs is not None else self._choose(matcher, features, turns)
            self._match(matcher, features, matches, chosen, turns)
            verified = self._verify(matcher, features, matches, chosen, turns)
            votes: dict[Pair, Tensor] = {}
            if isinstance(matcher, FeatureMatcher):
                votes = dict(self._votes(features, matches, verified))
        return Evidence(verified, keypoints, votes)

    def _extract(self, matcher: FeatureMatcher, store: FeatureStore, turns: Mapping[str, int]) -> dict[str, int]:
        stage = f"features ({matcher.name})"
        missing = [p for p in self.photos if store.get(p.sha256, turns.get(p.name, 0)) is None]
        done = len(self.photos) - len(missing)
        self.progress(stage, done, len(self.photos))
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            images = load_photos(batch, matcher.max_size)
            turned = [turns.get(p.name, 0) for p in batch]
            for photo, k, found in zip(batch, turned, extract_turned(matcher, images, turned), strict=True):
                store.put(photo.sha256, found, k)
            done += len(batch)
            self.progress(stage, done, len(self.photos))
        store.flush()
        counts = {}
        for p in self.photos:
            known = store.get(p.sha256, turns.get(p.name, 0))
            counts[p.name] = 0 if known is None else len(known)
        return counts

    def _choose(self, matcher: Matcher, store: FeatureStore, turns: Mapping[str, int]) -> list[Pair]:
        names = [p.name for p in self.photos]
        if len(names) <= self.pair_config.exhaustive_up_to:
            return select_pairs(names, None, self.pair_config)
        if not isinstance(matcher, FeatureMatcher):  # its own features do not exist: SIFT's tell what looks alike
            from vision3d.matching.catalogue import make_matcher

            sift = make_matcher("sift", max_size=matcher.max_size)
            with FeatureStore(self.folder.stages / "features", sift.settings) as other:
                assert isinstance(sift, FeatureMatcher)
                self._extract(sift, other, {})
                return self._choose(sift, other, {})
        strongest = self.pair_config.retrieval.features_per_photo
        descriptors = []
        for p in self.photos:
            found = store.get(p.sha256, turns.get(p.name, 0))
            descriptors.append(torch.zeros(0, 128) if found is None else found.descriptors[:strongest].clone())
        return select_pairs(names, descriptors, self.pair_config)

    def _match(
        self,
        matcher: Matcher,
        features: FeatureStore,
        store: MatchStore,
        pairs: Sequence[Pair],
        turns: Mapping[str, int],
    ) -> None:
        stage = f"matches ({matcher.name})"
        sha = {p.name: p.sha256 for p in self.photos}
        self.progress(stage, 0, len(pairs))
        if isinstance(matcher, FeatureMatcher):

            def match(pair: Pair) -> Matches | None:
                (a, b), (ka, kb) = pair, (turns.get(pair[0], 0), turns.get(pair[1], 0))
                if store.get(sha[a], sha[b], ka, kb) is not None:
                    return None
                fa, fb = features.get(sha[a], ka), features.get(sha[b], kb)
                if fa is None or fb is None:
                    raise RuntimeError(f"features of {a} or {b} are gone")
                return match_turned(matcher, fa, fb, ka, kb)

            with one_thread_each() as pool:
                for done, (pair, found) in enumerate(zip(pairs, pool.map(match, pairs), strict=True), start=1):
                    if found is not None:
                        ka, kb = turns.get(pair[0], 0), turns.get(pair[1], 0)
                        store.put(sha[pair[0]], sha[pair[1]], found, ka, kb)
                    self.progress(stage, done, len(pairs))
        else:
            info = {p.name: p for p in self.photos}
            held: dict[str, Image] = {}
            for done, (a, b) in enumerate(pairs, start=1):
                ka, kb = turns.get(a, 0), turns.get(b, 0)
                if store.get_correspondences(sha[a], sha[b], ka, kb) is None:
                    held = {n: held[n] if n in held else load_photos([info[n]], matcher.max_size)[0] for n in (a, b)}
                    matched = match_turned_photos(matcher, held[a], held[b], ka, kb)
                    store.put_correspondences(sha[a], sha[b], matched, ka, kb)
                self.progress(stage, done, len(pairs))
        store.flush()

    def _verify(
        self,
        matcher: Matcher,
        features: FeatureStore,
        store: MatchStore,
        pairs: Sequence[Pair],
        turns: Mapping[str, int],
    ) -> dict[Pair, VerifiedPair]:
        sha = {p.name: p.sha256 for p in self.photos}
        masks = {p.name: load_mask(p.mask, p.size) for p in self.photos if p.mask is not None}
        key: dict[str, object] = {
            "photos": [[p.name, p.sha256, turns.get(p.name, 0)] for p in self.photos],
            "masks": {name: hashlib.sha256(mask.numpy().tobytes()).hexdigest() for name, mask in masks.items()},
            "priors": {name: asdict(prior) for name, prior in sorted(self.priors.items())},
            "matcher": matcher.settings,
            "verification": asdict(self.verification),
            "pairs": [list(pair) for pair in pairs],
        }

        def verify(pair: Pair) -> VerifiedPair:
            a, b = pair
            matches = self._correspondences(matcher, features, store, sha, pair, turns)
            if a in masks:
                matches = matches.select(inside(masks[a], matches.points0))
            if b in masks:
                matches = matches.select(inside(masks[b], matches.points1))
            camera_a, camera_b = self.priors[a], self.priors[b]
            calibrated = camera_a.source in CALIBRATED and camera_b.source in CALIBRATED
            found = verify_pair(matches, camera_a.camera, camera_b.camera, self.verification, calibrated=calibrated)
            return VerifiedPair.of(matches, found)

        def build(folder: Path) -> None:
            stage = f"verification ({matcher.name})"
            self.progress(stage, 0, len(pairs))
            result: dict[Pair, VerifiedPair] = {}
            with one_thread_each() as pool:  # poselib releases the interpreter lock
                for done, (pair, found) in enumerate(zip(pairs, pool.map(verify, pairs), strict=True), start=1):
                    result[pair] = found
                    self.progress(stage, done, len(pairs))
            write_verified(folder / "pairs.npz", result)

        return self.folder.stage(
            f"verified-{matcher.name}", key, build, lambda folder: read_verified(folder / "pairs.npz")
        )

    def _correspondences(
        self,
        matcher: Matcher,
        features: FeatureStore,
        store: MatchStore,
        sha: Mapping[str, str],
        pair: Pair,
        turns: Mapping[str, int],
    ) -> Correspondences:
        (a, b), (ka, kb) = pair, (turns.get(pair[0], 0), turns.get(pair[1], 0))
        if isinstance(matcher, FeatureMatcher):
            found, fa, fb = store.get(sha[a], sha[b], ka, kb), features.get(sha[a], ka), features.get(sha[b], kb)
            if found is None or fa is None or fb is None:
                raise RuntimeError(f"matches of {a} and {b} are gone")
            return found.correspondences(fa, fb)
        known = store.get_correspondences(sha[a], sha[b], ka, kb)
        if known is None:
            raise RuntimeError(f"matches of {a} and {b} are gone")
        return known

    def _votes(
        self, features: FeatureStore, store: MatchStore, verified: Mapping[Pair, VerifiedPair]
    ) -> Iterator[tuple[Pair, Tensor]]:
        sha = {p.name: p.sha256 for p in self.photos}
        for (a, b), pair in verified.items():
            if pair.accepted:
                found, fa, fb = store.get(sha[a], sha[b]), features.get(sha[a]), features.get(sha[b])
                if found is not None and fa is not None and fb is not None and len(found) == pair.putative:
                    yield (a, b), turn_votes(fa, fb, found, pair.geometry.inliers)


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """A pool with as many threads as torch uses, each of which computes alone.

    Small products gain nothing from several threads: waiting for each other, they take several times the work.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def match_turned_photos(matcher: Matcher, image0: Image, image1: Image, turn0: int, turn1: int) -> Correspondences:
    """Matches of two photos turned by quarter turns, in px of the upright originals."""
    found = matcher.match(turn_image(image0, turn0), turn_image(image1, turn1))
    return Correspondences(
        unturn_points(found.points0, image0.original_size, turn0),
        unturn_points(found.points1, image1.original_size, turn1),
        found.scores,
    )


def load_photos(photos: Sequence[PhotoInfo], max_size: int) -> list[Image]:
    """Decodes some photos in threads."""
    with ThreadPoolExecutor(min(4, len(photos))) as pool:
        return list(pool.map(lambda p: load_photo(p.path, max_size, p.name), photos))


def inside(mask: Bool[Tensor, "h w"], points: Float[Tensor, "n 2"]) -> Bool[Tensor, " n"]:
    """Which points (px of the upright photo) lie where the mask counts."""
    height, width = mask.shape
    column = points[:, 0].floor().long().clamp(0, width - 1)
    row = points[:, 1].floor().long().clamp(0, height - 1)
    return mask[row, column]
