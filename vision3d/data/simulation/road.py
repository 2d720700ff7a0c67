"""The ground of a simulated street: a bent road with kerbs and pavements on hilly land, and places along it.

Coordinates: s along the middle of the road, d to its left, both in metres; x, y, z of the street's frame, z up, with
s = 0 at the origin and the road along +x there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vision3d.data.simulation import materials as m
from vision3d.data.simulation.solids import Solid, grid

KERB = 0.12  # m
_SIDE = 75.0  # m of land at either side


@dataclass(frozen=True, slots=True)
class Road:
    """start, end: first and last s. half: half the road's width, pavement: the pavements' width, m. curvature: 1/m.
    crossing: s of the middle of a side street, None without; waves: amplitude m, wavelength m, phase, and direction of
    the hills."""

    start: float
    end: float
    half: float
    pavement: float
    curvature: float
    crossing: float | None
    crossing_half: float
    slope: float
    waves: Float64[np.ndarray, "k 4"]

    @classmethod
    def sample(cls, rng: np.random.Generator, start: float, end: float, half: float, pavement: float) -> Road:
        """A road of random course. half, pavement: as above."""
        bent = rng.random() < 0.6
        waves = np.stack(
            [
                rng.uniform(0.0, 0.12, 4),
                rng.uniform(25, 90, 4),
                rng.uniform(0, 2 * np.pi, 4),
                rng.uniform(0, 2 * np.pi, 4),
            ],
            axis=1,
        )
        return cls(
            start,
            end,
            half,
            pavement,
            float(rng.uniform(-1, 1) / 160) if bent else 0.0,
            float(rng.uniform(12, 60)) if rng.random() < 0.55 else None,
            float(rng.uniform(2.6, 4.0)),
            float(rng.normal(0, 0.008)),
            waves,
        )

    @property
    def edge(self) -> float:
        """d where the pavement ends."""
        return self.half + self.pavement

    def locate(
        self, s: Float64[np.ndarray, "*n"], d: Float64[np.ndarray, "*n"]
    ) -> tuple[Float64[np.ndarray, "*n"], Float64[np.ndarray, "*n"], Float64[np.ndarray, "*n"]]:
        """x, y and the road's heading, rad."""
        heading = self.curvature * s
        # sin(h)/k and (1 - cos h)/k, which stay finite for a straight road.
        x = s * np.sinc(heading / np.pi)
        y = 0.5 * heading * s * np.sinc(heading / (2 * np.pi)) ** 2
        return x - d * np.sin(heading), y + d * np.cos(heading), heading

    def place(self, s: float, d: float) -> tuple[float, float, float, float]:
        """x, y, z of one place on the ground, and the road's heading there, rad."""
        along, across = np.array([s]), np.array([d])
        x, y, heading = self.locate(along, across)
        return float(x[0]), float(y[0]), float(self.height(along, across)[0]), float(heading[0])

    def in_crossing(self, s: Float64[np.ndarray, "*n"], margin: float = 0.0) -> np.ndarray:
        """Whether the side street lies at s."""
        if self.crossing is None:
            return np.zeros(np.shape(s), bool)
        return np.asarray(np.abs(s - self.crossing) < self.crossing_half + margin)

    def height(self, s: Float64[np.ndarray, "*n"], d: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
        """z of the ground."""
        away = np.abs(d)
        z = self.slope * s - 0.015 * np.minimum(away, self.half)
        hills = np.zeros(np.shape(z))
        for amplitude, length, phase, direction in self.waves:
            hills = hills + amplitude * np.sin(
                2 * np.pi / length * (np.cos(direction) * s + np.sin(direction) * d) + phase
            )
        # The road is smoother than the land beside it.
        z = z + hills * (0.35 + 0.06 * np.clip(away - self.edge, 0, 40))
        raised = (away > self.half) & ~self.in_crossing(s)
        out: Float64[np.ndarray, "*n"] = z + KERB * raised * np.clip((away - self.half) / 0.03, 0, 1)
        return out

    def ground(self, paved: tuple[bool, bool]) -> Solid:
        """The surface as triangles. paved: beyond the pavement, to the left and right, for a few metres."""
        e, h = self.edge, self.half
        lines = np.array([0.0, 1.75, h - 0.06, h + 0.001, h + 0.031, e, e + 3, e + 7, e + 12, e + 20, e + 32, _SIDE])
        d = np.concatenate([-lines[:0:-1], lines])
        s = np.arange(self.start, self.end + 3.0, 3.0)
        if self.crossing is not None:
            c, w = self.crossing, self.crossing_half
            s = np.sort(np.concatenate([s, [c - w - 0.01, c - w + 0.01, c + w - 0.01, c + w + 0.01]]))
        ss, dd = np.meshgrid(s, d, indexing="ij")
        x, y, _ = self.locate(ss, dd)
        soup = grid(x, y, self.height(ss, dd))
        middle_d = np.abs((d[:-1] + d[1:]) / 2)
        middle_s = (s[:-1] + s[1:]) / 2
        cell = np.where(middle_d < h, m.ASPHALT.number, np.where(middle_d < e, m.PAVING.number, m.GRASS.number))
        for side, is_paved in zip((1, -1), paved, strict=True):
            away = side * (d[:-1] + d[1:]) / 2
            cell = np.where((away >= e) & (away < e + 7) & is_paved, m.PAVING.number, cell)
        cells = np.where(self.in_crossing(middle_s)[:, None], m.ASPHALT.number, cell[None]).reshape(-1)
        material = np.repeat(cells, 2).astype(np.uint8)
        shares = np.array([material_.reflectance for material_ in m.MATERIALS], np.float32)
        return Solid(soup, material, shares[material])
