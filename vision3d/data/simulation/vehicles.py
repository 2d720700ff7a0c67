"""Cars, vans and trucks as meshes: lofted bodies with windows, lights and wheels.

Heading along +x, standing on z = 0 around the origin. Shapes are drawn once per number and stretched to a size.
"""

from __future__ import annotations

import functools

import numpy as np

from vision3d.data.simulation import materials as m
from vision3d.data.simulation.solids import Solid, box, loft, placed, sheet, tube

# Per station along the length: x, height of the lower edge, of the belt line, of the roof, width at the belt, width
# at the roof; x and widths as shares of the body's, heights of its height. Equal belt and roof: no cabin there.
_SEDAN = (
    (0.00, 0.24, 0.56, 0.56, 0.84, 0.60),
    (0.03, 0.17, 0.64, 0.64, 0.95, 0.70),
    (0.16, 0.14, 0.67, 0.67, 0.99, 0.74),
    (0.29, 0.13, 0.66, 0.96, 1.00, 0.68),
    (0.47, 0.13, 0.65, 1.00, 1.00, 0.70),
    (0.58, 0.13, 0.64, 0.97, 1.00, 0.69),
    (0.73, 0.13, 0.62, 0.62, 0.99, 0.76),
    (0.92, 0.14, 0.53, 0.53, 0.95, 0.70),
    (0.98, 0.17, 0.45, 0.45, 0.86, 0.62),
    (1.00, 0.22, 0.40, 0.40, 0.76, 0.56),
)
_HATCH = (
    (0.00, 0.24, 0.55, 0.55, 0.86, 0.66),
    (0.02, 0.17, 0.63, 0.63, 0.95, 0.72),
    (0.12, 0.14, 0.65, 0.95, 0.98, 0.66),
    (0.34, 0.13, 0.64, 1.00, 1.00, 0.70),
    (0.54, 0.13, 0.63, 0.98, 1.00, 0.70),
    (0.74, 0.13, 0.62, 0.62, 0.99, 0.76),
    (0.93, 0.14, 0.52, 0.52, 0.94, 0.68),
    (0.98, 0.17, 0.44, 0.44, 0.85, 0.60),
    (1.00, 0.22, 0.38, 0.38, 0.74, 0.54),
)
_WAGON = (
    (0.00, 0.24, 0.56, 0.56, 0.86, 0.66),
    (0.02, 0.17, 0.63, 0.63, 0.95, 0.72),
    (0.07, 0.14, 0.65, 0.93, 0.98, 0.66),
    (0.28, 0.13, 0.65, 0.99, 1.00, 0.70),
    (0.56, 0.13, 0.64, 0.98, 1.00, 0.70),
    (0.71, 0.13, 0.62, 0.62, 0.99, 0.76),
    (0.92, 0.14, 0.53, 0.53, 0.95, 0.70),
    (0.98, 0.17, 0.45, 0.45, 0.86, 0.62),
    (1.00, 0.22, 0.40, 0.40, 0.76, 0.56),
)
_SUV = (
    (0.00, 0.28, 0.60, 0.60, 0.90, 0.74),
    (0.02, 0.20, 0.66, 0.66, 0.97, 0.78),
    (0.08, 0.17, 0.67, 0.95, 0.99, 0.74),
    (0.35, 0.16, 0.66, 1.00, 1.00, 0.76),
    (0.58, 0.16, 0.65, 0.98, 1.00, 0.76),
    (0.72, 0.16, 0.63, 0.63, 1.00, 0.82),
    (0.93, 0.18, 0.58, 0.58, 0.97, 0.76),
    (0.985, 0.20, 0.50, 0.50, 0.90, 0.70),
    (1.00, 0.26, 0.44, 0.44, 0.82, 0.64),
)
_VAN = (
    (0.00, 0.18, 0.52, 0.52, 0.95, 0.90),
    (0.01, 0.13, 0.54, 0.97, 0.98, 0.88),
    (0.40, 0.11, 0.54, 1.00, 1.00, 0.90),
    (0.72, 0.11, 0.54, 0.98, 1.00, 0.88),
    (0.88, 0.12, 0.50, 0.50, 0.98, 0.84),
    (0.98, 0.14, 0.42, 0.42, 0.92, 0.78),
    (1.00, 0.18, 0.36, 0.36, 0.84, 0.72),
)
_CARS = (_SEDAN, _HATCH, _WAGON, _SUV)
# Length, width, height of each: mean and deviation in metres, as KITTI's labels have them over all cars.
_SIZES = (
    ((4.50, 0.18), (1.70, 0.06), (1.44, 0.04)),
    ((3.75, 0.22), (1.60, 0.07), (1.49, 0.05)),
    ((4.20, 0.25), (1.66, 0.07), (1.50, 0.06)),
    ((4.25, 0.25), (1.74, 0.08), (1.68, 0.07)),
)
CAR_SHARES = (0.27, 0.38, 0.22, 0.13)
_PAINTS = (0.004, 0.05, 0.1, 0.18, 0.3)  # black to white at 905 nm
SHAPES = 24  # of each kind


def car(rng: np.random.Generator) -> Solid:
    """A passenger car of random shape, size and paint."""
    kind = int(rng.choice(len(_CARS), p=CAR_SHARES))
    size = _size(rng, _SIZES[kind])
    body = _car(kind, int(rng.integers(SHAPES)), int(rng.integers(len(_PAINTS))))
    return body.fitted(*size)


def van(rng: np.random.Generator) -> Solid:
    """A delivery van or minibus."""
    size = _size(rng, ((5.05, 0.35), (1.90, 0.10), (2.20, 0.18)))
    return _van(int(rng.integers(SHAPES)), int(rng.integers(len(_PAINTS)))).fitted(*size)


def truck(rng: np.random.Generator) -> Solid:
    """A lorry: cab and load."""
    size = _size(rng, ((9.0, 1.6), (2.55, 0.08), (3.25, 0.25)))
    return _truck(int(rng.integers(SHAPES)), int(rng.integers(len(_PAINTS)))).fitted(*size)


def _size(rng: np.random.Generator, stats: tuple[tuple[float, float], ...]) -> tuple[float, float, float]:
    a, b, c = (mean + float(np.clip(rng.normal(), -2, 2)) * deviation for mean, deviation in stats)
    return a, b, c


@functools.cache
def _car(kind: int, number: int, paint: int) -> Solid:
    rng = np.random.default_rng([kind, number])
    stations = np.array(_CARS[kind])
    inner = stations[1:-1]
    inner[:, 0] += rng.normal(0, 0.008, len(inner))
    cabin = inner[:, 3] > inner[:, 2]
    inner[:, 1:3] *= 1 + rng.normal(0, 0.012, 2)
    inner[:, 3] = np.where(cabin, inner[:, 3], inner[:, 2])
    inner[:, 5] += rng.normal(0, 0.02)
    length, width, height = (mean for mean, _ in _SIZES[kind])
    parts = _body(stations, length, width, height, _PAINTS[paint])
    front, rear = 0.81 + rng.normal(0, 0.008), 0.18 + rng.normal(0, 0.01)
    parts += _wheels([(front - 0.5) * length, (rear - 0.5) * length], 0.31 + 0.02 * (kind == 3), width)
    return Solid.join(parts)


@functools.cache
def _van(number: int, paint: int) -> Solid:
    rng = np.random.default_rng([100, number])
    stations = np.array(_VAN)
    stations[1:-1, 0] += rng.normal(0, 0.008, len(_VAN) - 2)
    parts = _body(stations, 5.0, 1.9, 2.2, _PAINTS[paint], glazed=bool(rng.random() < 0.5))
    return Solid.join(parts + _wheels([1.65, -1.55], 0.33, 1.9))


@functools.cache
def _truck(number: int, paint: int) -> Solid:
    rng = np.random.default_rng([200, number])
    length, width, height = 9.0, 2.5, 3.2
    cab = 1.7 + rng.uniform(0, 0.5)
    shade = _PAINTS[paint]
    load = rng.uniform(0.75, 1.0) * height - 0.95
    front = length / 2
    parts = [
        Solid.of(box(cab, width * 0.96, height * 0.82 - 0.45, front - cab / 2, 0, 0.45), m.PAINT, shade),
        Solid.of(box(cab * 0.9, width * 0.8, height * 0.14, front - cab / 2 - 0.1, 0, height * 0.82), m.PAINT, shade),
        Solid.of(box(length - cab - 0.4, width, load, -(cab + 0.4) / 2, 0, 0.95), m.PAINT, 0.5),
        Solid.of(box(length - 0.3, 1.0, 0.35, 0, 0, 0.6), m.METAL, 0.15),
        Solid.of(box(0.02, width * 0.84, 0.75, front + 0.005, 0, height * 0.5), m.GLASS),
        Solid.of(box(0.8, width * 0.965, 0.6, front - 0.7, 0, height * 0.52), m.GLASS),
    ]
    return Solid.join(parts + _wheels([front - 0.9, -front + 1.3, -front + 2.6], 0.48, width))


def _body(
    stations: np.ndarray, length: float, width: float, height: float, shade: float, glazed: bool = True
) -> list[Solid]:
    """The skin over the stations: lower body of paint, the cabin's sides and slopes of glass between pillars."""
    x = (stations[:, 0] - 0.5) * length
    low, belt, roof = (stations[:, 1:4] * height).T
    wide, narrow = (stations[:, 4:6] * width / 2).T
    sill = low + 0.06
    middle = 0.45 * low + 0.55 * belt
    half = np.stack(
        [
            np.stack([x, 0.9 * wide, low], 1),
            np.stack([x, 0.97 * wide, sill], 1),
            np.stack([x, wide, middle], 1),
            np.stack([x, 0.97 * wide, belt], 1),
        ],
        axis=1,
    )
    mirrored = half[:, ::-1] * (1, -1, 1)
    parts = [Solid.of(loft(np.concatenate([half, mirrored], axis=1)), m.PAINT, shade)]
    left_belt = np.stack([x, 0.97 * wide, belt], 1)
    cabin = roof > belt + 1e-6
    top = np.stack([x, np.where(cabin, narrow, 0.93 * wide), np.where(cabin, roof, belt + 0.02)], 1)
    flip = np.array([1.0, -1.0, 1.0])
    glass, paint = [], []
    for i in range(len(x) - 1):
        if not (cabin[i] or cabin[i + 1]):
            continue
        slope = bool(cabin[i] != cabin[i + 1])
        windscreen = slope and (glazed or 2 * i > len(x) - 2)
        # Roof or windscreen; a frame of paint stays around the glass.
        a, b, c, d = top[i], top[i + 1], top[i + 1] * flip, top[i] * flip
        paint.append(sheet(a, b, c, d))
        if windscreen:
            glass.append(_pane(a, b, c, d, 0.1))
        for side in (np.ones(3), flip):
            a, b, c, d = (v * side for v in (left_belt[i], left_belt[i + 1], top[i + 1], top[i]))
            paint.append(sheet(a, b, c, d))
            if glazed or 2 * i > len(x) - 2:
                glass.append(_pane(a, b, c, d, 0.14))
    parts.append(Solid.of(np.concatenate(paint), m.PAINT, shade))
    parts.append(Solid.of(np.concatenate(glass), m.GLASS))
    # Plates and lights throw the light back.
    plate, light = (0.01, 0.5, 0.11), (0.02, 0.22, 0.1)
    for end, share in ((length / 2, 0.9), (-length / 2, 1.0)):
        parts.append(Solid.of(box(*plate, end * 0.998, 0, 0.27 * height), m.SIGN))
        for hand in (-1, 1):
            parts.append(Solid.of(box(*light, end * 0.985, hand * 0.34 * width, 0.4 * height), m.SIGN, share))
    return parts


def _pane(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, margin: float) -> np.ndarray:
    """A sheet a little smaller than a, b, c, d and 4 mm further out from the axis of the vehicle."""
    corners = np.stack([a, b, c, d])
    middle = corners.mean(0)
    inner = middle + (1 - margin) * (corners - middle)
    normal = np.cross(corners[2] - corners[0], corners[3] - corners[1])
    normal /= np.linalg.norm(normal)
    outward = np.array([0.0, middle[1], max(middle[2] - 0.5, 0.0)]) + np.array([0.3 * np.sign(middle[0]), 0, 0])
    inner = inner + 0.004 * normal * np.sign(normal @ outward or 1.0)
    return sheet(*inner)


def _wheels(at: list[float], radius: float, width: float) -> list[Solid]:
    """Pairs of wheels at these x: tyres with rims, flush with the sides."""
    thick = 0.2
    tyre = tube(radius, radius, thick, 14)[:, :, [0, 2, 1]] + (0, -thick / 2, radius)
    rim = tube(0.62 * radius, 0.62 * radius, 0.01, 10)[:, :, [0, 2, 1]] + (0, 0, radius)
    parts = []
    for x in at:
        for side in (-1, 1):
            parts.append(Solid.of(placed(tyre, x, side * (width / 2 - thick / 2), 0), m.RUBBER))
            parts.append(Solid.of(placed(rim, x, side * (width / 2 - 0.002), 0), m.METAL, 0.4))
    return parts
