"""Normal consistency, distortion and colour variance of a rendering, with gradients, in two passes over its pixels.

The twin in plain torch are the functions of these names in fit_losses.py, which say where they come from.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float
from numba import njit, prange
from torch import Tensor

from vision3d.core import Rendering
from vision3d.recon.fit_losses import SOLID, color_variance, distortion, normal_consistency

_OPTIONS = {"cache": True, "parallel": True, "error_model": "numpy"}


def geometry_losses(
    rendering: Rendering, ray: Float[Tensor, "3 h w"], mask: Bool[Tensor, "h w"]
) -> Float[Tensor, " 3"]:
    """(normal consistency, distortion, colour variance), differentiable with respect to the rendering.

    ray: directions (x/z, y/z, 1) of the pixels. Numba on the CPU in float32, else the twin.
    """
    if rendering.depth.device.type != "cpu" or rendering.depth.dtype != torch.float32:
        return torch.stack(
            [
                normal_consistency(rendering, ray, mask),
                distortion(rendering, mask),
                color_variance(rendering, mask),
            ]
        )
    losses: Tensor = _GeometryLosses.apply(
        rendering.alpha, rendering.depth, rendering.normal, rendering.distortion, rendering.color_variance, ray, mask
    )
    return losses


class _GeometryLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        alpha: Tensor,
        depth: Tensor,
        normal: Tensor,
        spread: Tensor,
        variance: Tensor,
        ray: Tensor,
        mask: Tensor,
    ) -> Tensor:
        h, w = depth.shape
        arrays = [t.detach().contiguous().numpy() for t in (alpha, depth, normal, spread, variance, ray, mask)]
        sums = np.zeros((h, 6))
        # Gradients before division by the counts: alpha, distortion, variance, normal, and of the two differences of
        # points, from which that of the depth is gathered.
        scalar = np.zeros((3, h, w), np.float32)
        vector = np.zeros((3, h, w), np.float32)
        across, down = np.zeros((3, h, w), np.float32), np.zeros((3, h, w), np.float32)
        _losses(*arrays, np.float32(SOLID), sums, scalar, vector, across, down)
        total = sums.sum(axis=0)
        counts = np.maximum(total[3:], 1)
        depth_gradient = np.zeros((h, w), np.float32)
        _gather(arrays[5], across, down, depth_gradient)
        ctx.gradients = (scalar, vector, depth_gradient, counts)
        return torch.from_numpy((total[:3] / counts).astype(np.float32))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scalar, vector, depth, counts = ctx.gradients
        normal, spread, variance = (float(g) / float(c) for g, c in zip(gradients[0], counts, strict=True))
        return (
            torch.from_numpy(scalar[0]) * normal,
            torch.from_numpy(depth) * normal,
            torch.from_numpy(vector) * normal,
            torch.from_numpy(scalar[1]) * spread,
            torch.from_numpy(scalar[2]) * variance,
            None,
            None,
        )


@njit(**_OPTIONS)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the shape checks of tests have wrapped
def _losses(
    alpha, depth, normal, spread, variance, ray, mask, solid, sums, scalar, vector, across, down
):  # pragma: no cover (compiled)
    """Per row: sums of the three losses and their counts; see forward for the gradients."""
    h, w = depth.shape
    for y in prange(h):
        for x in range(w):
            if not mask[y, x]:
                continue
            sums[y, 5] += 1
            value = variance[y, x]
            if value < 1:
                sums[y, 2] += value
                scalar[2, y, x] = 1
            else:
                sums[y, 2] += 1
            if depth[y, x] > 0:
                sums[y, 4] += 1
                sums[y, 1] += spread[y, x] / depth[y, x]
                scalar[1, y, x] = 1 / depth[y, x]
            if y == 0 or x == 0 or y == h - 1 or x == w - 1 or alpha[y, x] <= solid:
                continue
            left, right, above, below = depth[y, x - 1], depth[y, x + 1], depth[y - 1, x], depth[y + 1, x]
            if not (left > 0 and right > 0 and above > 0 and below > 0):
                continue
            ax = right * ray[0, y, x + 1] - left * ray[0, y, x - 1]
            ay = right * ray[1, y, x + 1] - left * ray[1, y, x - 1]
            az = right * ray[2, y, x + 1] - left * ray[2, y, x - 1]
            dx = below * ray[0, y + 1, x] - above * ray[0, y - 1, x]
            dy = below * ray[1, y + 1, x] - above * ray[1, y - 1, x]
            dz = below * ray[2, y + 1, x] - above * ray[2, y - 1, x]
            cx, cy, cz = dy * az - dz * ay, dz * ax - dx * az, dx * ay - dy * ax
            length = np.sqrt(cx * cx + cy * cy + cz * cz)
            if length == 0:
                continue
            nx, ny, nz = cx / length, cy / length, cz / length
            rx, ry, rz = normal[0, y, x], normal[1, y, x], normal[2, y, x]
            dot = rx * nx + ry * ny + rz * nz
            sums[y, 3] += 1
            sums[y, 0] += alpha[y, x] - dot
            scalar[0, y, x] = 1
            vector[0, y, x], vector[1, y, x], vector[2, y, x] = -nx, -ny, -nz
            gx, gy, gz = (dot * nx - rx) / length, (dot * ny - ry) / length, (dot * nz - rz) / length
            across[0, y, x] = gy * dz - gz * dy
            across[1, y, x] = gz * dx - gx * dz
            across[2, y, x] = gx * dy - gy * dx
            down[0, y, x] = ay * gz - az * gy
            down[1, y, x] = az * gx - ax * gz
            down[2, y, x] = ax * gy - ay * gx


@njit(**_OPTIONS)  # type: ignore[untyped-decorator, unused-ignore]
@no_type_check  # Numba compiles the bare function, not one that the shape checks of tests have wrapped
def _gather(ray, across, down, out):  # pragma: no cover (compiled)
    """Gradient of the depth: each depth is in the differences of its four neighbours."""
    h, w = out.shape
    for y in prange(h):
        for x in range(w):
            total = np.float32(0)
            for c in range(3):
                g = np.float32(0)
                if x > 0:
                    g += across[c, y, x - 1]
                if x < w - 1:
                    g -= across[c, y, x + 1]
                if y > 0:
                    g += down[c, y - 1, x]
                if y < h - 1:
                    g -= down[c, y + 1, x]
                total += g * ray[c, y, x]
            out[y, x] = total
