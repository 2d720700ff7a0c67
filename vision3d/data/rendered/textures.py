"""Procedural textures: noise, tiles, bricks, wood, wallpaper, cloth, stones and posters, all seeded; photos as posters.

Noise is synthesised in the frequency domain with a power-law spectrum (D. Saupe, in "The Science of Fractal Images",
1988, section 2.4), which makes it repeat without a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vision3d.core import Image

SIDE = 256  # texels of a texture's side
Texture = UInt8[np.ndarray, "256 256 3"]
Field = Float[np.ndarray, "256 256"]
Color = Float[np.ndarray, " 3"]


def surface_texture(rng: np.random.Generator) -> Texture:
    """A texture that repeats, for walls, floors and furniture."""
    kinds: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (
        _plaster, _clouds, _tiles, _tiles, _bricks, _wood, _wood, _wallpaper, _wallpaper, _cloth, _stones,
    )  # fmt: skip
    return _bytes(kinds[int(rng.integers(len(kinds)))](rng))


def poster_texture(rng: np.random.Generator) -> Texture:
    """A picture of shapes, lines and letters in front of soft colours."""
    base = _mix(_noise(rng, 2.2), _color(rng), _color(rng))
    picture = np.ascontiguousarray(base * 255).astype(np.uint8)
    for _ in range(int(rng.integers(8, 30))):
        color = tuple(int(c) for c in _color(rng) * 255)
        x, y = (int(v) for v in rng.integers(0, SIDE, 2))
        size = int(rng.integers(4, 70))
        kind = int(rng.integers(5))
        if kind == 0:
            cv2.circle(picture, (x, y), size // 2, color, -1 if rng.random() < 0.6 else 2, cv2.LINE_AA)
        elif kind == 1:
            cv2.rectangle(picture, (x, y), (x + size, y + int(rng.integers(4, 70))), color, -1, cv2.LINE_AA)
        elif kind == 2:
            corners = rng.integers(-size, size, (int(rng.integers(3, 7)), 2)) + np.array([x, y])
            cv2.fillPoly(picture, [corners.astype(np.int32)], color, cv2.LINE_AA)
        elif kind == 3:
            end = (x + int(rng.integers(-90, 90)), y + int(rng.integers(-90, 90)))
            cv2.line(picture, (x, y), end, color, int(rng.integers(1, 6)), cv2.LINE_AA)
        else:
            letters = "".join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(1, 8))))
            cv2.putText(
                picture, letters, (x - 40, y), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.4, 1.8), color,
                int(rng.integers(1, 4)), cv2.LINE_AA,
            )  # fmt: skip
    if rng.random() < 0.5:
        cv2.rectangle(picture, (0, 0), (SIDE - 1, SIDE - 1), tuple(int(c) for c in _color(rng) * 255), 14)
    grain = rng.normal(0, 3, picture.shape)
    return _bytes((picture + grain) / 255)


def photo_poster(rng: np.random.Generator, photo: Image) -> Texture:
    """A square cut at random out of a photo."""
    rgb = photo.rgb.permute(1, 2, 0).numpy()
    side = int(min(rgb.shape[:2]) * rng.uniform(0.6, 1.0))
    y, x = (int(rng.integers(0, n - side + 1)) for n in rgb.shape[:2])
    cut = np.ascontiguousarray(rgb[y : y + side, x : x + side])
    return _bytes(cv2.resize(cut, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def pyramid(textures: Sequence[Texture]) -> list[UInt8[np.ndarray, "_ _ _ 3"]]:
    """All textures at 256, 128, ... 4 texels a side, each the mean of four texels of the one before."""
    levels = [np.stack(textures)]
    while levels[-1].shape[1] > 4:
        t, side = levels[-1].shape[:2]
        fours = levels[-1].reshape(t, side // 2, 2, side // 2, 2, 3).astype(np.uint16)
        levels.append(((fours.sum((2, 4)) + 2) // 4).astype(np.uint8))
    return levels


def _bytes(picture: np.ndarray) -> Texture:
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)


def _color(rng: np.random.Generator) -> Color:
    """Any lightness, moderately saturated."""
    return np.clip(rng.uniform(0.12, 0.9) + rng.normal(0, 0.13, 3), 0.03, 0.97)


def _noise(rng: np.random.Generator, power: float, stretch: float = 1.0) -> Field:
    """In [0, 1], amplitude 1 / frequency^(power / 2 + 0.5); stretch: times longer along x."""
    fy, fx = np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE), indexing="ij")
    frequency = np.hypot(fy, fx * stretch)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(SIDE, SIDE))) / frequency ** (power / 2 + 0.5)
    field = np.fft.irfft2(spectrum, (SIDE, SIDE))
    low, high = np.quantile(field, [0.01, 0.99])
    out: Field = np.clip((field - low) / (high - low), 0, 1)
    return out


def _mix(share: Field, first: Color, second: Color) -> np.ndarray:
    out: np.ndarray = first + share[..., None] * (second - first)
    return out


def _speckled(rng: np.random.Generator, picture: np.ndarray, amount: float) -> np.ndarray:
    out: np.ndarray = picture + amount * (_noise(rng, rng.uniform(0, 1.2))[..., None] - 0.5)
    return out


def _plaster(rng: np.random.Generator) -> np.ndarray:
    color = _color(rng)
    return _speckled(rng, _mix(_noise(rng, 2.0), color, color * rng.uniform(0.75, 0.95)), rng.uniform(0.1, 0.3))


def _clouds(rng: np.random.Generator) -> np.ndarray:
    share = _noise(rng, rng.uniform(0.6, 1.8), rng.uniform(0.5, 2.0))
    if rng.random() < 0.5:
        share = np.clip((share - 0.5) * rng.uniform(2, 10) + 0.5, 0, 1)
    return _speckled(rng, _mix(share, _color(rng), _color(rng)), 0.1)


def _grid(rng: np.random.Generator, rows: int, columns: int, shifted: bool) -> tuple[np.ndarray, np.ndarray]:
    """The number of each texel's tile, and its distance to the tile's edge in texels."""
    y, x = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5, indexing="ij")
    row = (y * rows / SIDE).astype(int)
    moved = (x + (row % 2) * SIDE / columns / 2 * shifted) % SIDE
    column = (moved * columns / SIDE).astype(int)
    dy, dx = y % (SIDE / rows), moved % (SIDE / columns)
    edge = np.minimum(np.minimum(dy, SIDE / rows - dy), np.minimum(dx, SIDE / columns - dx))
    return row * columns + column, edge


def _tiled(rng: np.random.Generator, rows: int, columns: int, shifted: bool) -> np.ndarray:
    number, edge = _grid(rng, rows, columns, shifted)
    count = rows * columns
    tone = _color(rng) + rng.normal(0, rng.uniform(0.02, 0.2), (count, 1)) + rng.normal(0, 0.03, (count, 3))
    face = _speckled(rng, tone[number], rng.uniform(0.05, 0.35))
    grout = (edge < rng.uniform(1.0, 3.5))[..., None]
    return np.where(grout, _color(rng) * rng.uniform(0.5, 1.1), face)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    rows = int(rng.integers(2, 9))
    return _tiled(rng, rows, rows, shifted=False)


def _bricks(rng: np.random.Generator) -> np.ndarray:
    rows = 2 * int(rng.integers(2, 6))
    return _tiled(rng, rows, max(2, rows // 2), shifted=True)


def _wood(rng: np.random.Generator) -> np.ndarray:
    color = np.clip(np.array([0.55, 0.4, 0.27]) * rng.uniform(0.5, 1.5) + rng.normal(0, 0.05, 3), 0, 1)
    grain = _noise(rng, rng.uniform(0.6, 1.4), stretch=rng.uniform(6, 14))
    planks = int(rng.choice([1, 4, 6, 8]))
    number, edge = _grid(rng, planks, 2 if planks > 1 else 1, shifted=True)
    tone = rng.normal(0, 0.07, planks * 2)[number]
    picture = _mix(grain, color * 0.55, color * 1.1) + tone[..., None]
    return np.where((edge < 1.2)[..., None] & (planks > 1), color * 0.3, picture)


def _wallpaper(rng: np.random.Generator) -> np.ndarray:
    """A motif that repeats on stripes or plain ground; repeats are what matching has to live with."""
    ground, ink, accent = _color(rng), _color(rng), _color(rng)
    repeats = int(rng.choice([2, 4, 4, 8]))
    side = SIDE // repeats
    motif = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(2, 6))):
        center = tuple(int(v) for v in rng.integers(0, side, 2))
        axes = tuple(int(v) for v in rng.integers(2, max(3, side // 3), 2))
        cv2.ellipse(
            motif, center, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.3, 1)), -1, cv2.LINE_AA
        )
    if rng.random() < 0.6:
        motif = np.maximum(motif, motif[:, ::-1])
    picture = _mix(np.tile(motif, (repeats, repeats)).astype(np.float64), ground, ink)
    if rng.random() < 0.4:
        stripes = (np.arange(SIDE) * int(rng.integers(2, 9)) // (SIDE // 2) % 2).astype(float)[None].repeat(SIDE, 0)
        picture = 0.6 * picture + 0.4 * _mix(stripes, ground, accent)
    return _speckled(rng, picture, rng.uniform(0.04, 0.2))


def _cloth(rng: np.random.Generator) -> np.ndarray:
    """Woven checks."""
    bands = [np.repeat(rng.uniform(0, 1, 16), 16)[:SIDE] for _ in range(2)]
    weave = 0.5 * (bands[0][:, None] + bands[1][None])
    thread = 0.5 + 0.5 * np.sin(np.arange(SIDE) * 2 * np.pi * 64 / SIDE)
    return _speckled(rng, _mix(weave, _color(rng), _color(rng)), 0.15) + 0.05 * (thread[:, None] * thread)[..., None]


def _stones(rng: np.random.Generator) -> np.ndarray:
    """Cells of the nearest of scattered points."""
    count = int(rng.integers(20, 150))
    points = rng.uniform(0, SIDE, (count, 2))
    y, x = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    nearest, second = np.full((SIDE, SIDE), np.inf), np.full((SIDE, SIDE), np.inf)
    number = np.zeros((SIDE, SIDE), int)
    for k, (py, px) in enumerate(points):
        dy, dx = np.abs(y - py), np.abs(x - px)
        distance = np.hypot(np.minimum(dy, SIDE - dy), np.minimum(dx, SIDE - dx))
        second = np.minimum(second, np.maximum(distance, nearest))
        number[distance < nearest] = k
        nearest = np.minimum(nearest, distance)
    tone = _color(rng) + rng.normal(0, 0.12, (count, 1)) + rng.normal(0, 0.03, (count, 3))
    face = _speckled(rng, tone[number], 0.2)
    return np.where((second - nearest < rng.uniform(1, 5))[..., None], _color(rng) * 0.7, face)
