"""Writes rendered pairs as files: pictures, depth, and the true cameras in the layout of `vision3d evaluate pairs`.

DIR/00000/{0.png, 1.png, depth_0.png, depth_1.png, gt.json}; depth in millimetres, 16 bits, 0 where nothing is.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from vision3d.core import Progress, silent
from vision3d.data.rendered.rooms import RenderedRooms, RenderedRoomsConfig, claim_folder, pose_of
from vision3d.io.atomic import atomic_write_bytes, atomic_write_json


def write_pair_folder(folder: Path, config: RenderedRoomsConfig, progress: Progress = silent) -> tuple[int, int]:
    """One pair of every scene; pairs that are there stay. Numbers of pairs written and kept.

    Raises:
        UsageError: the folder holds something else, or pairs of other settings.
    """
    claim_folder(folder, config)
    rooms = RenderedRooms(config)
    written = 0
    for index in range(config.scenes):
        progress("pairs", index, config.scenes)
        if not (folder / f"{index:05d}" / "gt.json").is_file():
            _write_pair(folder / f"{index:05d}", rooms, index)
            written += 1
    progress("pairs", config.scenes, config.scenes)
    return written, config.scenes - written


def _write_pair(folder: Path, rooms: RenderedRooms, index: int) -> None:
    """gt.json comes last: a pair without it was cut short."""
    scene = rooms.scene(index)
    choice = int(np.random.default_rng((rooms.config.seed, index, 2)).integers(len(scene.pairs)))
    views = [int(v) for v in scene.pairs[choice]]
    folder.mkdir(exist_ok=True)
    for side, view in enumerate(views):
        picture = scene.pictures[view]
        atomic_write_bytes(folder / f"{side}.png", _png(picture[..., 0] if picture.shape[2] == 1 else picture))
        depth = np.round(scene.depth[view] * 1000).astype(np.uint16)
        atomic_write_bytes(folder / f"depth_{side}.png", _png(depth))
    first, second = (pose_of(scene.world_from_cam[view]) for view in views)
    moved = (second.inverse() @ first).matrix()
    k = torch.from_numpy(scene.k).tolist()
    truth = {"K0": k, "K1": k, "cam1_from_cam0": moved[:3].tolist(), "overlap": float(scene.overlaps[choice])}
    atomic_write_json(folder / "gt.json", truth)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
