"""`project_surfels` on the CPU in Numba, as one autograd function: one pass over memory instead of torch's many."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vision3d.core.surfels import Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d.project import COEFFICIENTS, Projection, default_near
from vision3d.recon.splat2d.project_kernels import BLOCKS, SHARED, project_backward, project_forward
from vision3d.recon.splat2d.spherical_harmonics import COUNTS


def project_surfels_numba(
    surfels: Surfels, cam_from_world: RigidTransform, intrinsics: Float[Tensor, " 4"], near: float | None = None
) -> Projection:
    """As `project.project_surfels`, in float32."""
    if surfels.sh.shape[1] not in COUNTS:
        raise ValueError(f"spherical harmonics have 1, 4, 9 or 16 coefficients, got {surfels.sh.shape[1]}")
    rotation, translation = cam_from_world.rotation, cam_from_world.translation
    depths = (surfels.means.detach() @ rotation.detach()[2] + translation.detach()[2]).float()
    if near is None:
        near = default_near(depths)
    fields = (surfels.means, surfels.quats, surfels.scales, surfels.opacities, surfels.sh)
    coefficients, bounds = _Project.apply(*(f.float() for f in (*fields, rotation, translation, intrinsics)), near)
    return Projection(coefficients, bounds, _depth_order(depths), near)


def _depth_order(depths: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Front to back, ties in the order given: one sort of the float's bits (in order where positive) over the index."""
    bits = depths.clamp(min=0).numpy().view(np.uint32).astype(np.uint64)
    keys = np.sort((bits << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64))
    return torch.from_numpy((keys & np.uint64(0xFFFFFFFF)).astype(np.int64))


class _Project(torch.autograd.Function):
    """Coefficients [n 16] and bounds [n 4] from float32 parameters; bounds carry no gradient."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, near = inputs
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
        means, quats, scales, opacities, sh, rotation, translation, intrinsics = arrays
        center = -(rotation.T @ translation)
        rows, bounds = np.empty((len(means), COEFFICIENTS), np.float32), np.empty((len(means), 4), np.float32)
        project_forward(
            *(means, quats, scales, opacities, sh, rotation, translation, intrinsics, center, np.float32(near)),
            *(rows, bounds),
        )
        ctx.kept = (means, quats, scales, sh, rotation, translation, intrinsics, center, np.float32(near), rows)
        out, box = torch.from_numpy(rows), torch.from_numpy(bounds)
        ctx.mark_non_differentiable(box)
        return out, box

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        means, quats, scales, sh = ctx.kept[:4]
        gradients = [np.zeros_like(a) for a in (means, quats, scales, np.empty(len(means), np.float32), sh)]
        shared = np.zeros((BLOCKS, SHARED))
        project_backward(*ctx.kept, upstream[0].contiguous().numpy(), *gradients, shared)
        total = shared.sum(0).astype(np.float32)
        pose = (total[:9].reshape(3, 3), total[9:12], total[12:16])
        return *(torch.from_numpy(np.ascontiguousarray(a)) for a in (*gradients, *pose)), None
