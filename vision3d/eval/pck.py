"""Percentage of correct keypoints, by each of the rules in use, from saved predictions.

Y. Yang and D. Ramanan, "Articulated human detection with flexible mixtures of parts", PAMI 2013, section 5 (PCK); J.
Min et al., arXiv 1908.10543, section 4 (threshold alpha max(w, h) of the target's box). k-CyPCK: K. Gupta et al.,
"ASIC: Aligning Sparse in-the-wild Image Collections", ICCV 2023, section 4, as its authors' evaluation counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class PckRule:
    """One protocol. reference: the threshold is a share of the longer side of this. average: over pairs, or over all
    keypoints. strict: a distance equal to the threshold is wrong. square: px of the square that both pictures and the
    box are squashed to before measuring; None: the original resolution."""

    reference: Literal["box", "image"] = "box"
    average: Literal["image", "point"] = "image"
    strict: bool = False
    square: int | None = None

    def __post_init__(self) -> None:
        if self.square is not None and self.square < 1:
            raise ValueError(f"the square has 1 px or more, got {self.square}")

    def text(self) -> str:
        """The protocol in words, for reports."""
        where = "original resolution" if self.square is None else f"squashed to {self.square}x{self.square} px"
        sign = "<" if self.strict else "<="
        return f"PCK per {self.average}, distance {sign} alpha max(w, h) of the target {self.reference}, {where}"


@dataclass(frozen=True, slots=True)
class PredictedPair:
    """What PCK needs of a pair. found, truth [n 2] px, size (width, height), box x1 y1 x2 y2: all of image 1."""

    found: Float64[np.ndarray, "n 2"]
    truth: Float64[np.ndarray, "n 2"]
    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        if len(self.truth) == 0:
            raise ValueError("a pair without common keypoints has no PCK: leave it out")
        if not np.isfinite(self.found).all():
            raise ValueError("predicted points must be finite")


def correct(pair: PredictedPair, alpha: float, rule: PckRule) -> Bool[np.ndarray, " n"]:
    """Which of the pair's keypoints were found.

    Raises:
        ValueError: alpha not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is above 0, got {alpha:g}")
    width, height = pair.size
    scale = np.ones(2) if rule.square is None else rule.square / np.array([width, height], np.float64)
    x1, y1, x2, y2 = pair.box
    extent = np.array([x2 - x1, y2 - y1] if rule.reference == "box" else [width, height], np.float64)
    limit = alpha * float((extent * scale).max())
    distance = np.linalg.norm((pair.found - pair.truth) * scale, axis=1)
    out: Bool[np.ndarray, " n"] = distance < limit if rule.strict else distance <= limit
    return out


def pck(pairs: Sequence[PredictedPair], alpha: float, rule: PckRule) -> float | None:
    """The share in [0, 1] over the pairs, None without pairs."""
    hits = [correct(pair, alpha, rule) for pair in pairs]
    if not hits:
        return None
    return float(np.mean([h.mean() for h in hits]) if rule.average == "image" else np.concatenate(hits).mean())


def cycle_steps(
    found: Float64[np.ndarray, "k n 2"],
    truth: Float64[np.ndarray, "k n 2"],
    seen: Bool[np.ndarray, "k_plus_1 n"],
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[tuple[float, float, float, float]],
) -> list[PredictedPair]:
    """Steps of a cycle, the `pck` of which, averaged per point over all cycles, is k-CyPCK.

    Keypoints are carried from picture to picture and back to the first. After every step they are compared with the
    truth there; what is not seen in one of the pictures up to there is left out from then on.

    found, truth: px, in the picture that step i enters; the last is the first picture again. seen: in the picture that
    the cycle starts from, then as above. sizes, boxes: of the pictures entered. Steps without points are left out.
    """
    alive = seen[0].copy()
    steps = []
    for i in range(len(found)):
        alive &= seen[i + 1]
        if alive.any():
            steps.append(PredictedPair(found[i][alive], truth[i][alive], sizes[i], boxes[i]))
    return steps
