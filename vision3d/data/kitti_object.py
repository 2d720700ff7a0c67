"""KITTI's object benchmark as typed samples: scan, calibration, images, labels, boxes and ground plane of a frame.

Layout: ROOT/{training,testing}/{velodyne,calib,label_2,image_2,image_3,planes}/000123.*, ROOT/ImageSets/SPLIT.txt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from vision3d.core import Boxes3D, Image, PointCloud, UsageError, Vision3DError
from vision3d.data.decoding import load_photo, open_photo
from vision3d.io.kitti import KittiCalibration, boxes_from_kitti, read_calibration, read_plane, read_split
from vision3d.io.kitti_labels import KittiObjects, read_labels
from vision3d.io.scans import Invalid, read_scan

CLASSES = ("Car", "Pedestrian", "Cyclist")
LEFT, RIGHT = 2, 3  # the colour cameras


@dataclass(frozen=True, slots=True)
class KittiObjectSample:
    """One frame. cloud: frame "lidar", features are the intensities [n 1]. objects: all labels as they are, boxes:
    those of the dataset's classes in the frame "lidar", float32, labels being indices of classes; both None without
    labels. plane: the ground in the rectified camera frame (see `read_plane`), None without a planes file. image_left
    and image_right: None unless asked for."""

    name: str
    cloud: PointCloud
    calibration: KittiCalibration
    objects: KittiObjects | None
    boxes: Boxes3D | None
    image_left: Image | None
    image_right: Image | None
    plane: Float64[Tensor, " 4"] | None


class KittiObjectDataset(torch.utils.data.Dataset[KittiObjectSample]):
    """The frames of a split, read on access.

    Args:
        root: KITTI's folder, which holds training/ or testing/.
        split: name of a file in ImageSets ("train", "val"), or frame names; None: all scans there are.
        part: "training" or "testing" (which has no labels).
        classes: whose boxes are given, in the order of their labels.
        images: which colour images to decode: LEFT (2), RIGHT (3).
        in_view: keep only the points that the left colour image shows, as is usual on KITTI, whose labels end there.
        invalid: "error" or "drop" points that are not finite.

    Raises:
        UsageError: no such folder, split, part or camera. On access Vision3DError: a missing or broken file.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | Sequence[str] | None = None,
        part: str = "training",
        classes: Sequence[str] = CLASSES,
        images: Sequence[int] = (),
        in_view: bool = False,
        invalid: Invalid = "error",
    ) -> None:
        self.folder = Path(root) / part
        if part not in ("training", "testing"):
            raise UsageError(f"the parts of KITTI are 'training' and 'testing', got {part!r}")
        if not (self.folder / "velodyne").is_dir():
            raise UsageError(f"{self.folder} has no folder velodyne: is {root} KITTI's object folder?")
        if not set(images) <= {LEFT, RIGHT}:
            raise UsageError(f"the colour cameras are {LEFT} and {RIGHT}, got {tuple(images)}")
        if isinstance(split, str):
            path = Path(root) / "ImageSets" / f"{split}.txt"
            if not path.is_file():
                there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
                raise UsageError(f"there is no split {split!r} in {path.parent} (splits: {there})")
            self.names = read_split(path)
        elif split is None:
            self.names = tuple(sorted(p.stem for p in (self.folder / "velodyne").glob("*.bin")))
        else:
            self.names = tuple(split)
        if not self.names:
            raise UsageError(f"{self.folder / 'velodyne'} holds no scans")
        self.classes = tuple(classes)
        self.images = tuple(images)
        self.in_view = in_view
        self.invalid: Invalid = invalid

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> KittiObjectSample:
        name = self.names[index]
        calibration = read_calibration(self.folder / "calib" / f"{name}.txt")
        cloud = read_scan(self.folder / "velodyne" / f"{name}.bin", self.invalid)
        if self.in_view:
            cloud = crop_to_view(cloud, calibration, image_size(find_image(self.folder / f"image_{LEFT}", name)))
        objects, boxes = self._labels(name, calibration)
        plane = self.folder / "planes" / f"{name}.txt"
        return KittiObjectSample(
            name=name,
            cloud=cloud,
            calibration=calibration,
            objects=objects,
            boxes=boxes,
            image_left=self._image(name, LEFT),
            image_right=self._image(name, RIGHT),
            plane=read_plane(plane) if plane.is_file() else None,
        )

    def _image(self, name: str, camera: int) -> Image | None:
        return load_photo(find_image(self.folder / f"image_{camera}", name)) if camera in self.images else None

    def _labels(self, name: str, calibration: KittiCalibration) -> tuple[KittiObjects | None, Boxes3D | None]:
        folder = self.folder / "label_2"
        if not folder.is_dir():
            return None, None
        path = folder / f"{name}.txt"
        objects = read_labels(path)
        return objects, labelled_boxes(path, objects, self.classes, calibration)


def labelled_boxes(path: Path, objects: KittiObjects, classes: Sequence[str], calibration: KittiCalibration) -> Boxes3D:
    """The objects of these classes as float32 boxes in the frame "lidar". Vision3DError: one has no 3D box."""
    try:
        boxes, _ = boxes_from_kitti(objects, classes, calibration)
    except ValueError as error:
        raise Vision3DError(f"{path}: {error}") from None
    return Boxes3D(boxes.centers.float(), boxes.sizes.float(), boxes.yaw.float(), boxes.labels, None, boxes.frame)


def crop_to_view(cloud: PointCloud, calibration: KittiCalibration, size: tuple[int, int]) -> PointCloud:
    """The points of a scan (frame "lidar") that the left colour image of size (width, height) px shows."""
    keep = calibration.in_view(cloud.points, *size, index=LEFT)
    return PointCloud(cloud.points[keep], None if cloud.features is None else cloud.features[keep], cloud.frame)


def find_image(folder: Path, name: str) -> Path:
    """FOLDER/NAME.png, or .jpg. Vision3DError: neither is there."""
    for suffix in (".png", ".jpg"):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise Vision3DError(f"there is no image {folder / name}.png")


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) px without decoding the image. Vision3DError: not an image."""
    stored, header = open_photo(path, str(path))
    stored.close()
    return header.size
