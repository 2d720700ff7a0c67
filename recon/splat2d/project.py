"""Surfels to coefficients in the image plane: a ray-splat intersection in 8 numbers (2DGS, SIGGRAPH 2024, section 4.2).

A ray d = ((x - cx) / fx, (y - cy) / fy, 1) meets the plane through p with normal n at z = n.p / d.n. In the surfel's
own axes, u = d.(tv x p) / (su d.n) and v = d.(p x tu) / (sv d.n). Both numerators vanish at the projected centre, so
with offsets from it, (dx, dy), every quantity is a ratio without cancellation over one denominator:
u = a.(dx, dy) / q, v = b.(dx, dy) / q, z = z0 / q, q = 1 + w.(dx, dy). Plain torch: autograd carries gradients on to
the surfels, the pose and the intrinsics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.core.surfels import Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d.spherical_harmonics import evaluate_sh

MIN_ALPHA = 1 / 255  # fainter contributions are skipped
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4  # a pixel with less light left takes no more surfels
MIN_DENOMINATOR = 1e-6  # below, a ray misses the plane (or meets it behind the camera)
LOW_PASS = 2.0  # the low-pass filter is exp(-0.5 * 2 * distance^2): a standard deviation of 0.71 px
NEAR_SHARE = 0.01  # default near plane, in median depths

EDGE_ON = 1e-3  # cosine between plane normal and ray below which only the low-pass filter draws a surfel
MIN_PX = 1e-4  # a smaller standard deviation, in px, draws the same picture
MAX_DEPTHS = 1e6  # so does a larger one, in distances to the camera
OUTSIDE = 1.01 * math.sqrt(LOW_PASS)  # rows (a, b) of this size always lose against the low-pass filter

COEFFICIENTS = 16


@dataclass(frozen=True, slots=True)
class Projection:
    """What compositing needs of n surfels, and where each can be seen.

    coefficients: x0, y0 (px), a (2), b (2), w (2) (1/px), z0, opacity, colour (3), normal in the camera facing it (3).
    bounds: x min, x max, y min, y max in px outside which alpha stays below MIN_ALPHA; empty (min > max) for those
    that no pixel sees. order: by depth of the centre, ties in the order given. near: nearest depth that is drawn.
    """

    coefficients: Float[Tensor, "n 16"]
    bounds: Float[Tensor, "n 4"]
    order: Int[Tensor, " n"]
    near: float


def project_surfels(
    surfels: Surfels, cam_from_world: RigidTransform, intrinsics: Float[Tensor, " 4"], near: float | None = None
) -> Projection:
    """Coefficients of every surfel; those behind `near` (None: a hundredth of the median depth) get empty bounds."""
    points = cam_from_world.apply(surfels.means)
    depths = points[:, 2].detach()
    if near is None:
        near = default_near(depths)
    front = depths > near
    p = torch.where(front[:, None], points, points.new_tensor([0.0, 0.0, 1.0]))
    distance = p.detach().norm(dim=-1)
    z = p[:, 2]
    focal, center = intrinsics[:2], intrinsics[2:]
    ray = p[:, :2] / z[:, None]
    pixel = ray * focal + center
    rotation = cam_from_world.rotation @ rotation_matrices(surfels.quats)
    tu, tv, n = rotation.unbind(-1)
    k = (n * p).sum(-1)
    seen_flat = k.detach().abs() > EDGE_ON * distance
    k_safe = torch.where(seen_flat, k, distance)
    smallest = MIN_PX * z.detach() / focal.detach().abs().amax()
    scales = torch.minimum(
        torch.maximum(surfels.scales, smallest[:, None]), torch.maximum(MAX_DEPTHS * distance, smallest)[:, None]
    )
    factor = z / k_safe
    a = torch.linalg.cross(tv, p)[:, :2] * (factor / scales[:, 0])[:, None] / focal
    b = torch.linalg.cross(p, tu)[:, :2] * (factor / scales[:, 1])[:, None] / focal
    w = n[:, :2] * factor[:, None] / focal
    a = torch.where(seen_flat[:, None], a, a.new_tensor([OUTSIDE, 0.0]))
    b = torch.where(seen_flat[:, None], b, b.new_tensor([0.0, OUTSIDE]))
    w = torch.where(seen_flat[:, None], w, torch.zeros_like(w))
    facing = torch.where(k.detach()[:, None] > 0, -n, n)
    colors = evaluate_sh(surfels.sh, surfels.means - cam_from_world.center()).clamp(min=0)
    columns = [pixel, a, b, w, z[:, None], surfels.opacities[:, None], colors, facing]
    coefficients = torch.cat(columns, dim=-1)
    with torch.no_grad():
        bounds = _bounds(pixel, ray, z, tu, tv, scales, focal, surfels.opacities, seen_flat, front)
    return Projection(coefficients, bounds, torch.argsort(depths, stable=True), near)


def default_near(depths: Float[Tensor, " n"]) -> float:
    """A hundredth of the median depth of what lies in front; 0 where nothing does."""
    ahead = depths[depths > 0]
    return NEAR_SHARE * float(ahead.median()) if len(ahead) else 0.0


def rotation_matrices(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Of quaternions wxyz of any length; a zero quaternion is the identity."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1, eps=1e-30).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def _bounds(
    pixel: Float[Tensor, "n 2"],
    ray: Float[Tensor, "n 2"],
    z: Float[Tensor, " n"],
    tu: Float[Tensor, "n 3"],
    tv: Float[Tensor, "n 3"],
    scales: Float[Tensor, "n 2"],
    focal: Float[Tensor, " 2"],
    opacities: Float[Tensor, " n"],
    seen_flat: Bool[Tensor, " n"],
    front: Bool[Tensor, " n"],
) -> Float[Tensor, "n 4"]:
    """Box around the projected disk on which opacity * G >= MIN_ALPHA, and around that of the low-pass filter.

    The disk of radius c projects to a conic; per axis its extreme offsets r solve (T3.T3) r^2 - 2 (T1.T3) r + T1.T1 = 0
    with the product x.y = c^2 (x1 y1 + x2 y2) - x3 y3, T1 and T3 the rows of the homography to (r z, z). T3.T3 >= 0
    means that the disk reaches behind the camera: unbounded.
    """
    c2 = 2 * torch.log((opacities / MIN_ALPHA).clamp(min=1))
    axes = torch.stack([tu, tv], dim=-1) * scales[:, None, :]  # [n 3 2]
    t1 = (axes[:, :2] - ray[:, :, None] * axes[:, 2:]) * focal[:, None]  # [n 2 2]: image axis, surfel axis
    t3 = axes[:, 2]
    t33 = c2 * (t3 * t3).sum(-1) / (z * z) - 1
    t13 = c2[:, None] * (t1 * t3[:, None]).sum(-1) / (z * z)[:, None]
    t11 = c2[:, None] * (t1 * t1).sum(-1) / (z * z)[:, None]
    bounded = t33 < -1e-4
    root = (t13 * t13 - t11 * t33[:, None]).clamp(min=0).sqrt()
    divisor = torch.where(bounded, -t33, torch.ones_like(t33))[:, None]
    low, high = (-t13 - root) / divisor, (-t13 + root) / divisor
    low = torch.where(seen_flat[:, None], torch.where(bounded[:, None], low, -torch.inf), 0.0)
    high = torch.where(seen_flat[:, None], torch.where(bounded[:, None], high, torch.inf), 0.0)
    disk = (c2 / LOW_PASS).sqrt()[:, None]
    low, high = torch.minimum(low, -disk), torch.maximum(high, disk)
    margin = 0.01 + 1e-3 * (high - low).clamp(max=1e9)
    low, high = pixel + low - margin, pixel + high + margin
    bounds = torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], dim=-1)
    drawn = front & (opacities >= MIN_ALPHA)
    return torch.where(drawn[:, None], bounds, bounds.new_tensor([torch.inf, -torch.inf, torch.inf, -torch.inf]))
