"""`vision3d simulate lidar`, `rooms`, `spair`: scans of streets, pairs of pictures of rooms, keypoints of things."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from vision3d.cli.progress import progress_bars
from vision3d.data.rendered.pair_folder import write_pair_folder
from vision3d.data.rendered.rooms import RenderedRoomsConfig
from vision3d.data.simulation.kitti_folder import write_kitti_folder
from vision3d.data.simulation.mini_spair import MiniSpairConfig, write_mini_spair
from vision3d.data.simulation.streets import SimulatedStreetsConfig


@dataclass(frozen=True, kw_only=True)
class SimulateLidarConfig(SimulatedStreetsConfig):
    """Scans of simulated streets by a 64-beam LiDAR, with labels, calibration and pictures, as KITTI's object folder.

    Run it again to go on after a stop, or with a larger count to add frames.
    """

    out: Path
    """Folder to write: training/{velodyne,label_2,calib,planes,image_2} and ImageSets."""
    count: int = 100
    """Number of frames."""
    in_view: bool = False
    """Only the part of the scans that the camera sees: faster, and a sixth of the size."""
    images: bool = True
    """Also draw the left colour camera's picture."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress on stderr."""


def run_lidar(config: SimulateLidarConfig) -> int:
    """Writes the frames and says how many."""
    settings = SimulatedStreetsConfig(**{f.name: getattr(config, f.name) for f in fields(SimulatedStreetsConfig)})
    with progress_bars(config.quiet) as progress:
        written, kept = write_kitti_folder(config.out, settings, progress)
    if config.json:
        print(json.dumps({"out": str(config.out), "frames": config.count, "written": written, "kept": kept}))
    else:
        print(f"{written} frames written to {config.out}" + (f", {kept} were there" if kept else ""))
    return 0


@dataclass(frozen=True, kw_only=True)
class SimulateRoomsConfig(RenderedRoomsConfig):
    """Pairs of pictures of textured rooms with exact depth and pose, in the layout of `vision3d evaluate pairs`.

    Run it again to go on after a stop, or with more scenes to add pairs.
    """

    out: Path
    """Folder to write: a folder for each pair with 0.png, 1.png, depth in mm and gt.json."""
    scenes: int = 100
    """Number of rooms, with one pair of each."""
    width: int = 640
    """px"""
    height: int = 480
    """px"""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress on stderr."""


def run_rooms(config: SimulateRoomsConfig) -> int:
    """Writes the pairs and says how many."""
    settings = RenderedRoomsConfig(**{f.name: getattr(config, f.name) for f in fields(RenderedRoomsConfig)})
    with progress_bars(config.quiet) as progress:
        written, kept = write_pair_folder(config.out, settings, progress)
    if config.json:
        print(json.dumps({"out": str(config.out), "pairs": config.scenes, "written": written, "kept": kept}))
    else:
        print(f"{written} pairs written to {config.out}" + (f", {kept} were there" if kept else ""))
    return 0


@dataclass(frozen=True, kw_only=True)
class SimulateSpairConfig(MiniSpairConfig):
    """A small synthetic set in SPair-71k's layout: rendered furniture, cars and animals with keypoints exact in 3D.

    Written as a whole into a new folder. No mesh is in two splits.
    """

    out: Path
    """Folder to write, new or empty: PairAnnotation, ImageAnnotation, JPEGImages, Layout, Segmentation."""
    json: bool = False
    """Print JSON."""
    quiet: bool = False
    """No progress on stderr."""


def run_spair(config: SimulateSpairConfig) -> int:
    """Writes the set and says how many pairs each split has."""
    settings = MiniSpairConfig(**{f.name: getattr(config, f.name) for f in fields(MiniSpairConfig)})
    with progress_bars(config.quiet) as progress:
        pairs = write_mini_spair(config.out, settings, progress)
    if config.json:
        print(json.dumps({"out": str(config.out), "pairs": pairs}))
    else:
        print(f"pairs written to {config.out}: " + ", ".join(f"{n} {split}" for split, n in pairs.items()))
    return 0
