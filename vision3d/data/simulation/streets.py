"""Simulated drives through streets, as a dataset with the same samples as KITTI's object benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vision3d.core import Boxes3D, Image, PointCloud, RigidTransform, UsageError
from vision3d.data.kitti_object import CLASSES, LEFT, KittiObjectSample, crop_to_view
from vision3d.data.simulation.drive import SPEED, objects_at, sensor_pose
from vision3d.data.simulation.labels import IMAGE_SIZE, label, virtual_calibration
from vision3d.data.simulation.lidar import LidarConfig
from vision3d.data.simulation.picture import take_picture
from vision3d.data.simulation.scan import scan
from vision3d.data.simulation.solids import Solid
from vision3d.data.simulation.street import Street, StreetConfig, sample_street
from vision3d.io.kitti import boxes_from_kitti


@dataclass(frozen=True, kw_only=True)
class SimulatedStreetsConfig:
    """What to simulate; a frame depends on these settings and its number alone, not on `count`."""

    count: int = 1000
    """Number of frames."""
    seed: int = 0
    """Other seeds give other streets."""
    frames_per_street: int = 1
    """Consecutive frames of one street, before the next begins."""
    step: float = 1.0
    """Metres that the sensor moves from one frame to the next of a street, at 10 m/s."""
    in_view: bool = True
    """Simulate only what the camera sees, as detectors are trained on KITTI; False: all around."""
    images: bool = False
    """Also draw the left colour camera's picture."""
    min_points: int = 5
    """Objects with fewer points get no label but a region DontCare."""
    street: StreetConfig = field(default_factory=StreetConfig)
    """How full the streets are."""
    lidar: LidarConfig = field(default_factory=LidarConfig)
    """The sensor."""


class SimulatedStreets(torch.utils.data.Dataset[KittiObjectSample]):
    """Frames with cloud (frame "lidar", intensities), calibration of a virtual camera, labels, boxes and ground plane.

    Sample i of equal settings is always the same, in any order of access and with any number of threads.

    Args:
        classes: whose boxes are given, in the order of their labels; of Car, Van, Truck, Pedestrian, Cyclist.

    Raises:
        UsageError: settings that make no sense.
    """

    def __init__(self, config: SimulatedStreetsConfig, classes: tuple[str, ...] = CLASSES) -> None:
        if min(config.count, config.frames_per_street) < 1 or config.seed < 0 or not 0 < config.step <= 20:
            raise UsageError(
                "simulated streets need a count and frames_per_street of at least 1, a seed of at least 0 and a step "
                f"above 0 and up to 20 m, got {config.count}, {config.frames_per_street}, {config.seed} and "
                f"{config.step}"
            )
        self.config = config
        self.classes = classes
        self.calibration = virtual_calibration()
        self._last: tuple[int, Street] | None = None

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> KittiObjectSample:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        street, way = self._street(index)
        lidar_from_street = self.street_from_lidar(index).inverse()
        standing = objects_at(street, way / SPEED, way)
        scenery = street.scenery.moved(lidar_from_street)
        solids = [s.solid.moved(lidar_from_street) for s in standing]
        camera = self.calibration.camera(LEFT, *IMAGE_SIZE)
        (fx, fy), (cx, cy), (width, height) = camera.focal, camera.center, IMAGE_SIZE
        view = ((cx - width) / fx, cx / fx, (cy - height) / fy, cy / fy)
        # The camera is before the LiDAR: near it, it sees a little more to the sides.
        half = float(np.arctan(max(-view[0], view[1]))) + np.deg2rad(5)
        around = (-half, half) if self.config.in_view else (-np.pi, np.pi)
        rng = np.random.default_rng([self.config.seed, index, 1])
        turn = scan(rng, self.config.lidar, scenery, solids, around, view)
        objects = label(
            standing,
            lidar_from_street,
            self.calibration,
            turn.visible,
            turn.alone,
            turn.returned,
            self.config.min_points,
        )
        intensity = torch.from_numpy(turn.intensity[:, None].astype(np.float32))
        cloud = PointCloud(torch.from_numpy(turn.points.astype(np.float32)), intensity, "lidar")
        if self.config.in_view:
            cloud = crop_to_view(cloud, self.calibration, IMAGE_SIZE)
        name = f"{index:06d}"
        image = None
        if self.config.images:
            seen = Solid.join([scenery, *solids]).moved(self.calibration.cam_from_velo(LEFT))
            rgb = take_picture(seen, (fx, fy, cx, cy), IMAGE_SIZE)
            image = Image(torch.from_numpy(rgb).permute(2, 0, 1).float() / 255, f"{name}.png", IMAGE_SIZE)
        boxes, _ = boxes_from_kitti(objects, self.classes, self.calibration)
        return KittiObjectSample(
            name=name,
            cloud=cloud,
            calibration=self.calibration,
            objects=objects,
            boxes=Boxes3D(boxes.centers.float(), boxes.sizes.float(), boxes.yaw.float(), boxes.labels, None, "lidar"),
            image_left=image,
            image_right=None,
            plane=self._plane(street, way, lidar_from_street),
        )

    def street_from_lidar(self, index: int) -> RigidTransform:
        """Pose of the sensor in the frame that all frames of its street share, float64."""
        street, way = self._street(index)
        number = index // self.config.frames_per_street
        seeds = ([self.config.seed, number, 3], [self.config.seed, index, 2])
        return sensor_pose(street, way, self.config.lidar.height, *map(np.random.default_rng, seeds))

    def _street(self, index: int) -> tuple[Street, float]:
        """The street of a frame, and how far along it the sensor is."""
        config = self.config
        number, step = divmod(index, config.frames_per_street)
        if self._last is None or self._last[0] != number:
            rng = np.random.default_rng([config.seed, number, 0])
            behind = 12.0 if config.in_view else config.lidar.farthest
            end = config.lidar.farthest + (config.frames_per_street - 1) * config.step
            self._last = (number, sample_street(rng, config.street, -behind, end + 5))
        return self._last[1], step * config.step

    def _plane(self, street: Street, way: float, lidar_from_street: RigidTransform) -> Float64[Tensor, " 4"]:
        """The road before the sensor, in the rectified camera frame."""
        s, d = np.meshgrid(way + np.linspace(3, 30, 10), np.array([-0.7, 0.7]) * street.road.half)
        x, y, _ = street.road.locate(s, d)
        points = torch.from_numpy(np.stack([x, y, street.road.height(s, d)], axis=-1).reshape(-1, 3))
        rect = (self.calibration.rect_from_velo @ lidar_from_street).apply(points)
        middle = rect.mean(0)
        normal = torch.linalg.svd(rect - middle, full_matrices=False).Vh[2]
        normal = -normal if float(normal[1]) > 0 else normal
        return torch.cat([normal, -(normal @ middle)[None]])
