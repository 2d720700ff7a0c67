"""Efficient LoFTR (Wang et al., CVPR 2024): semi-dense matches between two photos, coarse cells to sub-pixel points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vision3d.matching.eloftr.backbone import Backbone, RepVGGBlock
from vision3d.matching.eloftr.coarse import CellPairs, match_cells
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.fine import refine
from vision3d.matching.eloftr.fine_features import FineFeatures, Merge
from vision3d.matching.eloftr.transformer import CELL, CoarseTransformer
from vision3d.matching.eloftr.valid import Extents

MULTIPLE = 32  # px; canvases are padded to it


@dataclass(frozen=True, slots=True)
class CellMatches:
    """Matches of a batch: item says which pair of photos; points in px of the photos that went in; scores in [0, 1]."""

    item: Int[Tensor, " m"]
    points0: Float[Tensor, "m 2"]
    points1: Float[Tensor, "m 2"]
    scores: Float[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """What the network knows of a batch of pairs before matching: maps at 1/8 (transformed), 1/4 and 1/2, per photo."""

    cells: tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c i j"]]
    quarters: tuple[Tensor, Tensor]
    halves: tuple[Tensor, Tensor]
    extents: tuple[Extents, Extents]


class EfficientLoFTR(nn.Module):
    """The network. `fused()` makes it fast for evaluation; training keeps the branches."""

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.loftr_coarse = CoarseTransformer(config)
        self.fine_preprocess = FineFeatures(config)

    def fuse(self) -> EfficientLoFTR:
        """Evaluation mode with the backbone's branches merged and channels-last weights. There is no way back."""
        self.eval()
        for module in self.modules():
            if isinstance(module, RepVGGBlock | Merge):
                module.fuse()
        return self.to(memory_format=torch.channels_last)

    def forward(
        self,
        grey0: Float[Tensor, "b 1 h w"],
        grey1: Float[Tensor, "b 1 i j"],
        sizes0: Int[Tensor, "b 2"] | None = None,
        sizes1: Int[Tensor, "b 2"] | None = None,
    ) -> CellMatches:
        """Match b pairs. grey: in [0, 1], any sizes; sizes: (height, width) px of each photo on its canvas, at the
        top left, where photos of different sizes were padded into one batch. ValueError for what is no such input.
        """
        features = self.features(grey0, grey1, sizes0, sizes1)
        (cells0, cells1), (extents0, extents1) = features.cells, features.extents
        pairs = match_cells(cells0, cells1, extents0.mask(CELL), extents1.mask(CELL), self.config)
        if len(pairs) == 0:
            none = cells0.new_zeros(0, 2, dtype=torch.float32)
            return CellMatches(pairs.item, none, none, pairs.confidence)
        half0, half1 = self.fine(features, _wanted(pairs, features))
        grids = (cells0.shape[3], cells1.shape[3])
        points0, points1 = refine(half0.float(), half1.float(), pairs, grids, extents0, extents1, self.config)
        return CellMatches(pairs.item, points0, points1, pairs.confidence)

    def features(
        self,
        grey0: Float[Tensor, "b 1 h w"],
        grey1: Float[Tensor, "b 1 i j"],
        sizes0: Int[Tensor, "b 2"] | None = None,
        sizes1: Int[Tensor, "b 2"] | None = None,
    ) -> PairFeatures:
        """Backbone and coarse transformer; arguments as `forward`'s."""
        canvas0, extents0 = _canvas(grey0, sizes0, "0", self._dtype)
        canvas1, extents1 = _canvas(grey1, sizes1, "1", self._dtype)
        if len(canvas0) != len(canvas1):
            raise ValueError(f"as many photos 0 as photos 1 are needed, got {len(canvas0)} and {len(canvas1)}")
        # In training both are normalised together; on a CPU one photo's maps at a time fit better into the cache.
        together = self.training or canvas0.device.type != "cpu"
        if together and canvas0.shape == canvas1.shape:
            both = Extents(torch.cat([extents0.sizes, extents1.sizes]), extents0.canvas)
            halves, quarters, cells = (m.chunk(2) for m in self.backbone(torch.cat([canvas0, canvas1]), both))
        else:
            maps0, maps1 = self.backbone(canvas0, extents0), self.backbone(canvas1, extents1)
            halves, quarters, cells = zip(maps0, maps1, strict=True)
        cells0, cells1 = self.loftr_coarse(cells[0], cells[1], extents0, extents1)
        return PairFeatures((cells0, cells1), tuple(quarters), tuple(halves), (extents0, extents1))

    def fine(
        self, features: PairFeatures, wanted: tuple[Tensor | None, Tensor | None] = (None, None)
    ) -> tuple[Float[Tensor, "b e h w"], Float[Tensor, "b e i j"]]:
        """Fine features of both photos at 1/2, right around the `wanted` cells [b h w] (None: everywhere)."""
        parts = zip(features.cells, features.quarters, features.halves, features.extents, wanted, strict=True)
        half0, half1 = (self.fine_preprocess(*part) for part in parts)
        return half0, half1

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def _wanted(pairs: CellPairs, features: PairFeatures) -> tuple[Tensor, Tensor]:
    """Masks [b h w] of the cells of each photo that match."""
    masks = []
    for cells, numbers in zip(features.cells, (pairs.cells0, pairs.cells1), strict=True):
        mask = torch.zeros(len(cells), cells.shape[2] * cells.shape[3], dtype=torch.bool, device=cells.device)
        mask[pairs.item, numbers] = True
        masks.append(mask.reshape(len(cells), *cells.shape[2:]))
    return masks[0], masks[1]


def _canvas(grey: Tensor, sizes: Tensor | None, which: str, dtype: torch.dtype) -> tuple[Tensor, Extents]:
    """The photos on a canvas whose sides are multiples of 32 px, zero beyond each, and their sizes."""
    if grey.dim() != 4 or grey.shape[1] != 1 or not grey.is_floating_point():
        raise ValueError(f"photos {which} must be grey floats [b 1 h w] in [0, 1], got {list(grey.shape)} {grey.dtype}")
    if grey.shape[0] == 0 or min(grey.shape[2:]) == 0:
        raise ValueError(f"photos {which} are empty: {list(grey.shape)}")
    if not torch.isfinite(grey).all():
        raise ValueError(f"photos {which} hold values that are not finite; replace them before matching")
    height, width = grey.shape[2:]
    if sizes is None:
        sizes = torch.tensor([[height, width]], device=grey.device).repeat(len(grey), 1)
    outside = (sizes < 1).any() or (sizes > sizes.new_tensor([height, width])).any()
    if sizes.shape != (len(grey), 2) or outside:
        raise ValueError(f"sizes{which} must be [b 2] (height, width) within {height} x {width}, got {sizes.tolist()}")
    tall, wide = -height % MULTIPLE, -width % MULTIPLE
    extents = Extents(sizes, (height + tall, width + wide))
    canvas = F.pad(grey.to(dtype), (0, wide, 0, tall))
    return extents.clear(canvas, 1).contiguous(memory_format=torch.channels_last), extents
