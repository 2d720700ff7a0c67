"""KITTI's tracking benchmark as typed samples: the object benchmark's content, in sequences and with track numbers.

Layout: ROOT/{training,testing}/{velodyne,image_02,image_03}/0001/000123.*, {calib,label_02}/0001.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from vision3d.core import Boxes3D, Image, PointCloud, UsageError
from vision3d.data.decoding import load_photo
from vision3d.data.kitti_object import CLASSES, LEFT, crop_to_view, find_image, image_size, labelled_boxes
from vision3d.io.kitti import KittiCalibration, boxes_from_kitti, read_calibration
from vision3d.io.kitti_labels import KittiObjects
from vision3d.io.kitti_sequences import KittiTracks, read_tracks
from vision3d.io.scans import Invalid, read_scan


@dataclass(frozen=True, slots=True)
class KittiTrackingSample:
    """One frame of a sequence; fields as in KittiObjectSample. tracks: the track number of each of the boxes."""

    sequence: str
    frame: int
    cloud: PointCloud
    calibration: KittiCalibration
    objects: KittiObjects | None
    boxes: Boxes3D | None
    tracks: Int64[Tensor, " n"] | None
    image_left: Image | None


class KittiTrackingDataset(torch.utils.data.Dataset[KittiTrackingSample]):
    """The frames of sequences, in order, read on access; calibrations and labels are read at once.

    Args:
        sequences: names such as "0001"; None: all.
        with_image: decode the left colour image.
        classes, in_view, invalid: as in KittiObjectDataset.

    Raises:
        UsageError: no such folder or sequence, a sequence without scans. Vision3DError: a missing or broken file.
    """

    def __init__(
        self,
        root: str | Path,
        sequences: Sequence[str] | None = None,
        part: str = "training",
        classes: Sequence[str] = CLASSES,
        with_image: bool = False,
        in_view: bool = False,
        invalid: Invalid = "error",
    ) -> None:
        self.folder = Path(root) / part
        scans = self.folder / "velodyne"
        if not scans.is_dir():
            raise UsageError(f"{self.folder} has no folder velodyne: is {root} KITTI's tracking folder?")
        there = sorted(p.name for p in scans.iterdir() if p.is_dir())
        self.sequences = tuple(there if sequences is None else sequences)
        missing = [name for name in self.sequences if name not in there]
        if missing or not self.sequences:
            raise UsageError(f"no sequence {', '.join(missing)} in {scans} (there are {', '.join(there) or 'none'})")
        self.frames = [
            (name, path)
            for name in self.sequences
            for path in sorted((scans / name).glob("*.bin"))
            if path.stem.isdecimal()
        ]
        if not self.frames:
            raise UsageError(f"the sequences {', '.join(self.sequences)} in {scans} have no scans (000000.bin)")
        self.calibrations = {
            name: read_calibration(self.folder / "calib" / f"{name}.txt") for name in self.sequences
        }  # fmt: skip
        labels = self.folder / "label_02"
        self.tracks: dict[str, KittiTracks] = {}
        if labels.is_dir():
            self.tracks = {name: read_tracks(labels / f"{name}.txt") for name in self.sequences}
        self.classes = tuple(classes)
        self.with_image, self.in_view = with_image, in_view
        self.invalid: Invalid = invalid

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> KittiTrackingSample:
        name, path = self.frames[index]
        frame, calibration = int(path.stem), self.calibrations[name]
        photos = self.folder / f"image_{LEFT:02d}" / name
        cloud = read_scan(path, self.invalid)
        if self.in_view:
            cloud = crop_to_view(cloud, calibration, image_size(find_image(photos, path.stem)))
        objects, boxes, tracks = None, None, None
        if name in self.tracks:
            mine = self.tracks[name].at(frame)
            objects = mine.objects
            boxes = labelled_boxes(self.folder / "label_02" / f"{name}.txt", objects, self.classes, calibration)
            tracks = torch.from_numpy(mine.tracks[boxes_from_kitti(objects, self.classes)[1]])
        image = load_photo(find_image(photos, path.stem)) if self.with_image else None
        return KittiTrackingSample(name, frame, cloud, calibration, objects, boxes, tracks, image)
