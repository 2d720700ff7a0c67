"""One function that renders surfels, with three engines behind it: dense torch, Numba on the CPU, gsplat on CUDA."""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core.surfels import Rendering, Surfels
from vision3d.core.transform import RigidTransform
from vision3d.recon.splat2d import twin
from vision3d.recon.splat2d.project import project_surfels

Engine = Literal["auto", "torch", "numba", "gsplat"]


def render_surfels(
    surfels: Surfels,
    cam_from_world: RigidTransform,
    intrinsics: Float[Tensor, " 4"],
    size: tuple[int, int],
    *,
    background: Float[Tensor, " 3"] | None = None,
    near: float | None = None,
    engine: Engine = "auto",
) -> Rendering:
    """The picture of width x height = `size` px that a pinhole camera takes, see `Rendering` for what it holds.

    intrinsics: fx, fy, cx, cy in px. background: a colour, black if None. near: surfels whose centre is nearer (in
    the scene's unit) are left out; None: a hundredth of the median depth in front of the camera. Colours below 0 are
    cut. The distortion assumes that surfels follow each other in a pixel as their centres do: where they cross, a
    pair counts negative. Gradients flow from every output to every surfel parameter, to rotation and translation of
    the pose, to the intrinsics (not with gsplat) and to the background.

    engine: "torch" (any dtype, dense, slow), "numba" (CPU, computes in float32), "gsplat" (CUDA); "auto" takes numba
    on the CPU, gsplat on CUDA where it is installed, else torch. No surfel in sight: background and alpha 0.
    ValueError for parameters that are not finite, negative scales, opacities outside [0, 1] and empty pictures.
    """
    _check(surfels, cam_from_world, intrinsics, size, background, near)
    if engine == "auto":
        engine = _best_engine(surfels.means.device)
    if engine == "gsplat":
        from vision3d.recon.splat2d.gsplat_engine import render_gsplat

        return render_gsplat(surfels, cam_from_world, intrinsics, size, background, near)
    if engine == "numba":
        from vision3d.recon.splat2d.numba_engine import render_layers

        layers = render_layers(surfels, cam_from_world, intrinsics, size, near)
    else:
        layers = twin.composite(project_surfels(surfels, cam_from_world, intrinsics, near), size)
    color = layers.color
    if background is not None:
        color = color + (1 - layers.alpha) * background[:, None, None]
    return Rendering(
        color=color,
        alpha=layers.alpha,
        depth=layers.depth,
        median_depth=layers.median_depth,
        normal=layers.normal,
        distortion=layers.distortion,
        color_variance=layers.color_variance,
    )


def _best_engine(device: torch.device) -> Literal["torch", "numba", "gsplat"]:
    if device.type == "cpu":
        return "numba"
    return "gsplat" if device.type == "cuda" and importlib.util.find_spec("gsplat") else "torch"


def _check(
    surfels: Surfels,
    cam_from_world: RigidTransform,
    intrinsics: Tensor,
    size: tuple[int, int],
    background: Tensor | None,
    near: float | None,
) -> None:
    if min(size) < 1:
        raise ValueError(f"a picture has at least 1 x 1 px, got {size[0]} x {size[1]}")
    if near is not None and not 0 <= near < float("inf"):
        raise ValueError(f"near must be a depth of 0 or more, got {near}")
    if not bool(torch.isfinite(intrinsics).all()) or not bool((intrinsics[:2] > 0).all()):
        raise ValueError(f"intrinsics must be finite with positive focal lengths, got {intrinsics.tolist()}")
    pose = torch.cat([cam_from_world.rotation.flatten(), cam_from_world.translation])
    if not bool(torch.isfinite(pose).all()):
        raise ValueError("cam_from_world has numbers that are not finite")
    if background is not None and not bool(torch.isfinite(background).all()):
        raise ValueError(f"background must be finite, got {background.tolist()}")
    for name in ("means", "quats", "scales", "opacities", "sh"):
        values: Tensor = getattr(surfels, name).detach()
        # The sum is finite only if every number is, unless it overflows: one pass over memory for the usual case.
        if bool(torch.isfinite(values.sum())):
            continue
        bad = (~torch.isfinite(values)).flatten(1).any(1) if values.ndim > 1 else ~torch.isfinite(values)
        if bool(bad.any()):
            _refuse(name, bad, "are not finite")
    scales, opacities = surfels.scales.detach(), surfels.opacities.detach()
    if len(scales) and float(scales.min()) < 0:
        _refuse("scales", (scales < 0).any(1), "are negative")
    if len(opacities) and (float(opacities.min()) < 0 or float(opacities.max()) > 1):
        _refuse("opacities", (opacities < 0) | (opacities > 1), "lie outside [0, 1]")


def _refuse(name: str, bad: Tensor, what: str) -> None:
    rows = bad.nonzero()[:, 0]
    shown = ", ".join(str(i) for i in rows[:5].tolist()) + (", ..." if len(rows) > 5 else "")
    raise ValueError(f"surfels.{name} of {len(rows)} of {len(bad)} surfels {what}: surfels {shown}")
