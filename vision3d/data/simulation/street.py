"""Simulated streets: where houses, trees, vehicles and people stand and how they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vision3d.data.simulation.people import cyclist, pedestrian
from vision3d.data.simulation.road import Road
from vision3d.data.simulation.scenery import bush, hedge, house, lamp, sign, street_furniture, tree, wall
from vision3d.data.simulation.solids import Solid
from vision3d.data.simulation.vehicles import car, truck, van
from vision3d.geometry.rotated_rectangles import intersection_areas

_MAKERS: dict[str, Callable[[np.random.Generator], Solid]] = {
    "Car": car,
    "Van": van,
    "Truck": truck,
    "Pedestrian": pedestrian,
    "Cyclist": cyclist,
}
EGO = (4.4, 1.9)  # m: length and width that stay free around the sensor


@dataclass(frozen=True, slots=True)
class Actor:
    """A labelled object. kind: KITTI's type. s, d: place on the road at time 0; turn: heading against the road's, rad;
    speed: m/s along the heading, of road users that go along the road."""

    kind: str
    solid: Solid
    size: tuple[float, float, float]
    s: float
    d: float
    turn: float
    speed: float


@dataclass(frozen=True, slots=True)
class Street:
    """lane: d of the sensor's way."""

    road: Road
    scenery: Solid
    actors: tuple[Actor, ...]
    lane: float


@dataclass(frozen=True, kw_only=True)
class StreetConfig:
    """How full streets are: mean numbers per 100 m of street."""

    parked: float = 9.0
    """Cars and vans that stand at the kerb, in bays or in drives (of each side, where parking is allowed at all)."""
    driving: float = 3.5
    """Cars, vans and trucks on the road."""
    pedestrians: float = 5.0
    """People on the pavements, some on the road."""
    cyclists: float = 2.5
    """People on bicycles."""


class _Plan:
    """What stands where, so that nothing meets anything else."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self.taken: list[np.ndarray] = []

    def footprint(self, s: float, d: float, turn: float, length: float, width: float) -> Float64[np.ndarray, " 5"]:
        x, y, _, heading = self.road.place(s, d)
        return np.array([x, y, length, width, heading + turn])

    def take(self, rectangle: Float64[np.ndarray, " 5"], margin: float) -> bool:
        """Reserves it unless something is there or within the margin."""
        grown = rectangle + np.array([0, 0, 2 * margin, 2 * margin, 0])
        if self.taken and intersection_areas(grown[None], np.stack(self.taken)).any():
            return False
        self.taken.append(rectangle)
        return True


def sample_street(rng: np.random.Generator, config: StreetConfig, start: float, end: float) -> Street:
    """A street from s = start to end; the sensor goes along it from s = 0."""
    style = int(rng.choice(3, p=(0.5, 0.3, 0.2)))  # homes with gardens, town, open road
    parking = rng.random(2) < (0.75, 0.75) if style < 2 else rng.random(2) < 0.15
    bays = rng.random(2) < 0.3
    half = float(rng.uniform(2.6, 3.6)) + 2.1 * float(parking.any() and style < 2)
    road = Road.sample(rng, start, end, half, float(rng.uniform(1.4, 3.2)) if style < 2 else 0.8)
    plan = _Plan(road)
    lane = -float(rng.uniform(1.2, 1.9))
    plan.take(plan.footprint(0.0, lane, 0.0, *EGO), 0.0)
    actors = _vehicles(rng, config, plan, parking, bays, style)
    actors += _people(rng, config, plan, style)
    return Street(road, _scenery(rng, plan, style, bays & parking), tuple(actors), lane)


def _add(
    rng: np.random.Generator,
    plan: _Plan,
    kind: str,
    place: tuple[float, float, float],
    speed: float,
    out: list[Actor],
    margin: float = 0.25,
) -> None:
    s, d, turn = place
    solid = _MAKERS[kind](rng)
    low, high = solid.corners.min((0, 1)), solid.corners.max((0, 1))
    length, width, height = (float(v) for v in high - low)
    if plan.take(plan.footprint(s, d, turn, length, width), margin):
        # The middle of the box stands on the place.
        middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        body = Solid(solid.corners - middle, solid.material, solid.reflectance)
        out.append(Actor(kind, body, (length, width, height), s, d, turn, speed))


def _vehicles(
    rng: np.random.Generator, config: StreetConfig, plan: _Plan, parking: np.ndarray, bays: np.ndarray, style: int
) -> list[Actor]:
    road, out = plan.road, list[Actor]()
    reach = (road.end - road.start) / 100
    pace = float(rng.uniform(4, 14))
    for _ in range(rng.poisson(config.driving * reach)):
        way = 1.0 if rng.random() < 0.45 else -1.0  # oncoming ones are seen more
        kind = str(rng.choice(["Car", "Van", "Truck"], p=(0.82, 0.12, 0.06)))
        s = float(rng.uniform(road.start, road.end))
        d = -way * float(rng.uniform(1.3, 1.9))
        turn = (0.0 if way > 0 else np.pi) + float(rng.normal(0, 0.03))
        _add(rng, plan, kind, (s, d, turn), pace, out, margin=1.0)
    if road.crossing is not None:
        for _ in range(rng.poisson(1.2)):
            way = float(rng.choice([-1, 1]))
            place = (
                road.crossing + way * 1.5,
                float(rng.uniform(-30, 30)),
                way * np.pi / 2 + float(rng.normal(0, 0.1)),
            )
            _add(rng, plan, "Car", place, 0.0, out)
    for side, (allowed, across) in zip((1.0, -1.0), zip(parking, bays, strict=True), strict=True):
        s = road.start + float(rng.uniform(0, 8))
        step = 2.6 if across else 5.6
        fill = min(config.parked / (100 / step) * (1.6 if across else 1.0), 0.95)
        while s < road.end and allowed:
            if rng.random() < fill and not road.in_crossing(np.array(s), 4.0):
                kind = "Van" if rng.random() < 0.1 else "Car"
                if across:
                    turn = float(rng.choice([-1, 1])) * np.pi / 2 + float(rng.normal(0, 0.03))
                    d = side * (road.edge + 2.7)
                else:
                    turn = (0.0 if rng.random() < (0.85 if side < 0 else 0.3) else np.pi) + float(rng.normal(0, 0.02))
                    d = side * (road.half - 1.05 + float(rng.normal(0, 0.08)))
                _add(rng, plan, kind, (s, d, turn), 0.0, out)
            s += step + float(rng.uniform(0, 0.8 if across else 1.5))
    for _ in range(rng.poisson(1.5 * reach) if style < 2 else 0):  # in drives
        side = float(rng.choice([-1, 1]))
        place = (
            float(rng.uniform(road.start, road.end)),
            side * (road.edge + float(rng.uniform(3, 4.5))),
            float(rng.choice([-1, 1])) * np.pi / 2 + float(rng.normal(0, 0.15)),
        )
        _add(rng, plan, "Car", place, 0.0, out)
    return out


def _people(rng: np.random.Generator, config: StreetConfig, plan: _Plan, style: int) -> list[Actor]:
    road, out = plan.road, list[Actor]()
    reach = (road.end - road.start) / 100 * (1.0, 1.6, 0.4)[style]
    for _ in range(rng.poisson(config.pedestrians * reach / 1.6)):  # some walk together
        side, s = float(rng.choice([-1, 1])), float(rng.uniform(road.start, road.end))
        if rng.random() < 0.12:
            d, turn = float(rng.uniform(-road.half, road.half)), side * np.pi / 2
        else:
            d = side * (road.half + float(rng.uniform(0.4, road.pavement)))
            turn = 0.0 if rng.random() < 0.5 else np.pi
        speed = 0.0 if rng.random() < 0.3 else float(rng.uniform(0.8, 1.6))
        turn = float(rng.uniform(-np.pi, np.pi)) if speed == 0.0 else turn + float(rng.normal(0, 0.15))
        company = int(rng.choice(3, p=(0.6, 0.3, 0.1))) + 1
        for k in range(company):
            place = (s + float(rng.normal(0, 0.3)) * (k > 0), d + 0.75 * k, turn + float(rng.normal(0, 0.1)))
            _add(rng, plan, "Pedestrian", place, speed if abs(np.cos(turn)) > 0.7 else 0.0, out, margin=0.1)
    for _ in range(rng.poisson(config.cyclists * reach)):
        way = 1.0 if rng.random() < 0.5 else -1.0
        d = -way * float(rng.uniform(1.5, road.half + 0.6 * road.pavement))
        place = (float(rng.uniform(road.start, road.end)), d, (0.0 if way > 0 else np.pi) + float(rng.normal(0, 0.1)))
        _add(rng, plan, "Cyclist", place, float(rng.uniform(3, 6)), out)
    return out


def _scenery(rng: np.random.Generator, plan: _Plan, style: int, bays: np.ndarray) -> Solid:
    road = plan.road
    left, right = (bool(bay) or style == 1 for bay in bays)
    parts = [road.ground((left, right))]

    def put(solid: Solid, s: float, d: float, turn: float, size: tuple[float, float]) -> None:
        if plan.take(plan.footprint(s, d, turn, *size), 0.1):
            parts.append(_stand(road, solid, s, d, turn))

    for side, bay in zip((1.0, -1.0), bays, strict=True):
        back = road.edge + (5.2 if bay else 0.0)
        facing = 0.0 if side > 0 else np.pi
        setback = float((rng.uniform(3, 9), rng.uniform(0.1, 1.5), rng.uniform(15, 40))[style])
        floors = (1, 3) if style != 1 else (2, 5)
        s = road.start
        while s < road.end:
            length, depth = float(rng.uniform(8, 16)), float(rng.uniform(8, 12))
            built = rng.random() < (0.8, 0.92, 0.2)[style]
            if built and not road.in_crossing(np.array(s + length / 2), length / 2 + 1).item():
                building = house(rng, length, depth, int(rng.integers(*floors)) + int(style == 1))
                put(building, s + length / 2, side * (back + setback + depth / 2), facing, (length, depth))
            s += length + float((rng.uniform(2, 7), rng.uniform(0, 0.6) ** 2, rng.uniform(5, 40))[style])
        s = road.start
        while s < road.end and style != 1:  # hedges, walls and thickets
            length = float(rng.uniform(3, 8))
            kind, height = rng.random(), float(rng.uniform(0.7, 1.9) if style == 0 else rng.uniform(1, 3.5))
            depth = 0.7 if style == 0 else float(rng.uniform(1, 3))
            clear = not road.in_crossing(np.array(s + length / 2), length / 2).item()
            if kind < 0.75 and clear:
                leafy = kind < 0.45 or style == 2
                line = hedge(rng, length, depth, height) if leafy else wall(rng, length, 0.7 * height)
                off = 0.6 if style == 0 else float(rng.uniform(2, 8))
                put(line, s + length / 2, side * (back + off), facing, (length, depth + 0.2))
            s += length + float(rng.exponential((1.2, 0.0, 4.0)[style]))
        for maker, count, low, high, size in (
            (tree, (7, 3, 9)[style], 0.9, (6.0, 1.5, 30.0)[style], 0.6),
            (bush, (9, 2, 22)[style], 0.9, (9.0, 1.5, 30.0)[style], 1.0),
            (lamp, 3, -0.3, 0.3, 0.3),
            (sign, 2, -0.6, 0.4, 0.3),
            (street_furniture, 2, -0.3, 0.3, 1.0),
        ):
            for _ in range(rng.poisson(count * (road.end - road.start) / 100)):
                at = float(rng.uniform(road.start, road.end))
                d = side * (road.edge + float(rng.uniform(low, high)))
                if not road.in_crossing(np.array(at), 1.0):
                    put(maker(rng), at, d, facing if maker is lamp else 0.0, (size, size))
    return Solid.join(parts)


def _stand(road: Road, solid: Solid, s: float, d: float, turn: float) -> Solid:
    x, y, z, heading = road.place(s, d)
    return solid.placed(x, y, z, heading + turn)
