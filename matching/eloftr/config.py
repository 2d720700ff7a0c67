"""Sizes and settings of Efficient LoFTR (Wang et al., CVPR 2024, section 3 and implementation details)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientLoFTRConfig:
    """The published full-size model by default; `compact()` is a small one for a CPU.

    widths: channels at 1/2 (stem), 1/2, 1/4 and 1/8 of the photo; blocks: RepVGG blocks of each. heads, pairs: of the
    coarse transformer, a pair being one self and one cross layer. fine_extra: the last channels of the fine features,
    which serve the second, sub-pixel stage alone. mode "full" matches cells by dual softmax, "optimised" by their bare
    similarity. threshold: on the confidence ("full", 0.1 to 0.2) or on the similarity ("optimised", 20 to 25).
    border: cells along a photo's edges that never match. training_size: px; of a photo whose longer side exceeds it,
    positions are scaled down to the range that was trained. fine_origin: px (0.5 is the centre of a pixel) of a
    window's first pixel from its cell's corner, as the weights were taught it: the published ones label it -3.5 in
    coordinates whose zero is a pixel's centre. fine_centre: where, from the ring around photo 1's window, the 3 x 3
    pixels of the sub-pixel stage have their centre: 1 is the matched pixel; the published weights were trained with 0,
    one pixel up and left of it (from a window's first row or column the neighbourhood wraps round to its last).
    """

    widths: tuple[int, int, int, int] = (64, 64, 128, 256)
    blocks: tuple[int, int, int, int] = (1, 2, 4, 14)
    heads: int = 8
    pairs: int = 4
    fine_extra: int = 8
    mode: Literal["full", "optimised"] = "full"
    temperature: float = 0.1
    fine_temperature: float = 10.0
    threshold: float = 0.2
    border: int = 2
    training_size: int = 832
    fine_origin: float = -3.0
    fine_centre: int = 0

    def __post_init__(self) -> None:
        width = self.widths[3]
        if len(self.widths) != 4 or len(self.blocks) != 4 or min(*self.widths, *self.blocks, self.pairs) < 1:
            raise ValueError(f"widths and blocks are four positive numbers each: {self.widths}, {self.blocks}")
        if width % self.heads or width % 4:
            raise ValueError(f"the coarse width {width} must be a multiple of 4 and of the {self.heads} heads")
        if not 0 < self.fine_extra < self.widths[1]:
            raise ValueError(f"fine_extra must leave channels to the first fine stage: {self.fine_extra}")
        if self.temperature <= 0 or self.fine_temperature <= 0 or self.border < 0 or self.training_size < 32:
            raise ValueError("temperatures must be positive, border not negative, training_size at least 32 px")

    @classmethod
    def compact(cls) -> EfficientLoFTRConfig:
        """Fewer than 2 million parameters, for a CPU and for training on one; its own convention of coordinates."""
        return cls(
            widths=(24, 24, 48, 96),
            blocks=(1, 1, 2, 5),
            heads=4,
            pairs=2,
            fine_temperature=1.0,
            fine_origin=0.5,
            fine_centre=1,
            border=1,
        )
