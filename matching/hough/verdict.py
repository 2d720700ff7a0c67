"""Whether a found motion is to be believed.

The limits are measured: on the right motions of overlapping indoor fragments, street scans and sampled meshes, and on
the best wrong motions of 69 unrelated pairs (other places, mirrored clouds, parts that do not overlap, scrambled ones,
empty boxes), and the ratio asked of weak likeness on simulated rooms too. The README gives the figures, also those on
pairs that no limit was chosen on.
"""

from __future__ import annotations

from vision3d.matching.hough.likeness import Fit

LEAST_LIKENESS = 0.03
LEAST_RATIO = 1.5
CLEAR_LIKENESS = 0.1  # below it, the best motion must stand out more
LEAST_RATIO_OF_WEAK = 3.0
MOST_CONTRADICTIONS = 0.65
MOST_OPPOSED = 0.8
LEAST_INLIERS = 8
LEAST_CONSTRAINT = 0.02
MOST_SCALES = 8.0  # between the extents of two clouds


def judge(fit: Fit, ratio: float, inliers: int, constraint: float) -> tuple[bool, bool, str]:
    """Verdict, whether the clouds leave the motion open (ambiguous), and the reason in a sentence.

    ratio: likeness over that of the best distinct motion. inliers: matches that agree. constraint: see `Evidence`.
    """
    if constraint < LEAST_CONSTRAINT:
        return False, True, "ambiguous: the surfaces that overlap can slide or turn on each other (plane, sphere, tube)"
    if fit.likeness < LEAST_LIKENESS:
        return False, False, f"the clouds hardly resemble each other where they meet (likeness {fit.likeness:.3f})"
    if ratio < (LEAST_RATIO if fit.likeness >= CLEAR_LIKENESS else LEAST_RATIO_OF_WEAK):
        return False, True, f"ambiguous: another motion explains the clouds nearly as well (ratio {ratio:.2f})"
    if fit.contradictions > MOST_CONTRADICTIONS:
        return False, False, f"the surfaces contradict each other ({fit.contradictions:.2f} misses a hit)"
    if fit.opposed > MOST_OPPOSED:
        share = f"{100 * fit.opposed:.0f} %"
        return False, False, f"the surfaces lie on each other from opposite sides ({share}): is a cloud mirrored?"
    if inliers < LEAST_INLIERS:
        return False, False, f"only {inliers} matches agree with the motion"
    return True, False, f"{inliers} matches agree, {100 * min(fit.overlap0, fit.overlap1):.0f} % of the clouds overlap"
