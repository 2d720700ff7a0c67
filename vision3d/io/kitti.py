"""KITTI's calibration, planes, splits, and its objects as Boxes3D and back: the one place where conventions change.

Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013, section 4. Frames: "lidar" (x forward, y left,
z up), the rectified camera 0 "rect" (x right, y down, z forward), in which labels are, and "level": rect with its axes
named as the LiDAR's (x forward, y left, z up), for boxes without a calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vision3d.core import Boxes3D, Camera, RigidTransform, Vision3DError
from vision3d.io.ascii_file import read_ascii
from vision3d.io.atomic import atomic_write_text
from vision3d.io.kitti_labels import DONT_CARE, KittiObjects

CAMERAS = 4
# Our pixel coordinates minus KITTI's, where the centre of the top-left pixel is (0, 0).
OURS_FROM_KITTI_PX = 0.5
# x forward, y left, z up from x right, y down, z forward.
LEVEL_FROM_RECT = ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
# Names of the same matrices in the object, tracking and odometry files.
_ROTATION, _FROM_VELO, _FROM_IMU = (
    ("R0_rect", "R_rect"),
    ("Tr_velo_to_cam", "Tr_velo_cam"),
    ("Tr_imu_to_velo", "Tr_imu_velo"),
)


@dataclass(frozen=True, slots=True)
class KittiCalibration:
    """projections: P0 to P3, from rect to KITTI's pixels of the cameras (0, 1 grey, 2, 3 colour; 0 and 2 left).

    velo_from_imu is None in odometry files.
    """

    projections: Float64[Tensor, "4 3 4"]
    rect_from_cam0: RigidTransform
    cam0_from_velo: RigidTransform
    velo_from_imu: RigidTransform | None = None

    @property
    def rect_from_velo(self) -> RigidTransform:
        """LiDAR to the rectified camera 0."""
        return self.rect_from_cam0 @ self.cam0_from_velo

    @property
    def level_from_velo(self) -> RigidTransform:
        """LiDAR to the rectified camera 0 with x forward, y left, z up."""
        return level_from_rect() @ self.rect_from_velo

    def cam_from_rect(self, index: int) -> RigidTransform:
        """Rectified camera 0 to rectified camera `index`: a translation, nearly along x."""
        p = self.projections[index]
        return RigidTransform(torch.eye(3, dtype=p.dtype), torch.linalg.solve(p[:, :3], p[:, 3]))

    def cam_from_velo(self, index: int) -> RigidTransform:
        """LiDAR to rectified camera `index`."""
        return self.cam_from_rect(index) @ self.rect_from_velo

    def camera(self, index: int, width: int, height: int) -> Camera:
        """Intrinsics of rectified camera `index` for an image of width x height px, in our pixel convention."""
        k = self.projections[index][:, :3].clone()
        k[:2, 2] += OURS_FROM_KITTI_PX
        return Camera.from_matrix(width, height, k)

    def in_view(
        self, points_in_velo: Float[Tensor, "n 3"], width: int, height: int, index: int = 2, margin: float = 0.0
    ) -> Bool[Tensor, " n"]:
        """Which points lie in front of camera `index` and inside its image, or at most `margin` px outside."""
        pixels, front = self.camera(index, width, height).project(
            self.cam_from_velo(index).apply(points_in_velo.double())
        )
        low, high = -margin, pixels.new_tensor([width, height]) + margin
        return front & ((pixels >= low) & (pixels < high)).all(-1)


def level_from_rect() -> RigidTransform:
    """The change of axes from the camera's (x right, y down, z forward) to x forward, y left, z up."""
    return RigidTransform(torch.tensor(LEVEL_FROM_RECT, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


def read_calibration(path: str | Path) -> KittiCalibration:
    """Read a calib file of the object, tracking or odometry benchmark.

    Raises:
        Vision3DError: missing file, missing or broken matrix, a rotation that is none; the message names it.
    """
    path = Path(path)
    rows: dict[str, list[str]] = {}
    for line in read_ascii(path, "a text file, as calibrations of KITTI are").splitlines():
        words = line.replace(":", " ", 1).split()
        if words:
            rows[words[0]] = words[1:]
    projections = [_matrix(path, rows, (f"P{i}",), (3, 4)) for i in range(CAMERAS)]
    for i, p in enumerate(projections):
        if not torch.equal(p[2, :3], torch.tensor([0.0, 0, 1], dtype=p.dtype)) or min(p[0, 0], p[1, 1]) <= 0:
            raise Vision3DError(f"{path}: P{i} is not a projection of a rectified camera")
    if "Tr" in rows:  # odometry: the rectified camera from the LiDAR at once
        from_velo = _rigid(path, _matrix(path, rows, ("Tr",), (3, 4)), "Tr")
        return KittiCalibration(torch.stack(projections), RigidTransform.identity(), from_velo)
    rotation = torch.cat([_matrix(path, rows, _ROTATION, (3, 3)), torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    imu = None
    if any(name in rows for name in _FROM_IMU):
        imu = _rigid(path, _matrix(path, rows, _FROM_IMU, (3, 4)), _FROM_IMU[0])
    return KittiCalibration(
        torch.stack(projections),
        _rigid(path, rotation, _ROTATION[0]),
        _rigid(path, _matrix(path, rows, _FROM_VELO, (3, 4)), _FROM_VELO[0]),
        imu,
    )


def write_calibration(path: str | Path, calibration: KittiCalibration) -> None:
    """Write a calib file as those of the object benchmark; what was read from one comes back exactly."""
    rows = {f"P{i}": calibration.projections[i] for i in range(CAMERAS)}
    rows |= {"R0_rect": calibration.rect_from_cam0.rotation, "Tr_velo_to_cam": calibration.cam0_from_velo.matrix()[:3]}
    if calibration.velo_from_imu is not None:
        rows["Tr_imu_to_velo"] = calibration.velo_from_imu.matrix()[:3]
    lines = [f"{name}: " + " ".join(f"{v:.12e}" for v in m.flatten().tolist()) for name, m in rows.items()]
    atomic_write_text(path, "\n".join(lines) + "\n\n")


def boxes_from_kitti(
    objects: KittiObjects, classes: Sequence[str], calibration: KittiCalibration | None = None
) -> tuple[Boxes3D, np.ndarray]:
    """The objects of these classes (names in any case) as boxes, float64, and their indices among the objects.

    With a calibration the boxes are in the frame "lidar", without in "level". Objects of other classes and DontCare
    are left out.

    Raises:
        ValueError: an object of these classes without a 3D box (sizes that are not positive).
    """
    names = {name.lower(): label for label, name in enumerate(classes)}
    index = np.array(
        [i for i, t in enumerate(objects.types) if t.lower() in names and t.lower() != DONT_CARE.lower()], np.int64
    )
    height, width, length = torch.from_numpy(objects.dimensions[index]).unbind(1)
    rect = torch.from_numpy(objects.locations[index])
    rect = torch.stack([rect[:, 0], rect[:, 1] - height / 2, rect[:, 2]], dim=1)
    level = Boxes3D(
        level_from_rect().apply(rect),
        torch.stack([length, width, height], dim=1),
        -torch.from_numpy(objects.rotation_y[index]) - torch.pi / 2,
        torch.tensor([names[objects.types[i].lower()] for i in index], dtype=torch.int64),
        None if objects.scores is None else torch.from_numpy(objects.scores[index]),
        "level",
    )
    if calibration is None:
        return level, index
    return level.transformed(calibration.level_from_velo.inverse(), "lidar"), index


def boxes_to_kitti(
    boxes: Boxes3D, classes: Sequence[str], calibration: KittiCalibration, width: int, height: int, index: int = 2
) -> KittiObjects:
    """Boxes in the frame "lidar" or "level" as KITTI objects seen by camera `index` with an image of width x height px.

    Image boxes surround the projected corners, what lies behind the camera cut off, and are cut to the image. The
    truncation is the share that this cut takes away; occlusion is unknown (-1). Boxes that the image does not show at
    all keep an empty image box (-1, -1, -1, -1) and truncation 1: the benchmark ignores them.

    Raises:
        ValueError: another frame, or a label without a class.
    """
    if boxes.frame not in ("lidar", "level"):
        raise ValueError(f"KITTI's boxes come from the frame 'lidar' or 'level', these are in {boxes.frame!r}")
    if len(boxes) and int(boxes.labels.max()) >= len(classes):
        raise ValueError(f"label {int(boxes.labels.max())} has no class: there are {len(classes)}")
    boxes = _double(boxes)
    level = boxes.transformed(calibration.level_from_velo, "level") if boxes.frame == "lidar" else boxes
    rect_from_level = level_from_rect().inverse()
    center = rect_from_level.apply(level.centers)
    bottom = torch.stack([center[:, 0], center[:, 1] + level.sizes[:, 2] / 2, center[:, 2]], dim=1)
    rotation_y = wrap_angle(-level.yaw - torch.pi / 2)
    # alpha: the heading against the ray from the camera to the object.
    alpha = wrap_angle(rotation_y - torch.atan2(center[:, 0], center[:, 2]))
    image, truncation = _image_boxes(
        calibration.cam_from_rect(index).apply(rect_from_level.apply(level.corners())),
        calibration.camera(index, width, height),
    )
    return KittiObjects(
        tuple(classes[label] for label in level.labels.tolist()),
        truncation.numpy(),
        np.full(len(boxes), -1, np.int64),
        alpha.numpy(),
        image.numpy(),
        level.sizes[:, [2, 1, 0]].numpy(),
        bottom.numpy(),
        rotation_y.numpy(),
        None if level.scores is None else level.scores.numpy(),
    )


def wrap_angle(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The same direction in [-pi, pi)."""
    out: Tensor = torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi
    return out


def read_plane(path: str | Path) -> Float64[Tensor, " 4"]:
    """The ground plane (a, b, c, d) of a planes file: a x + b y + c z + d = 0 in rect, unit normal pointing up (b < 0).

    Raises:
        Vision3DError: missing, or no plane in it.
    """
    path = Path(path)
    lines = [line for line in read_ascii(path).splitlines() if line.strip() and not line.startswith("#")]
    try:
        plane = torch.tensor([float(v) for v in lines[-1].split()], dtype=torch.float64)
    except (IndexError, ValueError):
        plane = torch.zeros(0, dtype=torch.float64)
    if plane.shape != (4,) or not bool(torch.isfinite(plane).all()) or not float(plane[:3].norm()) > 0:
        raise Vision3DError(f"{path}: the last line of a planes file has four numbers a b c d")
    plane = plane / plane[:3].norm()
    up: Tensor = -plane if float(plane[1]) > 0 else plane
    return up


def read_split(path: str | Path) -> tuple[str, ...]:
    """Frame names of an ImageSets file, one a line. Vision3DError: missing, empty, or not one name a line."""
    path = Path(path)
    names = [line.strip() for line in read_ascii(path).splitlines() if line.strip()]
    for number, name in enumerate(names, 1):
        if len(name.split()) != 1:
            raise Vision3DError(f"{path}: one frame name a line, got {name!r} (name {number})")
    if not names:
        raise Vision3DError(f"{path} names no frames")
    return tuple(names)


def _image_boxes(
    corners: Float64[Tensor, "n 8 3"], camera: Camera
) -> tuple[Float64[Tensor, "n 4"], Float64[Tensor, " n"]]:
    """KITTI's px around the corners in the camera frame, cut to the image, and the share that the cut takes away."""
    near = 0.1  # m: edges are cut there, before the camera
    a, b = corners[:, _EDGES[0]], corners[:, _EDGES[1]]
    share = ((near - a[..., 2:]) / torch.where(b[..., 2:] == a[..., 2:], 1.0, b[..., 2:] - a[..., 2:])).clamp(0, 1)
    cut = a + share * (b - a)
    points = torch.cat([corners, cut], dim=1)
    crossing = (a[..., 2] < near) != (b[..., 2] < near)
    use = torch.cat([corners[..., 2] >= near, crossing], dim=1)
    pixels, _ = camera.project(torch.where(use[..., None], points, points.new_tensor([0.0, 0, 1])))
    pixels = pixels - OURS_FROM_KITTI_PX
    low = torch.where(use[..., None], pixels, torch.inf).amin(1) if len(corners) else pixels.new_zeros(0, 2)
    high = torch.where(use[..., None], pixels, -torch.inf).amax(1) if len(corners) else pixels.new_zeros(0, 2)
    most = low.new_tensor([camera.width - 1, camera.height - 1])
    inside_low, inside_high = low.clamp(min=0).minimum(most), high.clamp(min=0).minimum(most)
    shown = (use.any(1)) & (high > 0).all(1) & (low < most).all(1)
    full = (high - low).prod(1)
    truncation = 1 - (inside_high - inside_low).prod(1) / torch.where(shown & (full > 0), full, torch.inf)
    box = torch.where(shown[:, None], torch.cat([inside_low, inside_high], dim=1), -1.0)
    return box, truncation.clamp(0, 1)


_EDGES = (
    [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3],
    [1, 2, 3, 0, 5, 6, 7, 4, 4, 5, 6, 7],
)


def _double(boxes: Boxes3D) -> Boxes3D:
    scores = None if boxes.scores is None else boxes.scores.detach().cpu().double()
    centers, sizes, yaw = (v.detach().cpu().double() for v in (boxes.centers, boxes.sizes, boxes.yaw))
    return Boxes3D(centers, sizes, yaw, boxes.labels.cpu(), scores, boxes.frame)


def _matrix(path: Path, rows: dict[str, list[str]], names: tuple[str, ...], shape: tuple[int, int]) -> Tensor:
    name = next((name for name in names if name in rows), None)
    if name is None:
        raise Vision3DError(
            f"{path} has no {names[0]}: a calibration file of KITTI has lines P0 to P3, R0_rect and Tr_velo_to_cam"
        )
    try:
        matrix = torch.tensor([float(v) for v in rows[name]], dtype=torch.float64)
    except ValueError:
        raise Vision3DError(f"{path}: {name} has an entry that is not a number") from None
    if matrix.numel() != shape[0] * shape[1] or not bool(torch.isfinite(matrix).all()):
        raise Vision3DError(f"{path}: {name} should have {shape[0] * shape[1]} finite numbers, got {len(rows[name])}")
    return matrix.reshape(shape)


def _rigid(path: Path, matrix: Tensor, name: str) -> RigidTransform:
    try:
        return RigidTransform.from_matrix(matrix)
    except ValueError as error:
        raise Vision3DError(f"{path}: {name}: {error}") from None
