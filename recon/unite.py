"""Evidence of two matchers on the same photos, united pair by pair."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vision3d.core import CameraPrior, Correspondences
from vision3d.recon.tracks import Pair
from vision3d.recon.verification import VerificationConfig, verify_pair
from vision3d.recon.view_graph import VerifiedPair


def united(
    first: Mapping[Pair, VerifiedPair],
    second: Mapping[Pair, VerifiedPair],
    priors: Mapping[str, CameraPrior],
    config: VerificationConfig,
) -> dict[Pair, VerifiedPair]:
    """All pairs of both. Where both accept a pair, one geometry is estimated from the inliers of both.

    Matchers that disagree on a pair (each has found another of several look-alike places) are told apart there: the
    joint geometry keeps the larger consensus, and its inlier ratio is low. Rejected matches count as outliers.
    """
    result: dict[Pair, VerifiedPair] = {}
    for pair in sorted({*first, *second}):
        both = [evidence[pair] for evidence in (first, second) if pair in evidence]
        accepted = [found for found in both if found.accepted]
        if len(accepted) < 2:
            result[pair] = accepted[0] if accepted else max(both, key=lambda found: found.putative)
            continue
        matches = Correspondences(
            torch.cat([found.matches.points0.double() for found in accepted]),
            torch.cat([found.matches.points1.double() for found in accepted]),
            torch.cat([found.matches.scores.double() for found in accepted]),
        )
        known = all(priors[name].source in ("given", "exif") for name in pair)
        geometry = verify_pair(matches, priors[pair[0]].camera, priors[pair[1]].camera, config, calibrated=known)
        joint = VerifiedPair.of(matches, geometry)
        putative = sum(found.putative for found in accepted)
        result[pair] = VerifiedPair(joint.matches, geometry, putative)
    return result
