"""Coarse transformer with aggregated attention (Efficient LoFTR, section 3.2).

Queries are 4x4 cells summed by a strided depthwise convolution, keys and values are 4x4 cells' maxima; what attention
says about 4x4 cells is interpolated back to single cells.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision3d.matching.eloftr.cell_update import update_cells_in_blocks
from vision3d.matching.eloftr.config import EfficientLoFTRConfig
from vision3d.matching.eloftr.rotary import rotary_table, rotate
from vision3d.matching.eloftr.short_cell_update import update_cells_short
from vision3d.matching.eloftr.valid import Extents
from vision3d.matching.short_products import COLUMNS, ShortMatrix, short_matrix

GROUP = 4  # cells a side of what is aggregated
CELL = 8  # px a side of a cell
SLOPE = 0.01  # of the MLP's leaky ReLU


class AggregatedAttention(nn.Module):
    """One layer: what the cells of `source` tell each cell of `x`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.aggregate = nn.Conv2d(width, width, GROUP, GROUP, groups=width, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, 2 * width, bias=False),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(2 * width, width, bias=False),
        )
        self.norm2 = nn.LayerNorm(width)
        self.short = False
        """whether a CPU multiplies 16-bit integers instead of float32; see `precision.to_16_bits`"""
        self._matrices: tuple[ShortMatrix, ShortMatrix] | None = None

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        source: Float[Tensor, "b c i j"],
        extents: Extents,
        source_extents: Extents,
        tables: tuple[Tensor, Tensor] | None,
    ) -> Float[Tensor, "b c h w"]:
        """x with the message added; `tables` are rotary positions (self attention only)."""
        _, c, h, w = x.shape
        query = self.norm1(_rows(self.aggregate(x)))
        keys = self.norm1(_rows(_group_maximum(source, source_extents)))
        q, k, v = self.q_proj(query), self.k_proj(keys), self.v_proj(keys)
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        mask = None
        if source_extents.padded(CELL * GROUP):
            mask = source_extents.mask(CELL * GROUP).flatten(1)[:, None, None, :]
        q, k, v = (_split(t, self.heads) for t in (q, k, v))
        message = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        message = self.merge(message.transpose(1, 2).flatten(2))
        # The first layer of the MLP is linear, as interpolation is: what it makes of the message is worked out on the
        # coarse grid, which has 1/16 of the cells.
        first: Tensor = self.mlp.get_parameter("0.weight")
        grid = (message @ first[:, c:].T).transpose(1, 2).reshape(-1, 2 * c, h // GROUP, w // GROUP)
        grid = extents.extend(grid, CELL * GROUP).permute(0, 2, 3, 1).contiguous()
        cells, second = x.permute(0, 2, 3, 1), self.mlp.get_parameter("2.weight")
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
        if plain and self.short and not c % COLUMNS:
            if self._matrices is None:
                self._matrices = short_matrix(first[:, :c]), short_matrix(second)
            made = update_cells_short(cells.contiguous(), grid, *self._matrices, SLOPE, self.norm2)
        else:
            update = update_cells_in_blocks if plain else update_cells
            made = update(cells.contiguous(), grid, first[:, :c], second, SLOPE, self.norm2)
        return extents.clear(made.permute(0, 3, 1, 2), CELL)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._matrices = None
        super()._load_from_state_dict(*arguments, **options)


def update_cells(
    x: Float[Tensor, "b h w c"],
    grid: Float[Tensor, "b i j d"],
    weight: Float[Tensor, "d c"],
    second: Float[Tensor, "c d"],
    slope: float,
    norm: nn.LayerNorm,
) -> Float[Tensor, "b h w c"]:
    """x + norm(second @ leaky ReLU(weight @ x + grid interpolated to the cells)), for every cell."""
    coarse = grid.permute(0, 3, 1, 2)
    message = F.interpolate(coarse, size=x.shape[1:3], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    update: Tensor = norm(F.leaky_relu(x @ weight.T + message, slope) @ second.T)
    return x + update


def _rows(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    return maps.flatten(2).transpose(1, 2)


def _split(rows: Float[Tensor, "b n c"], heads: int) -> Float[Tensor, "b heads n d"]:
    return rows.reshape(*rows.shape[:2], heads, -1).transpose(1, 2)


def _group_maximum(maps: Float[Tensor, "b c h w"], extents: Extents) -> Float[Tensor, "b c i j"]:
    """Maxima over groups of cells that hold photo; zero where none does."""
    if not extents.padded(CELL):
        return F.max_pool2d(maps, GROUP, GROUP)
    hidden = ~extents.mask(CELL)[:, None]
    lowest = torch.finfo(maps.dtype).min
    pooled = F.max_pool2d(maps.masked_fill(hidden, lowest), GROUP, GROUP)
    return pooled.masked_fill(~extents.mask(CELL * GROUP)[:, None], 0)


class CoarseTransformer(nn.Module):
    """Pairs of self and cross layers over the cells of both photos."""

    def __init__(self, config: EfficientLoFTRConfig) -> None:
        super().__init__()
        self.width, self.training_size = config.widths[3], config.training_size
        self.layers = nn.ModuleList(AggregatedAttention(self.width, config.heads) for _ in range(2 * config.pairs))

    def forward(
        self, cells0: Tensor, cells1: Tensor, extents0: Extents, extents1: Extents
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c i j"]]:
        """Both photos' cells after all layers. In a cross layer photo 1 already sees what photo 0 has learned."""
        tables0, tables1 = self._tables(cells0, extents0), self._tables(cells1, extents1)
        together = cells0.shape == cells1.shape
        for i, layer in enumerate(self.layers):
            if i % 2:
                cells0 = layer(cells0, cells1, extents0, extents1, None)
                cells1 = layer(cells1, cells0, extents1, extents0, None)
            elif together:
                both, extents = torch.cat([cells0, cells1]), _joined(extents0, extents1)
                tables = _joined_tables(tables0, tables1, len(cells0))
                cells0, cells1 = layer(both, both, extents, extents, tables).chunk(2)
            else:
                cells0 = layer(cells0, cells0, extents0, extents0, tables0)
                cells1 = layer(cells1, cells1, extents1, extents1, tables1)
        return cells0, cells1

    def _tables(self, cells: Tensor, extents: Extents) -> tuple[Tensor, Tensor]:
        """Rotary tables [b n c], positions of each photo scaled to the range that was trained."""
        rows, columns = cells.shape[2] // GROUP, cells.shape[3] // GROUP
        made: dict[float, tuple[Tensor, Tensor]] = {}
        chosen = []
        for height, width in extents.sizes.tolist():
            scale = min(1.0, self.training_size / max(height, width))
            if scale not in made:
                made[scale] = rotary_table(rows, columns, self.width, (scale, scale), cells.device)
            chosen.append(made[scale])
        if len(made) == 1:
            return chosen[0]
        return torch.stack([c for c, _ in chosen]), torch.stack([s for _, s in chosen])


def _joined(extents0: Extents, extents1: Extents) -> Extents:
    return Extents(torch.cat([extents0.sizes, extents1.sizes]), extents0.canvas)


def _joined_tables(tables0: tuple[Tensor, Tensor], tables1: tuple[Tensor, Tensor], batch: int) -> tuple[Tensor, Tensor]:
    if all(a.shape == b.shape and a.dim() == 2 and torch.equal(a, b) for a, b in zip(tables0, tables1, strict=True)):
        return tables0
    cosine, sine = (
        torch.cat([t.expand(batch, *t.shape[-2:]) for t in pair]) for pair in zip(tables0, tables1, strict=True)
    )
    return cosine, sine
