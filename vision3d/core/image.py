"""A decoded photo and where its pixels lie in the original."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Image:
    """rgb in [0, 1], upright (EXIF orientation applied).

    original_size is (width, height) px of the upright original. `to_original` undoes resize and crop:
    p_original = p * scale + offset, both (x, y); pixel (0.5, 0.5) is the centre of the top-left pixel in both.
    """

    rgb: Float[Tensor, "3 h w"]
    name: str
    original_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px of `rgb`."""
        return int(self.rgb.shape[2]), int(self.rgb.shape[1])

    def to_original(self, points: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        """px of `rgb` to px of the original."""
        return points * points.new_tensor(self.scale) + points.new_tensor(self.offset)

    def from_original(self, points: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
        """px of the original to px of `rgb`."""
        return (points - points.new_tensor(self.offset)) / points.new_tensor(self.scale)
