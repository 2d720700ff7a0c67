"""The body of a four-legged animal in a pose: tubes around its bones, and named points on its skin.

x right, y towards the head, z up, metres; the withers stand above y > 0, feet near z = 0. Left and right are mirror
images about x = 0 in the pose of zero angles. A named point is where a ray from inside, fixed to a bone, leaves the
skin, so that it is the same place of the body in every pose and on every individual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from vision3d.data.simulation.animal_shape import AnimalPose, AnimalShape
from vision3d.data.simulation.blended_tubes import Chain, Layer, Tube, Vector

KEYPOINTS = (
    "nose", "chin", "eye right", "eye left", "ear tip right", "ear tip left", "withers", "tail root", "tail tip",
    "elbow right", "elbow left", "knee right", "knee left", "hock right", "hock left",
    "foot front right", "foot front left", "foot back right", "foot back left",
)  # fmt: skip
Ray = tuple[Vector, Vector]
_X, _Y, _Z = np.eye(3)


@dataclass(frozen=True, slots=True)
class AnimalBody:
    """Tubes, metres; per keypoint a point inside and the direction in which it lies on the skin."""

    layers: tuple[Layer, ...]
    rays: Mapping[str, Ray]


def animal_body(shape: AnimalShape, pose: AnimalPose) -> AnimalBody:
    """The body of this individual in this pose."""
    rays: dict[str, Ray] = {}
    trunk = Layer((_trunk(shape, rays),), 0.0)
    neck, poll, turn = _neck(shape, pose)
    head = _head(shape, pose, poll, turn, rays)
    legs = (
        [_foreleg(shape, pose, side, rays) for side in (1, -1)],
        [_hindleg(shape, pose, side, rays) for side in (1, -1)],
    )
    h = shape.height
    layers = [trunk, Layer((neck,), 0.12 * h), *head]
    layers += [Layer(tuple(pair), 0.07 * h) for pair in legs]
    layers.append(Layer((_tail(shape, pose, rays),), 0.03 * h))
    scaled = tuple(
        Layer(tuple(Chain(tuple(_scaled(t, h) for t in c.tubes), c.blend * h) for c in layer.chains), layer.blend)
        for layer in layers
    )
    return AnimalBody(scaled, {name: (rays[name][0] * h, rays[name][1]) for name in KEYPOINTS})


def _scaled(tube: Tube, by: float) -> Tube:
    return Tube(tube.part, tube.start * by, tube.end * by, tube.radius0 * by, tube.radius1 * by, tube.across, tube.flat)


def _at(x: float, y: float, z: float) -> Vector:
    return np.array([x, y, z], np.float64)


def _turn(axis: Vector, angle: float) -> Float64[np.ndarray, "3 3"]:
    out: Float64[np.ndarray, "3 3"] = Rotation.from_rotvec(axis * angle).as_matrix()
    return out


def _string(part: str, points: list[Vector], radii: list[float], across: Vector = _X, flat: float = 1.0) -> list[Tube]:
    return [Tube(part, points[k], points[k + 1], radii[k], radii[k + 1], across, flat) for k in range(len(points) - 1)]


def _trunk(shape: AnimalShape, rays: dict[str, Ray]) -> Chain:
    length, depth = shape.length, shape.chest
    belly = 1 - depth
    loin = 0.95 - depth * shape.tuck
    # y as a share of the length, heights of back and belly
    profile = (
        (-0.4, 0.90, 0.60), (-0.3, 0.965, 0.965 - 0.85 * depth * min(shape.tuck + 0.1, 1.0)), (-0.08, 0.945, loin),
        (0.1, 0.945, (belly + loin) / 2 - 0.01), (0.26, 0.985, belly), (0.38, 0.93, belly + 0.05),
    )  # fmt: skip
    points = [_at(0, y * length, (top + bottom) / 2) for y, top, bottom in profile]
    radii = [(top - bottom) / 2 for _, top, bottom in profile]
    rays["withers"] = (points[4], _Z)
    return Chain(tuple(_string("trunk", points, radii, _X, shape.width)), 0.1)


def _neck(shape: AnimalShape, pose: AnimalPose) -> tuple[Chain, Vector, Float64[np.ndarray, "3 3"]]:
    """The neck, where it ends, and how it is turned aside."""
    up = shape.neck_up + pose.neck_up
    base = _at(0, 0.33 * shape.length, 1 - shape.neck_base - 0.06)
    half = _turn(_Z, pose.neck_aside / 2)
    whole = _turn(_Z, pose.neck_aside)
    middle = base + half @ _at(0, np.cos(up - 0.12), np.sin(up - 0.12)) * shape.neck / 2
    poll = middle + whole @ _at(0, np.cos(up + 0.12), np.sin(up + 0.12)) * shape.neck / 2
    radii = [shape.neck_base, 0.55 * (shape.neck_base + shape.throat), shape.throat]
    tubes = _string("neck", [base, middle, poll], radii, half @ _X, 0.68)
    if shape.mane:
        rise = [whole @ _at(0, -np.sin(up), np.cos(up)) * r for r in radii]
        crest = [base + rise[0] * 0.75, middle + rise[1] * 0.95, poll + rise[2]]
        tubes += _string("mane", crest, [shape.mane * 0.7, shape.mane, shape.mane], half @ _X, 0.7)
    return Chain(tuple(tubes), 0.03), poll, whole


def _head(
    shape: AnimalShape, pose: AnimalPose, poll: Vector, turn: Float64[np.ndarray, "3 3"], rays: dict[str, Ray]
) -> list[Layer]:
    frame = turn @ _turn(_Z, pose.head_aside) @ _turn(_X, -shape.head_down + pose.head_up + 0.5 * pose.neck_up)
    right, front, up = frame.T
    skull, muzzle = shape.skull, shape.muzzle
    tip = poll + front * (shape.head - muzzle) - up * shape.stop * skull
    brow = poll + front * 0.3 * shape.head
    bridge = brow + 0.35 * (tip - brow) - up * 0.12 * shape.stop * skull
    tubes = _string("head", [poll, brow], [skull, 0.85 * skull], right, 0.88)
    tubes += _string("head", [brow, bridge], [0.8 * skull, 0.45 * skull + 0.55 * muzzle], right, 0.88)
    tubes += _string("muzzle", [bridge, tip], [0.4 * skull + 0.6 * muzzle, muzzle], right, 0.95)
    jaw = poll + front * 0.18 * shape.head - up * 0.45 * skull
    chin = tip - up * 0.45 * muzzle - front * 0.25 * muzzle
    tubes += _string("head", [jaw, chin], [0.75 * skull, 0.6 * muzzle], right, 0.8)
    layers = [Layer((Chain(tuple(tubes), 0.02),), 0.05 * shape.height)]
    nose = tip + front * 0.75 * muzzle + up * 0.25 * muzzle
    layers.append(
        Layer((Chain((Tube("nose", nose, nose, 0.45 * muzzle, 0.45 * muzzle, right),), 0.0),), 0.01 * shape.height)
    )
    rays["nose"] = (nose, front)
    rays["chin"] = (chin, 0.4 * front - up)
    eye = poll + front * 0.3 * shape.head + up * 0.3 * skull
    rays["eye right"] = (eye, right + 0.45 * front + 0.12 * up)
    rays["eye left"] = (eye, -right + 0.45 * front + 0.12 * up)
    ears = tuple(_ear(shape, poll, frame, side, rays) for side in (1, -1))
    layers.append(Layer(ears, 0.012 * shape.height))
    if shape.horn:
        layers.append(Layer(tuple(_horn(shape, poll, frame, side) for side in (1, -1)), 0.01 * shape.height))
    return layers


def _ear(shape: AnimalShape, poll: Vector, frame: Float64[np.ndarray, "3 3"], side: int, rays: dict[str, Ray]) -> Chain:
    right, front, up = frame.T
    sideways, out = side * right, shape.ear_out
    if out > 2.2:  # hangs beside the head
        root = poll + sideways * 0.8 * shape.skull + up * 0.6 * shape.skull
        way = -up + 0.45 * sideways - 0.1 * front
        way /= np.linalg.norm(way)
        face = sideways
    else:
        root = poll + (sideways * 0.6 * np.sin(min(out + 0.5, 1.4)) + up * 0.65) * shape.skull
        way = np.cos(out) * up + np.sin(out) * sideways
        over = -np.sin(out) * up + np.cos(out) * sideways
        face = 0.35 * over + front if out < 1 else front * 0.5 + up * 0.6
    thin = face - way * float(face @ way)
    thin /= np.linalg.norm(thin)
    middle, end = root + way * 0.4 * shape.ear, root + way * shape.ear * 0.95
    hanging = root + way * 0.9 * shape.ear, sideways - 0.3 * up  # along it the ray could run on into the neck
    rays[f"ear tip {'right' if side > 0 else 'left'}"] = hanging if out > 2.2 else (middle, way)
    wide = [0.75 * shape.ear_width, shape.ear_width, 0.3 * shape.ear_width]
    return Chain(tuple(_string("ear", [root, middle, end], wide, thin, 0.35)), 0.01)


def _horn(shape: AnimalShape, poll: Vector, frame: Float64[np.ndarray, "3 3"], side: int) -> Chain:
    right, front, up = frame.T
    root = poll + (up * 0.75 + side * right * 0.5) * shape.skull
    bow = root + (0.6 * side * right + 0.2 * up) * shape.horn
    end = bow + (0.55 * up + 0.2 * front) * shape.horn
    return Chain(tuple(_string("horn", [root, bow, end], [0.026, 0.02, 0.01])), 0.01)


def _foreleg(shape: AnimalShape, pose: AnimalPose, side: int, rays: dict[str, Ray]) -> Chain:
    name, k = ("right", 0) if side > 0 else ("left", 1)
    swing, bend = pose.swing[1 - k], pose.bend[1 - k]
    elbow_height = 1 - shape.chest + 0.05
    x = side * (0.5 * shape.chest * shape.width - 0.6 * shape.leg)
    shoulder = _at(0.9 * x, 0.33 * shape.length, 1 - 0.5 * shape.chest)
    upper = _turn(_X, swing)
    lower = upper @ _turn(_X, -bend)
    elbow = shoulder + upper @ _at(0.1 * x, -0.07, elbow_height - shoulder[2])
    knee = elbow + upper @ _at(0, 0.025, -0.46 * elbow_height)
    fetlock = knee + lower @ _at(0, -0.01, -0.40 * elbow_height)
    heel = fetlock + lower @ _at(0, 0.02, -0.14 * elbow_height + 0.035)
    toe = heel + lower @ _at(0, shape.foot, -0.01)
    r = shape.leg
    tubes = _string("leg", [shoulder, elbow, knee], [2.1 * r, 1.25 * r, 0.78 * r])
    tubes += _string("shank", [knee, fetlock, heel], [0.76 * r, 0.56 * r, 0.66 * r])
    tubes += _string("foot", [heel, toe], [0.8 * r, 0.72 * r])
    rays[f"elbow {name}"] = (elbow, upper @ _at(side, -0.5, 0))
    rays[f"knee {name}"] = (knee, upper @ _Y)
    rays[f"foot front {name}"] = (toe, lower @ _Y)
    return Chain(tuple(tubes), 0.03)


def _hindleg(shape: AnimalShape, pose: AnimalPose, side: int, rays: dict[str, Ray]) -> Chain:
    name, k = ("right", 2) if side > 0 else ("left", 3)
    swing, bend = pose.swing[5 - k], pose.bend[5 - k]
    top = 1 - shape.chest + 0.05
    x = side * (0.42 * shape.chest * shape.width - 0.3 * shape.leg)
    hip = _at(0.8 * x, -0.33 * shape.length, 0.77)
    thigh = _turn(_X, swing)
    shin = thigh @ _turn(_X, -0.6 * bend)
    cannon = shin @ _turn(_X, 0.5 * bend)
    stifle = hip + thigh @ _at(0.3 * x, 0.09, top + 0.02 - hip[2])
    hock = stifle + shin @ _at(0, -0.19, -0.46 * top)
    fetlock = hock + cannon @ _at(0, 0.035, -0.42 * top)
    heel = fetlock + cannon @ _at(0, 0.02, -0.14 * top + 0.015)
    toe = heel + cannon @ _at(0, shape.foot, -0.01)
    r = shape.leg
    tubes = _string("leg", [hip, stifle, hock], [2.7 * r, 1.9 * r, 0.85 * r], _X, 0.85)
    tubes += _string("shank", [hock, fetlock, heel], [0.82 * r, 0.58 * r, 0.66 * r])
    tubes += _string("foot", [heel, toe], [0.8 * r, 0.72 * r])
    rays[f"hock {name}"] = (hock, shin @ _at(0, -1, 0.1))
    rays[f"foot back {name}"] = (toe, cannon @ _Y)
    return Chain(tuple(tubes), 0.03)


def _tail(shape: AnimalShape, pose: AnimalPose, rays: dict[str, Ray]) -> Chain:
    root = _at(0, -0.44 * shape.length, 0.86)
    points, pieces = [root], 5
    for k in range(pieces):
        angle = shape.tail_up + shape.tail_curl * k / pieces
        aside = _turn(_Z, pose.tail_aside * (k + 1) / pieces)
        points.append(points[-1] + aside @ _at(0, -np.sin(angle), -np.cos(angle)) * shape.tail / pieces)
    share = np.linspace(0, 1, pieces + 1)
    radii = (shape.tail_root + (shape.tail_tip - shape.tail_root) * np.clip(1.6 * share - 0.5, 0, 1)).tolist()
    if shape.tail_tip > shape.tail_root:  # a tuft ends in a point
        radii[-1] = 0.4 * shape.tail_tip
    rays["tail root"] = (root, _at(0, -0.4, 1))
    rays["tail tip"] = (points[-1], points[-1] - points[-2])
    return Chain(tuple(_string("tail", points, radii)), 0.02)
