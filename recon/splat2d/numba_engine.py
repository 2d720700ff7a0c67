"""Rendering on the CPU: Numba kernels for projection, tile lists and compositing, one autograd function around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core.surfels import Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d.backward import add_partials, composite_backward
from vision3d.recon.splat2d.forward import CHANNELS, STATE, composite_forward
from vision3d.recon.splat2d.project import COEFFICIENTS
from vision3d.recon.splat2d.project_numba import Parameters, Projected, project, project_gradient
from vision3d.recon.splat2d.spherical_harmonics import COUNTS
from vision3d.recon.splat2d.tiles import TILE, TileLists, bands, list_tiles
from vision3d.recon.splat2d.twin import Composite
from vision3d.sparse.threads import use_torch_threads

TILES_AT_A_TIME = 8  # handed to a thread; what one thread works on lies close together


def render_layers(
    surfels: Surfels,
    cam_from_world: RigidTransform,
    intrinsics: Float[Tensor, " 4"],
    size: tuple[int, int],
    near: float | None = None,
) -> Composite:
    """As `twin.composite` of `project.project_surfels`, computed in float32, given in the means' type.

    The same result for any number of threads.
    """
    if surfels.sh.shape[1] not in COUNTS:
        raise ValueError(f"spherical harmonics have 1, 4, 9 or 16 coefficients, got {surfels.sh.shape[1]}")
    inputs = [surfels.means, surfels.quats, surfels.scales, surfels.opacities, surfels.sh]
    inputs += [cam_from_world.rotation, cam_from_world.translation, intrinsics]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    layers = _Render.apply(size, near, keep, *(tensor.float() for tensor in inputs))
    return Composite(*(layer.to(surfels.means.dtype) for layer in layers))


def count_evaluations(
    surfels: Surfels, cam_from_world: RigidTransform, intrinsics: Float[Tensor, " 4"], size: tuple[int, int]
) -> tuple[int, int]:
    """How many (pixel, surfel) pairs a rendering computes (strips of rows that a surfel's box touches, until full), and
    how many are listed (all pixels of a tile with each of its surfels, until the tile is full)."""
    inputs = [surfels.means, surfels.quats, surfels.scales, surfels.opacities, surfels.sh]
    inputs += [cam_from_world.rotation, cam_from_world.translation, intrinsics]
    return composite(project(_parameters(inputs), size, None), size, keep=False).evaluations


@dataclass(slots=True)
class Composited:
    """A picture, and what its backward pass needs. lists stays empty if the pairs are too many to keep: then each band
    of tile rows is listed again."""

    projected: Projected
    rows: list[tuple[int, int]]
    size: tuple[int, int]
    out: Float[np.ndarray, "11 h w"]
    state: Float[np.ndarray, "4 h2 w2"]
    references: list[Float[np.ndarray, " t"]] = field(default_factory=list)
    lists: list[TileLists] = field(default_factory=list)
    evaluations: tuple[int, int] = (0, 0)


def _parameters(inputs: list[Tensor]) -> Parameters:
    return Parameters(*(tensor.detach().float().contiguous().numpy() for tensor in inputs))


def composite(projected: Projected, size: tuple[int, int], keep: bool) -> Composited:
    """The picture; `keep` what its gradient needs."""
    width, height = size
    run = Composited(
        projected=projected,
        rows=bands(projected.boxes, size),
        size=size,
        out=np.empty((CHANNELS, height, width), np.float32),
        state=np.empty((STATE, height, width) if keep else (STATE, 0, 0), np.float32),
    )
    columns = -(-width // TILE)
    for row0, row1 in run.rows:
        lists = list_tiles(projected.boxes, size, row0, row1, with_slots=keep)
        tiles = len(lists.starts) - 1
        references, evaluations = np.empty(tiles, np.float32), np.empty((tiles, 2), np.int64)
        with numba.parallel_chunksize(TILES_AT_A_TIME):
            composite_forward(
                *(projected.table, projected.boxes, lists.starts, lists.members, row0, columns, width, height),
                *(projected.near, run.out, keep, run.state, references, evaluations),
            )
        run.references.append(references)
        computed, listed = evaluations.sum(0).tolist()
        run.evaluations = (run.evaluations[0] + computed, run.evaluations[1] + listed)
        if keep and len(run.rows) == 1:
            run.lists.append(lists)
    return run


class _Render(torch.autograd.Function):
    """The layers of a `Composite` from float32 parameters, in the order of `Parameters`."""

    @staticmethod
    def forward(ctx: Any, size: tuple[int, int], near: float | None, keep: bool, *inputs: Tensor) -> Any:
        use_torch_threads()
        parameters = _parameters(list(inputs))
        run = composite(project(parameters, size, near), size, keep)
        ctx.set_materialize_grads(False)
        ctx.kept = (parameters, run) if keep else None
        out = run.out
        return tuple(torch.from_numpy(a) for a in (out[0:3], out[3], out[4], out[5], out[6:9], out[9], out[10]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        use_torch_threads()
        parameters, run = ctx.kept
        (width, height), p = run.size, run.projected
        shapes = [(3, height, width) if i in (0, 4) else (height, width) for i in range(len(gradients))]
        upstream = [
            np.zeros(shape, np.float32) if given is None else given.contiguous().numpy()
            for given, shape in zip(gradients, shapes, strict=True)
        ]
        gradient = np.zeros((len(p.table), COEFFICIENTS), np.float32)
        for band, (row0, row1) in enumerate(run.rows):
            lists = run.lists[0] if run.lists else list_tiles(p.boxes, run.size, row0, row1, with_slots=True)
            partials = np.empty((len(lists.members), COEFFICIENTS), np.float32)
            columns = -(-width // TILE)
            with numba.parallel_chunksize(TILES_AT_A_TIME):
                composite_backward(
                    *(p.table, p.boxes, lists.starts, lists.members, lists.slots, row0, columns, width, height),
                    *(p.near, run.out, run.state, run.references[band], *upstream, partials),
                )
            add_partials(partials, lists.firsts, gradient)
        found = project_gradient(parameters, p, gradient)
        pose = (found.rotation, found.translation, found.intrinsics)
        fields = (found.means, found.quats, found.scales, found.opacities, found.sh, *pose)
        return None, None, None, *(torch.from_numpy(np.ascontiguousarray(a)) for a in fields)
