"""What the fitted surfels look like from every photo's camera: pictures, depth, and how far they are from the photo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch

from vision3d.core import Camera, DepthView, Progress, Rendering, RigidTransform, Surfels, View, Vision3DError, silent
from vision3d.io.atomic import atomic_directory
from vision3d.recon.fit_config import FitResult
from vision3d.recon.fit_surfels import intrinsics_of
from vision3d.recon.likeness import psnr, ssim
from vision3d.recon.report import view_pictures
from vision3d.recon.report.surface_data import RenderedView
from vision3d.recon.splat2d import render_surfels

SOLID = 0.5  # alpha from which a pixel has a surface


@dataclass(frozen=True, slots=True)
class RenderedPhoto:
    """A photo's pictures for the report, its depth map for fusion, and the mask of what counts where it is not all."""

    pictures: RenderedView
    depth: DepthView
    mask: np.ndarray | None


def render(surfels: Surfels, camera: Camera, cam_from_world: RigidTransform, background: Sequence[float]) -> Rendering:
    """A rendering without gradients; the camera has no distortion."""
    with torch.no_grad():
        return render_surfels(
            surfels,
            RigidTransform(cam_from_world.rotation.float(), cam_from_world.translation.float()),
            intrinsics_of(camera),
            (camera.width, camera.height),
            background=torch.tensor(background, dtype=torch.float32),
        )


def render_photos(
    fit: FitResult,
    views: Sequence[View],
    poses: Mapping[str, RigidTransform],
    held_out: frozenset[str],
    progress: Progress = silent,
) -> list[RenderedPhoto]:
    """Renders every view from `poses`; photos that were learned from with their exposure, held-out ones without.

    The depth maps hold the median depth, which fuses to a better surface than the expected one (2DGS, table 5).
    """
    rendered: list[tuple[View, Rendering]] = []
    for done, view in enumerate(views):
        progress("renders", done, len(views))
        rendering = render(fit.surfels, view.camera, poses[view.name], fit.background)
        rendered.append((view, rendering))
    limits = view_pictures.depth_limits([torch.where(r.alpha > SOLID, r.depth, 0.0) for _, r in rendered])
    found = []
    for view, rendering in rendered:
        gain, offset = (
            torch.tensor(values)[:, None, None]
            for values in fit.exposure.get(view.name, ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
        )
        shown = (rendering.color * gain + offset).clamp(0, 1)
        pictures = view_pictures.rendered_view(
            view,
            replace(rendering, color=shown),
            held_out=view.name in held_out,
            limits=limits,
            psnr=psnr(shown, view.rgb, view.mask),
            ssim=ssim(shown, view.rgb, view.mask),
        )
        solid = (rendering.alpha > SOLID) & view.mask
        depth = DepthView(
            view.name,
            view.camera,
            poses[view.name],
            torch.where(solid, rendering.median_depth, 0.0),
            ((view.rgb - offset) / gain).clamp(0, 1),
            torch.where(solid, rendering.alpha, 0.0),
        )
        mask = None if bool(view.mask.all()) else (view.mask.numpy() * 255).astype(np.uint8)
        found.append(RenderedPhoto(pictures, depth, mask))
    progress("renders", len(views), len(views))
    return found


def write_renders(folder: Path, photos: Sequence[RenderedPhoto]) -> None:
    """Writes renders/ with `heldout/` and `train/`: per photo render, photo, depth, normal, error and mask as PNG, and
    the depth in the scene's unit as `depth` in an npz. What was there is replaced as a whole."""
    stems = _stems([photo.depth.name for photo in photos])
    with atomic_directory(folder) as target:
        for photo, stem in zip(photos, stems, strict=True):
            part = target / ("heldout" if photo.pictures.held_out else "train")
            part.mkdir(exist_ok=True)
            for kind, picture in _pictures(photo):
                _write_png(part / f"{stem}_{kind}.png", picture)
            with (part / f"{stem}_depth.npz").open("wb") as file:
                np.savez_compressed(file, depth=photo.depth.depth.float().numpy())


def _pictures(photo: RenderedPhoto) -> Iterator[tuple[str, np.ndarray]]:
    for kind in ("render", "photo", "depth", "normal", "error"):
        picture = getattr(photo.pictures, kind)
        if isinstance(picture, np.ndarray):
            yield kind, picture
    if photo.mask is not None:
        yield "mask", photo.mask


def _stems(names: Sequence[str]) -> list[str]:
    """File names without their ending, folders joined by "_"; with the ending where two would be the same."""
    plain = ["_".join(PurePosixPath(name).with_suffix("").parts) for name in names]
    return [
        stem if plain.count(stem) == 1 else "_".join(PurePosixPath(name).parts)
        for stem, name in zip(plain, names, strict=True)
    ]


def _write_png(path: Path, picture: np.ndarray) -> None:
    written = picture[..., ::-1] if picture.ndim == 3 else picture
    if not cv2.imwrite(str(path), written):
        raise Vision3DError(f"cannot write {path}: is the disk full?")
