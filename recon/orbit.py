"""A smooth, closed path of virtual cameras about a scene, in the range of the cameras that took the photos.

In spherical coordinates about the scene's centre, distance and elevation of the cameras are smoothed over their azimuth
(kernel regression: E. Nadaraya, "On estimating regression", 1964), so that the path stays between the cameras and goes
where photos were taken. Cameras all around the scene give a full turn at constant speed; cameras on one side give a
narrow ellipse along them, there and back, that slows down towards its ends as a pendulum does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vision3d.core import Camera, RigidTransform
from vision3d.geometry.upright import up_direction

RING_GAP = math.radians(100)  # cameras with no wider gap between them stand all around
MIN_HALF_ANGLE = math.radians(4)  # of the ellipse, where the cameras stand close together
FLATNESS, MAX_LIFT = 0.15, math.radians(6)  # height of the ellipse over its width, and its largest half
MAX_ELEVATION = math.radians(85)
_STEPS = 2000  # at which the length of a full turn is measured


def orbit_path(
    cameras: Sequence[tuple[RigidTransform, Camera]], points: Float[Tensor, "n 3"], frames: int
) -> list[tuple[RigidTransform, Camera]]:
    """Poses (cam_from_world, float64) and cameras of a film whose last frame leads over to its first.

    All frames have one camera: of the most common picture size, its focal length the median. They look at the median of
    the points (or, without points, at the point nearest to all optical axes), upright.

    Args:
        cameras: (cam_from_world, camera) of the photos, at least one. points: of the scene, world frame; those that
            are not finite do not count.

    Raises:
        ValueError: no camera, fewer than one frame, or poses that are not finite.
    """
    if not cameras:
        raise ValueError("an orbit needs at least one camera")
    if frames < 1:
        raise ValueError(f"an orbit needs at least one frame, got {frames}")
    rotations = torch.stack([pose.rotation.detach().double().cpu() for pose, _ in cameras])
    centers = torch.stack([pose.center().detach().double().cpu() for pose, _ in cameras])
    if not bool(torch.isfinite(rotations).all() and torch.isfinite(centers).all()):
        raise ValueError("a camera's pose holds NaN or infinity")
    target = _target(rotations, centers, points.detach().double().cpu())
    frame = _upright_frame(rotations, centers, target)
    azimuth, elevation, distance = _spherical((centers - target) @ frame)
    start, width = _widest_gap(azimuth)
    all_around = width <= RING_GAP
    phase = torch.arange(_STEPS if all_around else frames, dtype=torch.float64)
    phase = phase * (2 * math.pi / len(phase))
    if all_around:
        angles, lift = phase, torch.zeros_like(phase)
    else:
        span = 2 * math.pi - width
        half = max(span / 2, MIN_HALF_ANGLE)
        angles = start + width + span / 2 + half * torch.sin(phase)
        lift = min(FLATNESS * half, MAX_LIFT) * torch.cos(phase)
    log_distance, height = _smoothed(angles, azimuth, torch.stack([distance.log(), elevation], dim=1)).unbind(1)
    height = (height + lift).clamp(-MAX_ELEVATION, MAX_ELEVATION)
    eyes = target + _cartesian(angles, height, log_distance.exp()) @ frame.mT
    if all_around:
        eyes = _evenly(torch.cat([eyes, eyes[:1]]), frames)
    camera = _camera([camera for _, camera in cameras])
    return [(_looking_at(eye, target, frame[:, 2]), camera) for eye in eyes]


def _target(
    rotations: Float[Tensor, "c 3 3"], centers: Float[Tensor, "c 3"], points: Float[Tensor, "n 3"]
) -> Float[Tensor, " 3"]:
    points = points[torch.isfinite(points).all(1)]
    if len(points):
        return points.median(dim=0).values
    axes = rotations[:, 2]
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None]
    spread = float(torch.linalg.vector_norm(centers - centers.mean(0), dim=1).max())
    ahead = centers.mean(0) + axes.mean(0) * (2 * spread if spread > 0 else 1.0)
    # Axes that are nearly parallel meet nowhere: a small pull keeps the point in front of the cameras.
    weak = 1e-3 * torch.eye(3, dtype=torch.float64)
    right = (across @ centers[:, :, None])[..., 0].mean(0) + weak @ ahead
    nearest: Tensor = torch.linalg.solve(across.mean(0) + weak, right)
    return nearest


def _upright_frame(
    rotations: Float[Tensor, "c 3 3"], centers: Float[Tensor, "c 3"], target: Float[Tensor, " 3"]
) -> Float[Tensor, "3 3"]:
    """Columns: two level directions and up."""
    up = up_direction(rotations)
    level = centers.mean(0) - target
    candidates = torch.stack([level, *torch.eye(3, dtype=torch.float64)])
    candidates = candidates - (candidates @ up)[:, None] * up
    scale = max(float(level.norm()), 1e-300)
    level = candidates[0] if float(candidates[0].norm()) > 1e-3 * scale else max(candidates[1:], key=torch.norm)
    level = level / level.norm()
    return torch.stack([level, torch.linalg.cross(up, level), up], dim=1)


def _spherical(
    places: Float[Tensor, "c 3"],
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Azimuth, elevation (rad) and distance; places at the centre itself are put beside the others."""
    distance = torch.linalg.vector_norm(places, dim=1)
    farthest = float(distance.max())
    if farthest == 0:
        places, distance = torch.tensor([[1.0, 0, 0]]).double().expand_as(places), torch.ones_like(distance)
    else:
        distance = distance.clamp(min=1e-3 * farthest)
    azimuth = torch.atan2(places[:, 1], places[:, 0])
    return azimuth, torch.asin((places[:, 2] / distance).clamp(-1, 1)), distance


def _cartesian(
    azimuth: Float[Tensor, " s"], elevation: Float[Tensor, " s"], distance: Float[Tensor, " s"]
) -> Float[Tensor, "s 3"]:
    level = elevation.cos()
    return torch.stack([level * azimuth.cos(), level * azimuth.sin(), elevation.sin()], dim=1) * distance[:, None]


def _widest_gap(azimuth: Float[Tensor, " c"]) -> tuple[float, float]:
    """Where the widest gap between neighbouring azimuths begins, and its width (rad)."""
    ordered = azimuth.sort().values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered
    widest = int(gaps.argmax())
    return float(ordered[widest]), float(gaps[widest])


def _smoothed(
    angles: Float[Tensor, " s"], azimuth: Float[Tensor, " c"], values: Float[Tensor, "c v"]
) -> Float[Tensor, "s v"]:
    """Mean of the cameras' values weighted by their nearness in azimuth (von Mises kernel)."""
    ordered = azimuth.sort().values
    gaps = torch.cat([ordered[1:], ordered[:1] + 2 * math.pi]) - ordered
    usual = float(gaps.sort().values[: max(1, len(gaps) - 1)].quantile(0.9)) if len(gaps) > 1 else math.pi
    bandwidth = min(max(1.5 * usual, math.radians(12)), math.radians(60))
    weight = torch.softmax((angles[:, None] - azimuth).cos() / bandwidth**2, dim=1)
    return weight @ values


def _evenly(path: Float[Tensor, "s 3"], frames: int) -> Float[Tensor, "f 3"]:
    """`frames` places at equal distances along a closed path (its last place is its first again)."""
    steps = torch.linalg.vector_norm(path[1:] - path[:-1], dim=1)
    length = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    wanted = torch.arange(frames, dtype=torch.float64) / frames * length[-1]
    after = torch.searchsorted(length, wanted, right=True).clamp(1, len(path) - 1)
    share = (wanted - length[after - 1]) / (length[after] - length[after - 1]).clamp(min=1e-300)
    return path[after - 1] + share[:, None] * (path[after] - path[after - 1])


def _looking_at(eye: Float[Tensor, " 3"], target: Float[Tensor, " 3"], up: Float[Tensor, " 3"]) -> RigidTransform:
    forward = (target - eye) / torch.linalg.vector_norm(target - eye)
    right = torch.linalg.cross(forward, up)
    right = right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    return RigidTransform(rotation, -rotation @ eye)


def _camera(cameras: Sequence[Camera]) -> Camera:
    """One pinhole camera for all frames, looking along the middle of its picture."""
    width, height = Counter((camera.width, camera.height) for camera in cameras).most_common(1)[0][0]
    alike = [camera for camera in cameras if (camera.width, camera.height) == (width, height)]
    fx, fy = (float(torch.tensor([c.focal[i] for c in alike], dtype=torch.float64).median()) for i in (0, 1))
    return Camera(width, height, (fx, fy), (width / 2, height / 2))
