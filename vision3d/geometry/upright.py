"""Which way is up in a scene, from the orientations of its cameras.

People hold cameras level: the pictures' horizontal axes lie in the ground plane (those of portrait shots that were not
turned: the vertical axes). Up is the direction most nearly across all of them, the least eigenvector of their second
moment (compare R. Szeliski, "Image alignment and stitching", 2006, section 5 on straightening panoramas).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_PULL = 3e-3  # towards the pictures' own upward direction, which decides where the axes leave it open (one camera)
_CLEARLY = 0.3  # by how much the vertical axes must be more level than the horizontal ones before they are believed


def up_direction(rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, " 3"]:
    """Unit vector in the world, float64, from the rotations of cam_from_world (x right, y down, z forward); n >= 1."""
    across, down, ahead = rotations.double().unbind(1)
    upward = -down.mean(0)
    level, least = _least_axis(across, upward)
    turned, least_turned = _least_axis(down, -ahead.mean(0))
    # The pictures of a level camera agree on up, but for a share that its pitch takes away.
    if float(upward.norm()) < _CLEARLY and least_turned < _CLEARLY * least:
        return _facing(turned, -ahead.mean(0))  # who turns the camera mostly looks down
    return _facing(level, upward if float((level @ upward).abs()) > 1e-3 else -ahead.mean(0))


def _least_axis(axes: Float[Tensor, "n 3"], pull: Float[Tensor, " 3"]) -> tuple[Float[Tensor, " 3"], float]:
    """The direction most nearly across the axes, and the mean square of what they have along it."""
    moment = axes.mT @ axes / len(axes)
    length = float(pull.norm())
    towards = torch.outer(pull, pull) / length**2 if length > 1e-9 else torch.zeros_like(moment)
    values, vectors = torch.linalg.eigh(moment + _PULL * (torch.eye(3, dtype=torch.float64) - towards))
    return vectors[:, 0], float(values[0])


def _facing(axis: Float[Tensor, " 3"], side: Float[Tensor, " 3"]) -> Float[Tensor, " 3"]:
    return -axis if float(axis @ side) < 0 else axis
