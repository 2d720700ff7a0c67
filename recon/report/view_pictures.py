"""Pictures of what surfels look like from a camera: colour, depth, normals, and how far they are from the photo.

Depth is coloured by inverse depth (Turbo, Mikhailov 2019: warm is near), normals as RGB (x right, y up, z towards the
viewer), errors by their absolute size on a fixed scale. What is unknown is grey.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vision3d.core import Rendering, View
from vision3d.recon.report.surface_data import RenderedView

UNKNOWN = (110, 112, 116)
ERROR_TOP = 0.25  # difference, of colours in 0 to 1, that the brightest colour of an error map stands for
SOLID = 0.5  # alpha from which a pixel has a depth and a normal
LEGEND_HEIGHT = 26  # px


def rgb_picture(color: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours in 0 to 1 as bytes; NaN is black."""
    values = torch.nan_to_num(color.detach(), 0.0, 1.0, 0.0).clamp(0, 1)
    return np.ascontiguousarray((values * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def depth_limits(depths: Iterable[Float[Tensor, "_h _w"]]) -> tuple[float, float] | None:
    """Nearest and farthest depth (2nd and 98th percentile) of all known pixels together, None if none is known.

    Use one pair for all views of a scene, so that their colours can be compared.
    """
    known = [d.detach()[torch.isfinite(d) & (d > 0)].flatten() for d in depths]
    thinned = [d[:: max(1, len(d) // 50_000)].double().cpu().numpy() for d in known if len(d)]
    if not thinned:
        return None
    near, far = np.percentile(np.concatenate(thinned), [2, 98])
    return float(near), float(far)


def depth_picture(depth: Float[Tensor, "h w"], limits: tuple[float, float] | None) -> UInt8[np.ndarray, "h w 3"]:
    """Turbo colours, linear in inverse depth between the limits; grey where depth is 0, less, or not finite."""
    values = depth.detach().double().cpu().numpy()
    known = np.isfinite(values) & (values > 0)
    if limits is None:
        known[:] = False
        limits = (1.0, 1.0)
    near, far = (1 / max(limit, 1e-300) for limit in limits)
    share = (1 / np.where(known, values, 1.0) - far) / max(near - far, 1e-9 * near)
    return _grey_where(~known, _colored(share, cv2.COLORMAP_TURBO))


def normal_picture(
    normal: Float[Tensor, "3 h w"], known: Bool[Tensor, "h w"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Normals of the camera frame (y down, z forward; any length) as RGB; grey where they are 0, NaN, or not known."""
    values = normal.detach().double().permute(1, 2, 0).cpu().numpy() * (1.0, -1.0, -1.0)
    length = np.linalg.norm(values, axis=2)
    missing = ~(np.isfinite(length) & (length > 1e-9))
    if known is not None:
        missing |= ~known.cpu().numpy()
    unit = np.where(missing[..., None], 0.0, values) / np.where(missing, 1.0, length)[..., None]
    return _grey_where(missing, np.rint((unit + 1) * 127.5).astype(np.uint8))


def error_picture(
    photo: Float[Tensor, "3 h w"], render: Float[Tensor, "3 h w"], known: Bool[Tensor, "h w"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Absolute difference, averaged over channels, black at 0 and pale yellow at ERROR_TOP and more."""
    difference = (photo.detach() - render.detach()).abs().mean(dim=0).double().cpu().numpy()
    missing = ~np.isfinite(difference)
    if known is not None:
        missing |= ~known.cpu().numpy()
    return _grey_where(missing, _colored(np.where(missing, 0.0, difference) / ERROR_TOP, cv2.COLORMAP_INFERNO))


def rendered_view(
    view: View,
    rendering: Rendering,
    *,
    held_out: bool,
    limits: tuple[float, float] | None,
    psnr: float | None = None,
    ssim: float | None = None,
) -> RenderedView:
    """All pictures of a view and its rendering; limits: see `depth_limits`. ValueError if their sizes differ."""
    if view.rgb.shape != rendering.color.shape:
        raise ValueError(f"the rendering of {view.name} is {_size(rendering.color)} px, the photo {_size(view.rgb)}")
    solid = rendering.alpha.detach() >= SOLID
    depth = torch.where(solid, rendering.depth.detach(), 0.0)
    return RenderedView(
        name=view.name,
        held_out=held_out,
        photo=rgb_picture(view.rgb),
        render=rgb_picture(rendering.color),
        depth=depth_picture(depth, limits),
        normal=normal_picture(rendering.normal, solid),
        error=error_picture(view.rgb, rendering.color, view.mask),
        depth_limits=limits,
        psnr=psnr,
        ssim=ssim,
    )


def ramp(kind: str, steps: int = 17) -> list[tuple[int, int, int]]:
    """Colours from left to right of the legend of "depth" (near to far) or "error" (0 to ERROR_TOP)."""
    share = np.linspace(0, 1, steps)[None]
    colors = _colored(1 - share, cv2.COLORMAP_TURBO) if kind == "depth" else _colored(share, cv2.COLORMAP_INFERNO)
    return [(int(r), int(g), int(b)) for r, g, b in colors[0]]


def with_legend(picture: UInt8[np.ndarray, "h w 3"], kind: str, low: str, high: str) -> UInt8[np.ndarray, "h2 w 3"]:
    """The picture with a legend below, for files that stand alone: the ramp of `kind` between two ASCII labels."""
    width = picture.shape[1]
    strip = np.full((LEGEND_HEIGHT, width, 3), 24, np.uint8)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    left, right = (cv2.getTextSize(words, font, size, 1)[0][0] + 16 for words in (low, high))
    if width - left - right > 20:
        colors = np.array(ramp(kind, width - left - right), np.uint8)
        strip[8:-8, left : width - right] = colors
    for words, x in ((low, 8), (high, width - right + 8)):
        cv2.putText(strip, words, (x, LEGEND_HEIGHT - 9), font, size, (230, 230, 228), 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])


def _size(color: Float[Tensor, "3 _h _w"]) -> str:
    return f"{color.shape[2]} x {color.shape[1]}"


def _colored(share: Float[np.ndarray, "h w"], table: int) -> UInt8[np.ndarray, "h w 3"]:
    steps = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(steps, table)[..., ::-1])


def _grey_where(missing: Bool[np.ndarray, "h w"], picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    picture[missing] = UNKNOWN
    return picture
