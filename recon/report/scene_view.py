"""A scene made ready for looking at: centred, upright, scaled to about 1, robust against far-off points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from vision3d.core import Scene

MAX_POINTS = 100_000
FIELD_OF_VIEW = math.radians(40)
SIDES = tuple(math.radians(degrees) for degrees in (24, -24))  # a start view a little to the side and above shows depth
PITCHES = tuple(math.radians(degrees) for degrees in (16, 28, 40))


@dataclass(frozen=True, slots=True)
class Frustum:
    """A camera in the view frame: its centre and the corners of its photo (top left, then clockwise)."""

    name: str
    center: Float[np.ndarray, " xyz"]
    corners: Float[np.ndarray, "4 xyz"]


@dataclass(frozen=True, slots=True)
class SceneView:
    """Points and cameras in a view frame: x right, y up, z towards the viewer, the middle of the points at the origin.

    The cameras' mean direction of view has no x part and points to -z, their mean up is +y; most points lie within
    1 of the origin. `framing` are the points that a start view must show, `axes` the rows x, y, z of the world,
    `floor` the height of the ground, `yaw` and `pitch` (radians) the start view. `middle` and `scale` are the origin
    of the view frame in the world and the length of the world's unit in it.
    """

    points: Float[np.ndarray, "n 3"]
    colors: UInt8[np.ndarray, "n 3"]
    frustums: tuple[Frustum, ...]
    framing: Float[np.ndarray, "k 3"]
    near: float
    axes: Float[np.ndarray, "3 3"]
    floor: float
    point_size: float
    yaw: float
    pitch: float
    middle: Float[np.ndarray, " xyz"]
    scale: float

    def of_world(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """World points in the view frame."""
        seen: np.ndarray = (points - self.middle) @ self.axes * self.scale
        return seen


def view_of(scene: Scene, max_points: int = MAX_POINTS) -> SceneView:
    """The scene in its view frame; of more than `max_points` finite points, an evenly drawn subset."""
    points, colors = _finite_points(scene, max_points)
    names, centers, world_from_cam = _cameras(scene)
    middle = np.median(points, axis=0) if len(points) else _middle_of_cameras(centers)
    view_from_world = _orientation(world_from_cam)

    points = (points - middle) @ view_from_world.T
    centers = (centers - middle) @ view_from_world.T
    core = _without_outliers(points)
    scale = 1 / _radius(core, centers)
    points, core, centers = points * scale, core * scale, centers * scale

    depth = _frustum_depth(centers)
    frustums = tuple(
        Frustum(name, center, center + _corner_rays(scene, name) @ (view_from_world @ rotation).T * depth)
        for name, center, rotation in zip(names, centers, world_from_cam, strict=True)
    )
    away = np.linalg.norm(centers, axis=1)
    framed = [
        np.concatenate([f.center[None], f.corners])
        for f, d in zip(frustums, away, strict=True)
        if d <= 3 * max(1.0, float(np.median(away)))
    ]
    corners = np.concatenate(framed) if framed else np.zeros((0, 3))
    framing = np.concatenate([_every(core, 600), _every(corners, 1200), np.zeros((1, 3))])
    near = 4 * depth if len(framed) else 0.2
    floor = float(np.percentile(core[:, 1], 1)) if len(core) else float(corners[:, 1].min(initial=-0.5))
    size = float(np.clip(0.75 / math.sqrt(max(len(points), 1)), 0.003, 0.012))
    starts = [(yaw, pitch) for pitch in PITCHES for yaw in SIDES]
    yaw, pitch = max(starts, key=lambda start: round(_filled(core, framing, near, *start), 3))
    return SceneView(points, colors, frustums, framing, near, view_from_world.T, floor, size, yaw, pitch, middle, scale)


def fit(
    framing: Float[np.ndarray, "k 3"], near: float, yaw: float, pitch: float, aspect: float, covered: float = 0.0
) -> tuple[float, float, float]:
    """(distance, x, y): how far the eye must be from a point x right and y above the origin to see all of `framing`.

    Each side of the picture touches a point, less a little air, but none is closer to the eye than `near`;
    the field of view is that of the picture's height, of which the lowest share `covered` is kept free (a tool bar).
    """
    inside = framing @ turn(yaw, pitch).T
    top = math.tan(FIELD_OF_VIEW / 2) * 0.94
    bottom, side = top - 2 * math.tan(FIELD_OF_VIEW / 2) * covered, top * aspect
    x, y, z = inside.T
    right, left = float((x + side * z).max(initial=0.0)), float((side * z - x).max(initial=0.0))
    above, below = float((y + top * z).max(initial=0.0)), float((bottom * z - y).max(initial=0.0))
    closest = float(z.max(initial=0.0)) + near
    distance = max((right + left) / (2 * side), (above + below) / (top + bottom), closest)
    return distance, (right - left) / 2, (above - below - (top - bottom) * distance) / 2


def _filled(
    core: Float[np.ndarray, "n 3"], framing: Float[np.ndarray, "k 3"], near: float, yaw: float, pitch: float
) -> float:
    """Share of the height of a usual picture that most points reach over, from where all of `framing` is seen.

    The square root of their area on it, between the 5th and 95th percentile; without points, how near the eye comes.
    """
    distance, x, y = fit(framing, near, yaw, pitch, 1.6)
    if not len(core):
        return 1 / distance
    seen = _every(core, 5000) @ turn(yaw, pitch).T - (x, y, distance)
    low, high = np.percentile(seen[:, :2] / -seen[:, 2:], [5, 95], axis=0)
    return float(np.sqrt(np.prod(high - low))) / (2 * math.tan(FIELD_OF_VIEW / 2))


def turn(yaw: float, pitch: float) -> Float[np.ndarray, "3 3"]:
    """eye_from_view rotation: first about y (up) by yaw, then about x by pitch."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    return np.array([[cy, 0, -sy], [-sp * sy, cp, -sp * cy], [cp * sy, sp, cp * cy]])


def _finite_points(scene: Scene, limit: int) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    points = scene.points.detach().cpu().double().numpy()
    keep = np.flatnonzero(np.isfinite(points).all(axis=1) & (np.abs(points) < 1e30).all(axis=1))
    if len(keep) > limit:
        keep = np.sort(np.random.default_rng(0).choice(keep, limit, replace=False))
    return points[keep], scene.colors.detach().cpu().numpy()[keep]


def _cameras(scene: Scene) -> tuple[list[str], Float[np.ndarray, "c 3"], Float[np.ndarray, "c 3 3"]]:
    """Names, centres and world_from_cam rotations of the photos whose pose is finite."""
    names, centers, rotations = [], [], []
    for name, image in scene.images.items():
        pose = image.cam_from_world
        if bool(torch.isfinite(pose.rotation).all() and torch.isfinite(pose.translation).all()):
            names.append(name)
            centers.append(pose.center().detach().cpu().double().numpy())
            rotations.append(pose.rotation.detach().cpu().double().numpy().T)
    return names, np.array(centers).reshape(-1, 3), np.array(rotations).reshape(-1, 3, 3)


def _middle_of_cameras(centers: Float[np.ndarray, "c 3"]) -> Float[np.ndarray, xyz]:
    return centers.mean(axis=0) if len(centers) else np.zeros(3)


def _orientation(world_from_cam: Float[np.ndarray, "c 3 3"]) -> Float[np.ndarray, "3 3"]:
    """view_from_world, rows right, up, back: the cameras' mean up, and against their mean direction of view."""
    if not len(world_from_cam):
        return np.diag([1.0, -1.0, -1.0])
    up = -world_from_cam[:, :, 1].mean(axis=0)
    if np.linalg.norm(up) < 0.2:  # photos turned every way
        up = -world_from_cam[0, :, 1]
    up /= np.linalg.norm(up)
    right, down, ahead = world_from_cam[0].T
    for direction in (world_from_cam[:, :, 2].mean(axis=0), ahead, down, right):
        flat = direction - up * (direction @ up)
        if np.linalg.norm(flat) > 0.25:  # cameras in a ring look nowhere on average: then as the first one looks
            break
    back = -flat / np.linalg.norm(flat)
    return np.stack([np.cross(up, back), up, back])


def _without_outliers(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 3"]:
    """Those within the 2nd to 98th percentile along every axis."""
    if len(points) < 20:
        return points
    low, high = np.percentile(points, [2, 98], axis=0)
    core: np.ndarray = points[np.all((points >= low) & (points <= high), axis=1)]
    return core


def _radius(core: Float[np.ndarray, "n 3"], centers: Float[np.ndarray, "c 3"]) -> float:
    """Of most points; where there are none, of the cameras."""
    for cloud in (core, centers):
        if len(cloud):
            radius = float(np.percentile(np.linalg.norm(cloud, axis=1), 90))
            if radius > 1e-12:
                return radius
    return 1.0


def _frustum_depth(centers: Float[np.ndarray, "c 3"]) -> float:
    """Half of the usual distance between neighbours, so that frustums rarely overlap, within bounds."""
    if len(centers) < 2:
        return 0.25
    some = _every(centers, 500)
    gaps = np.linalg.norm(some[:, None] - some[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return float(np.clip(0.5 * np.median(gaps.min(axis=1)), 0.06, 0.3))


def _corner_rays(scene: Scene, name: str) -> Float[np.ndarray, "4 3"]:
    """The photo's corners at depth 1 in the camera frame, without distortion; very wide photos are kept drawable."""
    camera = scene.camera_of(name)
    (fx, fy), (cx, cy) = camera.focal, camera.center
    x = np.array([-cx, camera.width - cx, camera.width - cx, -cx]) / fx
    y = np.array([-cy, -cy, camera.height - cy, camera.height - cy]) / fy
    rays = np.stack([x, y, np.ones(4)], axis=1)
    return rays / max(1.0, float(np.abs(rays).max()) / 1.5)


def _every(rows: Float[np.ndarray, "n 3"], limit: int) -> Float[np.ndarray, "m 3"]:
    """At most `limit` rows, evenly spaced."""
    return rows[:: max(1, -(-len(rows) // limit))]
