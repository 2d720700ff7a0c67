"""The loss of the vote network: of all bins with votes, one is the true motion's.

J. Lee et al., "Deep Hough Voting for Robust Global Registration", ICCV 2021, section 3.4.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

FARTHEST = 3  # bins, summed over the axes: beyond that the votes missed the motion


def true_bin(bins: Int[Tensor, "m 6"], pose: Float[Tensor, " 6"], sizes: Float[Tensor, " 6"]) -> int | None:
    """The row of `bins` nearest (sum of absolute differences) to the bin of the true motion; None beyond 3 bins.

    pose: rotation vector (rad) and translation; sizes: of the bins along each axis, in the same units. The motion at
    the other end of the wrap at pi counts as well: the nearer of both is taken. The first of equally near rows wins.
    """
    if len(bins) == 0:
        return None
    angle = float(pose[:3].norm())
    ends = [pose]
    if angle > 0:
        ends.append(torch.cat([pose[:3] * (1 - 2 * torch.pi / angle), pose[3:]]))
    found: tuple[int, int] | None = None
    for end in ends:
        distance = (bins - torch.floor(end / sizes).long()).abs().sum(dim=1)
        row = int(distance.argmin())
        if int(distance[row]) <= FARTHEST and (found is None or int(distance[row]) < found[0]):
            found = (int(distance[row]), row)
    return None if found is None else found[1]


def vote_loss(logits: Float[Tensor, " m"], row: int) -> Float[Tensor, ""]:
    """Mean binary cross-entropy over the bins; `row` alone is right."""
    target = torch.zeros_like(logits)
    target[row] = 1
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
