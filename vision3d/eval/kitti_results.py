"""Ground truth and results that are in memory, as the KITTI evaluation takes them."""

from __future__ import annotations

from collections.abc import Sequence

from vision3d.eval.kitti_frames import FlatObjects, KittiFrames
from vision3d.io.kitti_labels import KittiObjects


def as_frames(
    names: Sequence[str], truth: Sequence[KittiObjects], results: Sequence[KittiObjects], copies: int = 1
) -> KittiFrames:
    """Frames to score; results have scores.

    copies: every frame counts so many times. With fewer than 40 true objects the official rules, which take one
    threshold per true object at most, leave the last recall positions at 0: perfect results of 15 cars get 37.5.

    Raises:
        ValueError: no frames, lists of different lengths, results without scores, copies below 1.
    """
    if not names or not len(names) == len(truth) == len(results) or copies < 1:
        raise ValueError(
            f"as many names, labels and results are needed, at least one, and copies: got {len(names)}, {len(truth)}, "
            f"{len(results)} and {copies}"
        )
    if any(result.scores is None for result in results):
        raise ValueError("results need scores")
    flat = FlatObjects.of(list(truth) * copies), FlatObjects.of(list(results) * copies)
    return KittiFrames(tuple(names) * copies, *flat)
