"""Compositing on the CPU: Numba kernels over tile lists, one autograd function around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.recon.splat2d.backward import add_partials, composite_backward, divide_opacities
from vision3d.recon.splat2d.forward import CHANNELS, STATE, composite_forward
from vision3d.recon.splat2d.project import COEFFICIENTS, Projection
from vision3d.recon.splat2d.tile_memory import prepare
from vision3d.recon.splat2d.tiles import TILE, TileLists, bands, list_tiles, pixel_boxes
from vision3d.recon.splat2d.twin import Composite

TILES_AT_A_TIME = 8  # handed to a thread; what one thread works on lies close together


def composite(projection: Projection, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Composite:
    """As `twin.composite`, computed in float32 and given as `dtype`. The same result for any number of threads."""
    out: Tensor = _Composite.apply(projection.coefficients.float(), projection, size)
    return Composite.from_channels(out.to(dtype))


def count_evaluations(projection: Projection, size: tuple[int, int]) -> int:
    """How many (pixel, surfel) pairs `composite` computes: rows of tiles that a surfel touches, until full."""
    return _run_forward(projection.coefficients.detach().float(), projection, size).evaluations


@dataclass(slots=True)
class _Forward:
    """A picture, and what its backward pass needs. order holds only surfels in sight; lists stays empty if the pairs
    are too many to keep: then each band of tile rows is listed again."""

    coefficients: Float[np.ndarray, "n 16"]
    order: Int[np.ndarray, " m"]
    boxes: Int[np.ndarray, "m 4"]
    table: Float[np.ndarray, "m 16"]
    rows: list[tuple[int, int]]
    near: np.float32
    size: tuple[int, int]
    out: Float[np.ndarray, "11 h w"]
    state: Float[np.ndarray, "4 h w"]
    references: list[Float[np.ndarray, " t"]] = field(default_factory=list)
    lists: list[TileLists] = field(default_factory=list)
    evaluations: int = 0


def _run_forward(coefficients: Tensor, projection: Projection, size: tuple[int, int]) -> _Forward:
    width, height = size
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    boxes = pixel_boxes(projection.bounds[projection.order].float().contiguous().numpy(), size)
    seen = boxes[:, 1] >= boxes[:, 0]
    run = _Forward(
        coefficients=coefficients.detach().contiguous().numpy(),
        order=projection.order.numpy()[seen],
        boxes=boxes[seen],
        table=torch.empty(int(seen.sum()), COEFFICIENTS, dtype=torch.float32).numpy(),  # torch aligns to cache lines
        rows=[],
        near=np.float32(projection.near),
        size=size,
        out=np.zeros((CHANNELS, height, width), np.float32),
        state=np.empty((STATE, height, width), np.float32),
    )
    prepare(run.coefficients, run.order, run.table)
    run.rows = bands(run.boxes, size)
    columns = -(-width // TILE)
    for row0, row1 in run.rows:
        lists = list_tiles(run.boxes, size, row0, row1)
        tiles = len(lists.starts) - 1
        references, evaluations = np.empty(tiles, np.float32), np.empty(tiles, np.int64)
        with numba.parallel_chunksize(TILES_AT_A_TIME):
            composite_forward(
                *(run.table, run.boxes, lists.starts, lists.members, row0, columns, width, height, run.near),
                *(run.out, run.state, references, evaluations),
            )
        run.references.append(references)
        run.evaluations += int(evaluations.sum())
        if len(run.rows) == 1:
            run.lists.append(lists)
    return run


class _Composite(torch.autograd.Function):
    """Channels [11 h w] from coefficients [n 16]; everything else is constant."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, projection: Projection, size: tuple[int, int]) -> Tensor:
        ctx.run = _run_forward(coefficients, projection, size)
        return torch.from_numpy(ctx.run.out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        run: _Forward = ctx.run
        width, height = run.size
        upstream = gradients[0].contiguous().numpy()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        gradient = np.zeros((len(run.coefficients), COEFFICIENTS), np.float32)
        for band, (row0, row1) in enumerate(run.rows):
            lists = run.lists[0] if run.lists else list_tiles(run.boxes, run.size, row0, row1)
            partials = np.zeros((len(lists.members), COEFFICIENTS), np.float32)
            columns = -(-width // TILE)
            with numba.parallel_chunksize(TILES_AT_A_TIME):
                composite_backward(
                    *(run.table, run.boxes, lists.starts, lists.members, lists.slots, row0, columns, width, height),
                    *(run.near, run.out, run.state, run.references[band], upstream, partials),
                )
            add_partials(partials, lists.firsts, run.order, gradient)
        divide_opacities(run.coefficients, gradient)
        return torch.from_numpy(gradient), None, None
