"""Rulebooks with sorted keys in plain torch, on any device: for CUDA, and the second opinion on the hash table.

Sites are numbered by rank, one column of indices after another, so that grids of more than 2^63 sites work as well.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vision3d.core.sparse_tensor import Sites
from vision3d.sparse.kernel_map import KernelMap
from vision3d.sparse.window import Window


class Ranks:
    """Lexicographic ranks of known sites; finds the rank of any site, or that it is not among them."""

    def __init__(self, indices: Int[Tensor, "m n"], extents: tuple[int, ...]) -> None:
        self.extents = extents
        self.groups = _column_groups(extents, len(indices))
        self.tables: list[Tensor] = []
        rank = torch.zeros(len(indices), dtype=torch.int64, device=indices.device)
        for group in self.groups:
            table, rank = torch.unique(self._extend(rank, indices, group), return_inverse=True)
            self.tables.append(table)
        self.rank = rank
        self.size = len(self.tables[-1])

    def _extend(self, rank: Tensor, indices: Tensor, group: range) -> Tensor:
        for column in group:
            rank = rank * self.extents[column] + indices[:, column]
        return rank

    def find(self, indices: Int[Tensor, "q n"]) -> tuple[Int[Tensor, " q"], Bool[Tensor, " q"]]:
        """Ranks of sites within the extents, and which of them are known."""
        rank = torch.zeros(len(indices), dtype=torch.int64, device=indices.device)
        known = torch.ones(len(indices), dtype=torch.bool, device=indices.device)
        for group, table in zip(self.groups, self.tables, strict=True):
            if len(table) == 0:
                return rank, torch.zeros_like(known)
            key = self._extend(rank, indices, group)
            rank = torch.searchsorted(table, key).clamp(max=len(table) - 1)
            known = known & (table[rank] == key)
        return rank, known


def _column_groups(extents: tuple[int, ...], rows: int) -> list[range]:
    """Columns that one 64-bit key can hold beside the rank of those before."""
    groups, first, room = [], 0, 1
    for column, extent in enumerate(extents):
        if room * extent >= 2**63:
            groups.append(range(first, column))
            first, room = column, max(1, rows)
        room *= extent
    return [*groups, range(first, len(extents))]


def map_between(inputs: Sites, outputs: Sites, window: Window) -> KernelMap:
    """As `hash_maps.map_between`."""
    device = inputs.indices.device
    ranks = Ranks(inputs.indices, inputs.extents)
    row_of_rank = torch.empty(ranks.size, dtype=torch.int64, device=device)
    row_of_rank[ranks.rank] = torch.arange(len(inputs), device=device)
    stride, padding, dilation, extents = _columns(window, inputs.extents, device)
    base = outputs.indices.long() * stride - padding
    in_parts, out_parts = [], []
    for element in window.elements():
        wanted = base + torch.tensor((0, *element), device=device) * dilation
        out_rows = ((wanted >= 0) & (wanted < extents)).all(dim=1).nonzero()[:, 0]
        rank, known = ranks.find(wanted[out_rows])
        in_parts.append(row_of_rank[rank[known]])
        out_parts.append(out_rows[known])
    symmetric = outputs is inputs and window.is_symmetric
    return _assemble(in_parts, out_parts, len(inputs), len(outputs), symmetric)


def map_onto_touched(
    inputs: Sites, window: Window, shape: tuple[int, ...], transposed: bool
) -> tuple[Sites, KernelMap]:
    """As `hash_maps.map_onto_touched`."""
    device = inputs.indices.device
    stride, padding, dilation, extents = _columns(window, (inputs.batch_size, *shape), device)
    indices = inputs.indices.long()
    in_parts, touched_parts = [], []
    for element in window.elements():
        offset = torch.tensor((0, *element), device=device) * dilation
        if transposed:
            touched = indices * stride - padding + offset
            good = (touched >= 0) & (touched < extents)
        else:
            numerator = indices + padding - offset
            touched = numerator.div(stride, rounding_mode="floor")
            good = (touched >= 0) & (touched < extents) & (touched * stride == numerator)
        rows = good.all(dim=1).nonzero()[:, 0]
        in_parts.append(rows)
        touched_parts.append(touched[rows])
    touched = torch.cat(touched_parts)
    ranks = Ranks(touched, (inputs.batch_size, *shape))
    out_indices = torch.empty(ranks.size, indices.shape[1], dtype=inputs.indices.dtype, device=device)
    out_indices[ranks.rank] = touched.to(out_indices.dtype)
    out_parts = list(torch.split(ranks.rank, [len(part) for part in in_parts]))
    for k, out_rows in enumerate(out_parts):
        order = out_rows.argsort()
        in_parts[k], out_parts[k] = in_parts[k][order], out_rows[order]
    rulebook = _assemble(in_parts, out_parts, len(inputs), ranks.size, symmetric=False)
    return Sites(out_indices, shape, inputs.batch_size), rulebook


def _columns(window: Window, extents: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stride, padding and dilation with a batch column before, and the extents."""
    rows = [(1, *window.stride), (0, *window.padding), (1, *window.dilation), extents]
    stride, padding, dilation, size = torch.tensor(rows, device=device).unbind()
    return stride, padding, dilation, size


def _assemble(in_parts: list[Tensor], out_parts: list[Tensor], inputs: int, outputs: int, symmetric: bool) -> KernelMap:
    starts = [0]
    for part in in_parts:
        starts.append(starts[-1] + len(part))
    return KernelMap(
        in_rows=torch.cat(in_parts).int(),
        out_rows=torch.cat(out_parts).int(),
        starts=tuple(starts),
        inputs=inputs,
        outputs=outputs,
        symmetric=symmetric,
    )
