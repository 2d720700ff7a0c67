"""Semantic correspondence by the features of a frozen network: no training, as in DIFT's and SD-DINO's protocols.

S. Amir et al., "Deep ViT Features as Dense Visual Descriptors", 2021 (nearest neighbours of frozen features); J. Zhang
et al., "Telling Left from Right", CVPR 2024, section 4.1 (choosing the picture or its mirror image) and 4.3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Image
from vision3d.errors import UsageError
from vision3d.matching.semantic.backbones import Backbone
from vision3d.matching.semantic.base import DenseFeatures
from vision3d.matching.semantic.transfer import (
    RULES,
    Rule,
    coming_back,
    mutual_distance,
    peak,
    sample,
    similarities,
    soft_peak,
)

SMALLEST = 2  # px; a picture of one column or row has nothing to describe
MAX_SIDE = 2048  # px of the square


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """How a point finds its cell.

    rule: `nearest` (the most similar cell), `mutual` (the same among cells whose own nearest is at the point), `soft`
    (mean of a window around the most similar cell under a softmax). within: cells, of `mutual`. window: cells to each
    side, of `soft`; 0 is the whole picture. temperature: of the softmax, on cosines. flip: carry the points from the
    source's mirror image where that looks more like the target.
    """

    rule: Rule = "nearest"
    within: float = 1.5
    window: int = 5
    temperature: float = 0.05
    flip: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(f"the rule of transfer is one of {', '.join(RULES)}, got {self.rule}")
        if self.window < 0 or not self.temperature > 0 or not self.within >= 0.5:
            raise UsageError(
                "transfer needs window >= 0, temperature > 0 and within >= 0.5, "
                f"got {self.window}, {self.temperature:g} and {self.within:g}"
            )


class FrozenFeatures:
    """Nearest neighbours of a frozen backbone's features. size: px of the square that pictures are squashed to."""

    def __init__(self, backbone: Backbone, *, size: int = 512, transfer: TransferConfig | None = None) -> None:
        if size > MAX_SIDE:
            raise UsageError(f"the square's side must be at most {MAX_SIDE} px, got {size}: all cells are compared")
        if size < backbone.multiple or size % backbone.multiple:
            raise UsageError(
                f"the square's side must be a multiple of {backbone.multiple} px for {backbone.name}, got {size}: "
                f"{max(backbone.multiple, round(size / backbone.multiple) * backbone.multiple)} would do"
            )
        self.backbone = backbone
        self.name = backbone.name
        self.max_size = size
        self.config = transfer or TransferConfig()

    @property
    def settings(self) -> dict[str, object]:
        """Everything that changes the result, as plain JSON values."""
        return {"name": self.name, "size": self.max_size, **self.backbone.settings, **asdict(self.config)}

    def describe(self, image: Image) -> DenseFeatures:
        """The grid of one picture, and of its mirror image where the rule wants it. Errors as in `SemanticMatcher`."""
        square = squash(image, self.max_size)
        grid = self._grid(square)
        mirrored = self._grid(square.flip(3)) if self.config.flip else None
        return DenseFeatures(grid, image.original_size, mirrored)

    def transfer(
        self, source: DenseFeatures, target: DenseFeatures, points: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "n 2"]:
        """See `SemanticMatcher`."""
        return carry(source, target, points, self.config)

    def _grid(self, square: Float[Tensor, "1 3 s s"]) -> Float[Tensor, "c h w"]:
        return F.normalize(self.backbone(square)[0], dim=0)


def squash(image: Image, size: int) -> Float[Tensor, "1 3 size size"]:
    """The picture as a square, without keeping its aspect (antialiased).

    Raises:
        ValueError: pixels that are not finite, or fewer than 2 along a side.
    """
    width, height = image.size
    if min(width, height) < SMALLEST:
        raise ValueError(f"the picture {image.name} has {width}x{height} px: too small to describe")
    if not torch.isfinite(image.rgb).all():
        raise ValueError(f"the picture {image.name} has pixels that are not finite")
    rgb = image.rgb.to(torch.float32)[None]
    if rgb.shape[2:] == (size, size):
        return rgb
    return F.interpolate(rgb, (size, size), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def carry(
    source: DenseFeatures, target: DenseFeatures, points: Float[Tensor, "n 2"], config: TransferConfig
) -> Float[Tensor, "n 2"]:
    """Points of the source (px of its original) to the target by the rule of `config`; inside the picture.

    Raises:
        ValueError: points that are not finite, or flip without mirrored features.
    """
    if not torch.isfinite(points).all():
        raise ValueError("points to carry over must be finite")
    grid = source.grid
    cells = source.to_cells(points.to(grid))
    if config.flip:
        if source.mirrored is None:
            raise ValueError("flip needs features of the mirror image: describe the pictures with the same settings")
        if mutual_distance(source.mirrored, target.grid) < mutual_distance(grid, target.grid):
            grid = source.mirrored
            cells = torch.stack([grid.shape[2] - 1 - cells[:, 0], cells[:, 1]], dim=1)
    scores = similarities(sample(grid, cells), target.grid)
    if config.rule == "soft":
        found = soft_peak(scores, config.window, config.temperature)
    else:
        allowed = coming_back(grid, target.grid, cells, config.within) if config.rule == "mutual" else None
        found = peak(scores, allowed)
    limit = points.new_tensor(target.image_size)
    return torch.minimum(target.to_pixels(found).to(points).clamp(min=0), limit)
