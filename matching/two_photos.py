"""Matches two photos and says whether they show the same thing, whichever way up photo 1 was taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vision3d.core import Correspondences, Image
from vision3d.matching.base import FeatureMatcher, Matcher
from vision3d.matching.nearest import mutual_nearest
from vision3d.matching.turns import match_photos_turned, turn_image, unturn_points
from vision3d.matching.verify import Agreement, agreement

# Measured on 933 pairs of photos of different places (README): the best had a log10 NFA of -6, by 17 matches.
MIN_INLIERS = 15
MAX_LOG10_NFA = -8.0
CLEAR_INLIERS = 60  # so many agreeing matches need no look at turned photos


@dataclass(frozen=True, slots=True)
class TwoPhotoMatches:
    """All matches of two photos (px of the upright originals) and what they agree on.

    turn1: quarter turns (as np.rot90) under which photo 1 was matched. related: whether the agreement is too good for
    photos that have nothing in common; if not, the matches mean nothing.
    """

    matcher: str
    matches: Correspondences
    agreement: Agreement
    turn1: int
    related: bool


Judge = Callable[[Correspondences, int], TwoPhotoMatches]  # matches found with photo 1 turned so


def match_two_photos(
    image0: Image,
    image1: Image,
    matcher: Matcher,
    *,
    turns: Sequence[int] = (0, 1, 2, 3),
    threshold_px: float = 2.0,
    seed: int = 0,
) -> TwoPhotoMatches:
    """Matches two photos; where they hardly agree upright, also with photo 1 turned by the other `turns`.

    turns: quarter turns to consider, 0 first; (0,) for matchers that do not mind rotation. threshold_px: error up to
    which a match agrees, at 1024 px (see `agreement`).
    """

    def judge(matches: Correspondences, turn: int) -> TwoPhotoMatches:
        found = agreement(matches, image0.original_size, image1.original_size, threshold_px=threshold_px, seed=seed)
        related = found.num_inliers >= MIN_INLIERS and found.log10_nfa <= MAX_LOG10_NFA
        return TwoPhotoMatches(matcher.name, matches, found, turn, related)

    if isinstance(matcher, FeatureMatcher):
        return _by_features(image0, image1, matcher, turns, judge)
    best = judge(matcher.match(image0, image1), 0)
    if not _clear(best):
        for k in turns:
            if k % 4:
                best = _better(best, judge(match_photos_turned(matcher, image0, image1, k), k))
    return best


def _by_features(
    image0: Image, image1: Image, matcher: FeatureMatcher, turns: Sequence[int], judge: Judge
) -> TwoPhotoMatches:
    """As match_two_photos; the turn is chosen by mutual nearest neighbours, so that attention runs at most twice."""
    features0, upright = matcher.extract([image0, image1])
    best = judge(matcher.match_features(features0, upright).correspondences(features0, upright), 0)
    others = [k for k in turns if k % 4]
    if _clear(best) or not others:
        return best
    candidates = []
    for k in others:
        features1 = matcher.extract([turn_image(image1, k)])[0]
        indices, similarity = mutual_nearest(features0.descriptors, features1.descriptors)
        nearest = Correspondences(
            features0.keypoints[indices[:, 0]],
            unturn_points(features1.keypoints[indices[:, 1]], image1.original_size, k),
            similarity.clamp(0, 1),
        )
        candidates.append((judge(nearest, k).agreement.log10_nfa, k, features1))
    _, k, features1 = min(candidates, key=lambda c: c[:2])
    matches = matcher.match_features(features0, features1).correspondences(features0, features1)
    points1 = unturn_points(matches.points1, image1.original_size, k)
    return _better(best, judge(Correspondences(matches.points0, points1, matches.scores), k))


def _clear(found: TwoPhotoMatches) -> bool:
    return found.related and found.agreement.num_inliers >= CLEAR_INLIERS


def _better(a: TwoPhotoMatches, b: TwoPhotoMatches) -> TwoPhotoMatches:
    return b if b.agreement.log10_nfa < a.agreement.log10_nfa else a
