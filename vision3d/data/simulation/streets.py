"""Simulated drives through streets, as a dataset with the same samples as KITTI's object benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vision3d.core import Boxes3D, PointCloud, RigidTransform, UsageError
from vision3d.data.kitti_object import CLASSES, LEFT, KittiObjectSample, crop_to_view
from vision3d.data.simulation.labels import IMAGE_SIZE, Standing, label, virtual_calibration
from vision3d.data.simulation.lidar import LidarConfig
from vision3d.data.simulation.scan import Scan, scan
from vision3d.data.simulation.solids import Solid
from vision3d.data.simulation.street import EGO, Street, StreetConfig, sample_street
from vision3d.geometry.rotated_rectangles import intersection_areas
from vision3d.geometry.rotation import rotation_exp
from vision3d.io.kitti import boxes_from_kitti

_FRAME_TIME = 0.1  # s from one turn to the next


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
    """Metres that the sensor moves from one frame to the next of a street."""
    in_view: bool = True
    """Simulate only what the camera sees, as detectors are trained on KITTI; False: all around."""
    min_points: int = 5
    """Objects with fewer points get no label but a region DontCare."""
    street: StreetConfig = field(default_factory=StreetConfig)
    """How full the streets are."""
    lidar: LidarConfig = field(default_factory=LidarConfig)
    """The sensor."""


class SimulatedStreets(torch.utils.data.Dataset[KittiObjectSample]):
    """Frames with cloud (frame "lidar", intensities), calibration of a virtual camera, labels, boxes and ground plane.

    No images. Sample i of equal settings is always the same, in any order of access and with any number of threads.

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
        street, step = self._street(index)
        lidar_from_street = self.street_from_lidar(index).inverse()
        standing = _at_time(street, step * _FRAME_TIME, step * self.config.step)
        turn = self._scan(index, street, standing, lidar_from_street)
        objects = label(
            standing,
            lidar_from_street,
            self.calibration,
            turn.visible,
            turn.alone,
            turn.returned,
            self.config.min_points,
        )
        cloud = PointCloud(
            torch.from_numpy(turn.points.astype(np.float32)),
            torch.from_numpy(turn.intensity[:, None].astype(np.float32)),
            "lidar",
        )
        if self.config.in_view:
            cloud = crop_to_view(cloud, self.calibration, IMAGE_SIZE)
        boxes, _ = boxes_from_kitti(objects, self.classes, self.calibration)
        return KittiObjectSample(
            name=f"{index:06d}",
            cloud=cloud,
            calibration=self.calibration,
            objects=objects,
            boxes=Boxes3D(boxes.centers.float(), boxes.sizes.float(), boxes.yaw.float(), boxes.labels, None, "lidar"),
            image_left=None,
            image_right=None,
            plane=self._plane(street, step, lidar_from_street),
        )

    def street_from_lidar(self, index: int) -> RigidTransform:
        """Pose of the sensor in the frame that all frames of its street share, float64."""
        street, step = self._street(index)
        rng = np.random.default_rng([self.config.seed, index, 2])
        weave = np.random.default_rng([self.config.seed, index // self.config.frames_per_street, 3])
        sway, phase = weave.uniform(0, 0.25), weave.uniform(0, 2 * np.pi)
        s = np.array(step * self.config.step)
        angle = 2 * np.pi * s / 40 + phase
        d = street.lane + sway * (np.sin(angle) - np.sin(phase))
        x, y, heading = street.road.locate(s, np.array(d))
        z = street.road.height(s, np.array(d)) + self.config.lidar.height + rng.normal(0, 0.01)
        ahead, behind = (street.road.height(s + a, np.array(d)) for a in (1.5, -1.5))
        roll, pitch = np.deg2rad(rng.normal(0, 0.5)), -np.arctan((ahead - behind) / 3) + np.deg2rad(rng.normal(0, 0.4))
        yaw = heading + np.arctan(sway * 2 * np.pi / 40 * np.cos(angle)) + np.deg2rad(weave.normal(0, 1.5))
        turns = torch.tensor([[0.0, 0.0, float(yaw)], [0.0, float(pitch), 0.0], [float(roll), 0.0, 0.0]]).double()
        about_z, about_y, about_x = rotation_exp(turns)
        return RigidTransform(about_z @ about_y @ about_x, torch.tensor([float(x), float(y), float(z)]).double())

    def _street(self, index: int) -> tuple[Street, int]:
        config = self.config
        number, step = divmod(index, config.frames_per_street)
        if self._last is None or self._last[0] != number:
            rng = np.random.default_rng([config.seed, number, 0])
            behind = 12.0 if config.in_view else config.lidar.farthest
            end = config.lidar.farthest + (config.frames_per_street - 1) * config.step
            self._last = (number, sample_street(rng, config.street, -behind, end + 5))
        return self._last[1], step

    def _scan(self, index: int, street: Street, standing: list[Standing], lidar_from_street: RigidTransform) -> Scan:
        camera = self.calibration.camera(LEFT, *IMAGE_SIZE)
        k, (width, height) = camera.matrix(), IMAGE_SIZE
        fx, fy, cx, cy = (float(v) for v in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
        view = ((cx - width) / fx, cx / fx, (cy - height) / fy, cy / fy)
        # The camera is before the LiDAR: near it, it sees a little more to the sides.
        half = np.arctan(max(-view[0], view[1])) + np.deg2rad(5)
        around = (-half, half) if self.config.in_view else (-np.pi, np.pi)

        def moved(solid: Solid) -> Solid:
            corners = lidar_from_street.apply(torch.from_numpy(solid.corners.reshape(-1, 3)))
            return Solid(corners.numpy().reshape(-1, 3, 3), solid.material, solid.reflectance)

        rng = np.random.default_rng([self.config.seed, index, 1])
        return scan(rng, self.config.lidar, moved(street.scenery), [moved(s.solid) for s in standing], around, view)

    def _plane(self, street: Street, step: int, lidar_from_street: RigidTransform) -> Float64[Tensor, " 4"]:
        """The road before the sensor, in the rectified camera frame."""
        s = step * self.config.step + torch.linspace(3, 30, 10).double().numpy()[:, None]
        d = np.array([[-1.0, 1.0]]) * 0.7 * street.road.half
        ss, dd = np.broadcast_arrays(s, d)
        x, y, _ = street.road.locate(ss, dd)
        points = torch.from_numpy(np.stack([x, y, street.road.height(ss, dd)], axis=-1).reshape(-1, 3))
        rect = (self.calibration.rect_from_velo @ lidar_from_street).apply(points)
        middle = rect.mean(0)
        normal = torch.linalg.svd(rect - middle, full_matrices=False).Vh[2]
        normal = -normal if float(normal[1]) > 0 else normal
        return torch.cat([normal, -(normal @ middle)[None]])


def _at_time(street: Street, time: float, way: float) -> list[Standing]:
    """The actors after `time` seconds, when the sensor has gone `way` metres; those that would be in each other's or
    the sensor's place are left out."""
    road = street.road
    x, y, heading = road.locate(np.array(way), np.array(street.lane))
    taken = [np.array([x, y, *EGO, heading])]
    out = []
    for actor in sorted(street.actors, key=lambda a: a.speed):
        along = actor.s + actor.speed * time * np.sign(np.cos(actor.turn))
        s, d = np.array(along), np.array(actor.d)
        x, y, heading = road.locate(s, d)
        yaw = float(heading) + actor.turn
        footprint = np.array([x, y, actor.size[0], actor.size[1], yaw])
        if not road.start <= along <= road.end or intersection_areas(footprint[None], np.stack(taken)).any():
            continue
        taken.append(footprint)
        z = float(road.height(s, d))
        center = (float(x), float(y), z + actor.size[2] / 2)
        out.append(Standing(actor.kind, actor.solid.placed(float(x), float(y), z, yaw), center, actor.size, yaw))
    return out
