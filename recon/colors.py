"""Colours of reconstructed points, sampled from the photos that see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from vision3d.core import Progress, Scene, silent
from vision3d.data.photos import PhotoInfo, load_photo


def colored(scene: Scene, photos: Sequence[PhotoInfo], max_size: int, progress: Progress = silent) -> Scene:
    """The scene with each point in the mean colour of its observations (bilinear); one photo in memory at a time.

    max_size: longer side in px at which photos are read. Points that no photo observes stay grey.
    """
    total = torch.zeros(len(scene.points), 3, dtype=torch.float64)
    count = torch.zeros(len(scene.points), dtype=torch.float64)
    used = [p for p in photos if p.name in scene.images]
    progress("colours", 0, len(used))
    for done, photo in enumerate(used, start=1):
        if photo.name in scene.tracks.images:
            seen = scene.tracks.image == scene.tracks.images.index(photo.name)
            image = load_photo(photo.path, max_size, photo.name)
            width, height = image.size
            xy = image.from_original(scene.tracks.xy[seen])
            grid = (2 * xy / xy.new_tensor([width, height]) - 1)[None, None]
            sampled = torch.nn.functional.grid_sample(
                image.rgb.double()[None], grid, padding_mode="border", align_corners=False
            )[0, :, 0].T
            total.index_add_(0, scene.tracks.point[seen], sampled)
            count.index_add_(0, scene.tracks.point[seen], torch.ones(len(sampled), dtype=torch.float64))
        progress("colours", done, len(used))
    mean = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], torch.full_like(total, 0.5))
    return replace(scene, colors=(mean * 255).round().clamp(0, 255).to(torch.uint8))
