"""A drive through a simulated street: where the sensor is and where the others are, at a time."""

from __future__ import annotations

import numpy as np
import torch

from vision3d.core import RigidTransform
from vision3d.data.simulation.labels import Standing
from vision3d.data.simulation.street import EGO, Street
from vision3d.geometry.rotated_rectangles import intersection_areas
from vision3d.geometry.rotation import rotation_exp

SPEED = 10.0  # of the sensor, m/s


def sensor_pose(
    street: Street, way: float, height: float, course: np.random.Generator, shake: np.random.Generator
) -> RigidTransform:
    """street_from_lidar after `way` metres, float64.

    height: of the sensor over the ground, m. course: draws what all frames of the drive share, shake: what not.
    """
    sway, phase, skew = course.uniform(0, 0.25), course.uniform(0, 2 * np.pi), course.normal(0, np.deg2rad(1.5))
    angle = 2 * np.pi * way / 40 + phase
    d = float(street.lane + sway * (np.sin(angle) - np.sin(phase)))
    x, y, ground, heading = street.road.place(way, d)
    z = ground + height + shake.normal(0, 0.01)
    ahead, behind = (street.road.place(way + a, d)[2] for a in (1.5, -1.5))
    pitch = -np.arctan((ahead - behind) / 3) + np.deg2rad(shake.normal(0, 0.4))
    roll = np.deg2rad(shake.normal(0, 0.5))
    yaw = heading + np.arctan(sway * 2 * np.pi / 40 * np.cos(angle)) + skew
    turns = torch.tensor([[0.0, 0.0, yaw], [0.0, pitch, 0.0], [roll, 0.0, 0.0]], dtype=torch.float64)
    about_z, about_y, about_x = rotation_exp(turns)
    return RigidTransform(about_z @ about_y @ about_x, torch.tensor([x, y, z], dtype=torch.float64))


def objects_at(street: Street, time: float, way: float) -> list[Standing]:
    """The actors after `time` seconds, when the sensor has gone `way` metres, in the street's frame.

    Those that would be in the place of the sensor's vehicle or of another are left out.
    """
    road = street.road
    x, y, _, heading = road.place(way, street.lane)
    taken = [np.array([x, y, *EGO, heading])]
    out = []
    for actor in sorted(street.actors, key=lambda a: a.speed):
        along = actor.s + actor.speed * time * float(np.sign(np.cos(actor.turn)))
        x, y, z, heading = road.place(along, actor.d)
        yaw = heading + actor.turn
        footprint = np.array([x, y, actor.size[0], actor.size[1], yaw])
        if not road.start <= along <= road.end or intersection_areas(footprint[None], np.stack(taken)).any():
            continue
        taken.append(footprint)
        center = (x, y, z + actor.size[2] / 2)
        out.append(Standing(actor.kind, actor.solid.placed(x, y, z, yaw), center, actor.size, yaw))
    return out
