"""KITTI's odometry benchmark as typed samples: scans with the LiDAR's pose in the sequence.

Layout: ROOT/sequences/00/{velodyne,image_2}/000123.*, calib.txt, times.txt, and ROOT/poses/00.txt (sequences 00-10).
The poses of sequence 00 disagree with its scans by about 0.17 m a frame at the start: align neighbours with ICP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vision3d.core import Image, PointCloud, RigidTransform, UsageError, Vision3DError
from vision3d.data.decoding import load_photo
from vision3d.data.kitti_object import LEFT, find_image
from vision3d.io.kitti import KittiCalibration, read_calibration
from vision3d.io.kitti_sequences import read_poses, read_times
from vision3d.io.scans import Invalid, read_scan


@dataclass(frozen=True, slots=True)
class KittiOdometrySample:
    """One frame. first_from_lidar: pose of the scan in the frame of the sequence's first left grey camera, None where
    the sequence has no poses. time: seconds since frame 0, None without times."""

    sequence: str
    frame: int
    cloud: PointCloud
    calibration: KittiCalibration
    first_from_lidar: RigidTransform | None
    time: float | None
    image_left: Image | None


class KittiOdometryDataset(torch.utils.data.Dataset[KittiOdometrySample]):
    """The frames of sequences, in order; scans and images are read on access, the rest at once.

    Args:
        sequences: names such as "00"; None: all.
        with_image: decode the left colour image.
        invalid: "error" or "drop" points that are not finite.

    Raises:
        UsageError: no such folder or sequence, a sequence without scans. Vision3DError: a missing or broken file, or
            a scan beyond the poses' end.
    """

    def __init__(
        self,
        root: str | Path,
        sequences: Sequence[str] | None = None,
        with_image: bool = False,
        invalid: Invalid = "error",
    ) -> None:
        self.folder = Path(root) / "sequences"
        if not self.folder.is_dir():
            raise UsageError(f"{root} has no folder sequences: is it KITTI's odometry folder?")
        there = sorted(p.name for p in self.folder.iterdir() if (p / "velodyne").is_dir())
        self.sequences = tuple(there if sequences is None else sequences)
        missing = [name for name in self.sequences if name not in there]
        if missing or not self.sequences:
            raise UsageError(
                f"no scans of {', '.join(missing)} in {self.folder} (there are {', '.join(there) or 'none'})"
            )
        self.frames = [
            (name, path)
            for name in self.sequences
            for path in sorted((self.folder / name / "velodyne").glob("*.bin"))
            if path.stem.isdecimal()
        ]
        if not self.frames:
            raise UsageError(f"the sequences {', '.join(self.sequences)} in {self.folder} have no scans (000000.bin)")
        self.calibrations = {name: read_calibration(self.folder / name / "calib.txt") for name in self.sequences}
        self.poses: dict[str, RigidTransform] = {}
        self.times: dict[str, np.ndarray] = {}
        for name in self.sequences:
            poses, times = Path(root) / "poses" / f"{name}.txt", self.folder / name / "times.txt"
            if poses.is_file():
                self.poses[name] = read_poses(poses)
            if times.is_file():
                self.times[name] = read_times(times)
        self.with_image = with_image
        self.invalid: Invalid = invalid

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> KittiOdometrySample:
        name, path = self.frames[index]
        frame, calibration = int(path.stem), self.calibrations[name]
        pose = None
        if name in self.poses:
            all_poses = self.poses[name]
            _within(name, "poses", frame, len(all_poses.translation))
            first_from_cam0 = RigidTransform(all_poses.rotation[frame], all_poses.translation[frame])
            pose = first_from_cam0 @ calibration.rect_from_velo
        time = None
        if name in self.times:
            _within(name, "times", frame, len(self.times[name]))
            time = float(self.times[name][frame])
        image = load_photo(find_image(self.folder / name / f"image_{LEFT}", path.stem)) if self.with_image else None
        return KittiOdometrySample(name, frame, read_scan(path, self.invalid), calibration, pose, time, image)


def _within(name: str, what: str, frame: int, count: int) -> None:
    if frame >= count:
        raise Vision3DError(f"sequence {name} has {count} {what}, but a scan {frame:06d}")
