"""Simulated streets written as KITTI's object benchmark: velodyne, label_2, calib, planes, image_2 and ImageSets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from vision3d.config import dump_config, load_config
from vision3d.core import Progress, UsageError, Vision3DError, silent
from vision3d.data.kitti_object import KittiObjectSample
from vision3d.data.simulation.streets import SimulatedStreets, SimulatedStreetsConfig
from vision3d.io.atomic import atomic_write_bytes, atomic_write_text, recover_leftovers
from vision3d.io.kitti import write_calibration
from vision3d.io.kitti_labels import write_objects
from vision3d.io.scans import write_bin

SETTINGS = "simulation.yaml"
_HELD_OUT = 5  # every fifth street is for validation


def write_kitti_folder(
    root: str | Path, config: SimulatedStreetsConfig, progress: Progress = silent
) -> tuple[int, int]:
    """Writes the frames that are not there yet, and returns how many were written and how many were kept.

    Whole streets go to either train or val. A run that was stopped goes on where it was; a larger count adds frames.

    Raises:
        UsageError: the folder holds something else, or frames of other settings. Vision3DError: it cannot be written.
    """
    root = Path(root)
    _check_settings(root, config)
    part = root / "training"
    for name in ("velodyne", "label_2", "calib", "planes", "image_2"):
        recover_leftovers(part / name)
    # The label is written last: where it is, the frame is complete.
    names = [f"{index:06d}" for index in range(config.count)]
    missing = [i for i, name in enumerate(names) if not (part / "label_2" / f"{name}.txt").is_file()]
    frames = SimulatedStreets(config)
    progress("frames", config.count - len(missing), config.count)
    for done, index in enumerate(missing, 1):
        _write_frame(part, frames[index])
        progress("frames", config.count - len(missing) + done, config.count)
    held_out = [(i // config.frames_per_street) % _HELD_OUT == _HELD_OUT - 1 for i in range(config.count)]
    for split, keep in (
        ("train", [not h for h in held_out]),
        ("val", held_out),
        ("trainval", [True] * config.count),
    ):
        chosen = [name for name, k in zip(names, keep, strict=True) if k]
        if chosen:
            atomic_write_text(root / "ImageSets" / f"{split}.txt", "\n".join(chosen) + "\n")
    return len(missing), config.count - len(missing)


def _check_settings(root: Path, config: SimulatedStreetsConfig) -> None:
    path = root / SETTINGS
    if path.is_file():
        before = load_config(SimulatedStreetsConfig, path)
        if replace(before, count=config.count) != config:
            raise UsageError(f"{root} holds frames of other settings (see {path}): choose another folder")
        if before.count > config.count:
            raise UsageError(f"{root} holds {before.count} frames already, more than the {config.count} asked for")
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} holds something that is no simulation: choose another folder")
    atomic_write_text(path, dump_config(config))


def _write_frame(part: Path, frame: KittiObjectSample) -> None:
    name = frame.name
    write_bin(part / "velodyne" / f"{name}.bin", frame.cloud)
    write_calibration(part / "calib" / f"{name}.txt", frame.calibration)
    if frame.plane is not None:
        numbers = " ".join(f"{v:.6e}" for v in frame.plane.tolist())
        atomic_write_text(part / "planes" / f"{name}.txt", f"# Plane\nWidth 4\nHeight 1\n{numbers}\n")
    if frame.image_left is not None:
        rgb = (frame.image_left.rgb.permute(1, 2, 0) * 255).round().byte().numpy()
        done, png = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
        if not done:
            raise Vision3DError(f"the picture of frame {name} cannot be encoded")
        atomic_write_bytes(part / "image_2" / f"{name}.png", png.tobytes())
    if frame.objects is not None:
        write_objects(part / "label_2" / f"{name}.txt", frame.objects)
