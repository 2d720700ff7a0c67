"""Triangle meshes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangles in the world frame (scene unit), faces counter-clockwise from outside, colours in 0 to 1."""

    vertices: Float[Tensor, "n 3"]
    faces: Int[Tensor, "m 3"]
    colors: Float[Tensor, "n 3"] | None = None
