"""Compositing on the CPU: Numba kernels over tile lists, one autograd function around them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from vision3d.recon.splat2d.backward import add_partials, composite_backward, divide_opacities
from vision3d.recon.splat2d.forward import CHANNELS, STATE, composite_forward
from vision3d.recon.splat2d.project import COEFFICIENTS, Projection
from vision3d.recon.splat2d.tile_memory import prepare
from vision3d.recon.splat2d.tiles import TILE, TileLists, bands, list_tiles, pixel_boxes
from vision3d.recon.splat2d.twin import Composite


def composite(projection: Projection, size: tuple[int, int]) -> Composite:
    """As `twin.composite`, in float32 (converted back to the input's type)."""
    coefficients = projection.coefficients
    out: Tensor = _Composite.apply(coefficients.float(), projection.bounds, projection.order, projection.near, size)
    return Composite.from_channels(out.to(coefficients.dtype))


class _Composite(torch.autograd.Function):
    """Channels [11 h w] from coefficients [n 16]; everything else is constant."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, bounds: Tensor, order: Tensor, near: float, size: tuple[int, int]
    ) -> Tensor:
        width, height = size
        _use_torch_threads()
        boxes = pixel_boxes(bounds[order].float().contiguous().numpy(), size)
        seen = boxes[:, 1] >= boxes[:, 0]
        ctx.order = np.ascontiguousarray(order.numpy()[seen])
        ctx.boxes = np.ascontiguousarray(boxes[seen])
        ctx.coefficients = coefficients.detach().contiguous().numpy()
        ctx.table = torch.empty(len(ctx.order), COEFFICIENTS).numpy()  # torch aligns to cache lines
        prepare(ctx.coefficients, ctx.order, ctx.table)
        ctx.rows = bands(ctx.boxes, size)
        ctx.near = np.float32(near)
        ctx.size = size
        ctx.out = np.zeros((CHANNELS, height, width), np.float32)
        ctx.state = np.empty((STATE, height, width), np.float32)
        ctx.references = []
        ctx.lists = []
        for row0, row1 in ctx.rows:
            lists = list_tiles(ctx.boxes, size, row0, row1)
            tiles = len(lists.starts) - 1
            references, evaluations = np.empty(tiles, np.float32), np.empty(tiles, np.int64)
            columns = -(-width // TILE)
            with numba.parallel_chunksize(_CHUNKSIZE):
                composite_forward(
                    *(ctx.table, ctx.boxes, lists.starts, lists.members, row0, columns, width, height, ctx.near),
                    *(ctx.out, ctx.state, references, evaluations),
                )
            ctx.references.append(references)
            if len(ctx.rows) == 1:
                ctx.lists.append(lists)  # else listed again in the backward pass, to bound the memory
            LAST["evaluations"] = int(evaluations.sum())
        return torch.from_numpy(ctx.out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        width, height = ctx.size
        upstream = gradients[0].contiguous().numpy()
        _use_torch_threads()
        gradient = np.zeros((len(ctx.coefficients), COEFFICIENTS), np.float32)
        for band, (row0, row1) in enumerate(ctx.rows):
            lists: TileLists = ctx.lists[0] if ctx.lists else list_tiles(ctx.boxes, ctx.size, row0, row1)
            partials = np.zeros((len(lists.members), COEFFICIENTS), np.float32)
            columns = -(-width // TILE)
            with numba.parallel_chunksize(_CHUNKSIZE):
                composite_backward(
                    *(ctx.table, ctx.boxes, lists.starts, lists.members, lists.slots, row0, columns, width, height),
                    *(ctx.near, ctx.out, ctx.state, ctx.references[band], upstream, partials),
                )
            add_partials(partials, lists.firsts, ctx.order, gradient)
        divide_opacities(ctx.coefficients, gradient)
        return torch.from_numpy(gradient), None, None, None, None


_CHUNKSIZE = 8  # tiles handed to a thread at a time
LAST: dict[str, int] = {}


def _use_torch_threads() -> None:
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
