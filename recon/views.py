"""Undistorted, resized photos of a scene with their pinhole cameras: what stereo, splatting and fusion work on."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from vision3d.core import Camera, Progress, Scene, View, silent
from vision3d.data.photos import PhotoInfo, load_mask, load_photo


def load_views(
    scene: Scene, photos: Sequence[PhotoInfo], max_size: int, progress: Progress = silent, masks: bool = True
) -> list[View]:
    """The registered photos, undistorted, with the longer side at most `max_size` px.

    The pinhole camera keeps the photo's focal lengths and principal point, so the middle of the picture stays where it
    is and borders are cut or, where the lens pulled them in, masked out.
    """
    registered = [photo for photo in photos if photo.name in scene.images]
    views = []
    for done, photo in enumerate(registered):
        progress("views", done, len(registered))
        image = load_photo(photo.path, max_size, photo.name)
        width, height = image.size
        camera = scene.camera_of(photo.name).resized(width, height)
        pinhole = Camera(width, height, camera.focal, camera.center)
        mask = torch.ones(height, width, dtype=torch.bool)
        if masks and photo.mask is not None:
            mask = load_mask(photo.mask, photo.size)
            mask = torch.from_numpy(_resized(mask.numpy(), width, height))
        rgb = image.rgb
        if any(camera.distortion):
            source = _source_pixels(camera, pinhole)
            rgb = torch.from_numpy(_sampled(rgb.permute(1, 2, 0).numpy(), source)).permute(2, 0, 1).contiguous()
            shown = _sampled(mask.numpy().astype(np.float32), source, outside=0.0) > 0.5
            mask = torch.from_numpy(shown)
        pose = scene.images[photo.name].cam_from_world
        views.append(View(photo.name, pinhole, pose, rgb.clamp(0, 1), mask))
    progress("views", len(registered), len(registered))
    return views


def shrunk(view: View, factor: float) -> View:
    """The view at `factor` times its size (factor <= 1), by area averaging; a mask pixel needs all of its area."""
    if factor >= 1:
        return view
    width = max(1, round(view.camera.width * factor))
    height = max(1, round(view.camera.height * factor))
    rgb = cv2.resize(view.rgb.permute(1, 2, 0).numpy(), (width, height), interpolation=cv2.INTER_AREA)
    mask = _resized(view.mask.numpy(), width, height)
    return View(
        view.name,
        view.camera.resized(width, height),
        view.cam_from_world,
        torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))).clamp(0, 1),
        torch.from_numpy(mask),
    )


def _resized(mask: np.ndarray, width: int, height: int) -> np.ndarray:
    if mask.shape == (height, width):
        return mask
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(share > 0.99)


def _source_pixels(camera: Camera, pinhole: Camera) -> np.ndarray:
    """Where each pixel of the pinhole picture lies in the distorted one, in OpenCV's px (first centre at 0)."""
    y, x = torch.meshgrid(
        torch.arange(pinhole.height, dtype=torch.float64) + 0.5,
        torch.arange(pinhole.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    rays = pinhole.unproject(torch.stack([x, y], dim=-1))
    pixels, _ = camera.project(torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1))
    return (pixels - 0.5).numpy().astype(np.float32)


def _sampled(picture: np.ndarray, source: np.ndarray, outside: float | None = None) -> np.ndarray:
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    return np.asarray(cv2.remap(picture, source, None, cv2.INTER_LINEAR, borderMode=border, borderValue=outside or 0.0))
