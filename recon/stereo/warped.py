"""Depth maps from the dense warps of a matcher between neighbouring views: every pixel triangulated, sources fused.

Kotovenko et al., "EDGS", 2025, section 3.2 (dense matches, reprojection error as the test); what is kept in the end is
decided by consistency.py, as for our own stereo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Camera, Image, Progress, View, Warp, silent
from vision3d.matching.base import DenseMatcher
from vision3d.recon.stereo.completion import depth_normals
from vision3d.recon.stereo.patchmatch import PlaneMap, pixel_camera

MAX_ERROR_PX = 2.0  # distance of a match from the epipolar line
MIN_ANGLE_DEG = 1.0
MIN_CERTAINTY = 0.05
AGREE = 0.01  # relative difference of depths that support each other


@dataclass(frozen=True, slots=True)
class _Depth:
    """Of one view from one source: depth (z, 0 where there is none) and the warp's certainty there."""

    depth: Float[Tensor, "h w"]
    certainty: Float[Tensor, "h w"]


def warped_planes(
    views: Sequence[View], sources: Sequence[Sequence[int]], matcher: DenseMatcher, progress: Progress = silent
) -> list[PlaneMap]:
    """Depth and normal of every pixel of each view; cost is one less the certainty.

    Each pair is warped once, both ways. A depth counts if it lies in front of both cameras, reprojects within 2 px of
    its match, and its rays are 1 degree apart; of several sources those that agree within 1 % are averaged.
    """
    images = [Image(view.rgb, view.name, (view.camera.width, view.camera.height)) for view in views]
    pairs = sorted({(min(i, j), max(i, j)) for i, theirs in enumerate(sources) for j in theirs})
    found: list[list[_Depth]] = [[] for _ in views]
    progress("warping views", 0, len(pairs))
    for done, (i, j) in enumerate(pairs):
        there, back = matcher.warp(images[i], images[j])
        if j in sources[i]:
            found[i].append(triangulate_warp(views[i], views[j], there))
        if i in sources[j]:
            found[j].append(triangulate_warp(views[j], views[i], back))
        progress("warping views", done + 1, len(pairs))
    return [_fused(view, depths) for view, depths in zip(views, found, strict=True)]


def triangulate_warp(view: View, other: View, warp: Warp) -> _Depth:
    """Depth of each pixel of `view` from where the warp (px of both views, by `original_from_grid`) puts it."""
    target, certainty = _at_pixels(warp, view.camera)
    moved = other.cam_from_world @ view.cam_from_world.inverse()
    pixels = _pixel_centers(view.camera)
    ray = (
        F.pad(view.camera.unproject(pixels), (0, 1), value=1.0) @ moved.rotation.double().mT
    )  # of depth 1, in the other's frame
    q = other.camera.unproject(target)
    t = moved.translation.double()
    # q ~ z ray + t, least squares over both coordinates
    u = ray[..., :2] - q * ray[..., 2:]
    v = q * t[2] - t[:2]
    depth = (u * v).sum(-1) / (u * u).sum(-1).clamp(min=1e-30)
    point = depth[..., None] * ray + t
    shown, front = other.camera.project(point)
    toward = F.pad(q, (0, 1), value=1.0)
    cosine = F.cosine_similarity(ray, toward, dim=-1)
    inside = ((target >= 0) & (target <= target.new_tensor([other.camera.width, other.camera.height]))).all(-1)
    sound = front & (depth > 0) & inside & view.mask & (certainty > MIN_CERTAINTY) & torch.isfinite(depth)
    sound &= ((shown - target).norm(dim=-1) < MAX_ERROR_PX) & (cosine < np.cos(np.radians(MIN_ANGLE_DEG)))
    zero = torch.zeros_like(depth)
    return _Depth(torch.where(sound, depth, zero), torch.where(sound, certainty.clamp(max=1), zero))


def _at_pixels(warp: Warp, camera: Camera) -> tuple[Float[Tensor, "h w 2"], Float[Tensor, "h w"]]:
    """Target (px of the other view) and certainty of the warp at the centres of a view's pixels."""
    height, width = warp.certainty.shape
    (sx, sy), scale1 = warp.original_from_grid
    grid = _pixel_centers(camera) / torch.tensor([sx * width, sy * height]).double() * 2 - 1
    maps = torch.cat([warp.target.permute(2, 0, 1), warp.certainty[None]])[None].double()
    read = F.grid_sample(maps, grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    between = (grid.abs() <= 1 - 1 / torch.tensor([width, height]).double() + 1e-9).all(-1)  # centres of the grid
    return read[:2].permute(1, 2, 0) * torch.tensor(scale1).double(), read[2] * between


def _fused(view: View, depths: Sequence[_Depth]) -> PlaneMap:
    shape = (view.camera.height, view.camera.width)
    if not depths:
        return PlaneMap(np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32), np.full(shape, 1.2, np.float32))
    z, sure = (torch.stack([getattr(d, name) for d in depths]) for name in ("depth", "certainty"))
    inverse = torch.where(z > 0, 1 / z.clamp(min=1e-30), 0)
    agree = (inverse[:, None] - inverse[None]).abs() <= AGREE * inverse[:, None]  # [candidate, supporter]
    weight = agree * sure[None]
    best = weight.sum(1).argmax(0, keepdim=True)
    chosen = weight.gather(0, best[:, None].expand(1, len(depths), *shape))[0]
    total = chosen.sum(0)
    mean = (chosen * inverse).sum(0) / total.clamp(min=1e-30)
    depth = torch.where((total > 0) & (mean > 0), 1 / mean.clamp(min=1e-30), 0).numpy().astype(np.float32)
    cost = np.where(depth > 0, 1 - chosen.amax(0).numpy(), 1.2).astype(np.float32)
    return PlaneMap(depth, _normals(view, depth), cost)


def _normals(view: View, depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """From differences of depth; towards the camera where the depth or one beside it is not known."""
    camera = pixel_camera(view.camera)
    ray = F.pad(view.camera.unproject(_pixel_centers(view.camera)), (0, 1), value=1.0)
    facing = -(ray / ray.norm(dim=-1, keepdim=True)).numpy()
    known = depth > 0
    whole = np.zeros(known.shape, bool)
    whole[1:-1, 1:-1] = known[1:-1, 2:] & known[1:-1, :-2] & known[2:, 1:-1] & known[:-2, 1:-1]
    if not whole.any():
        return np.asarray(facing, np.float32)
    filled = np.where(known, depth, np.median(depth[known])).astype(np.float32)
    return np.where(whole[..., None], depth_normals(filled, camera), facing).astype(np.float32)


def _pixel_centers(camera: Camera) -> Float[Tensor, "h w 2"]:
    x = torch.arange(camera.width, dtype=torch.float64) + 0.5
    y = torch.arange(camera.height, dtype=torch.float64) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
