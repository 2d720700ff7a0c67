"""Time per optimisation step (render and gradients) against surfels, pixels and views, drawn as one picture."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vision3d.bench.splat import render_once
from vision3d.io.atomic import atomic_file

COUNTS = (5_000, 10_000, 20_000, 40_000, 80_000, 160_000)
SIZES = ((160, 120), (320, 240), (480, 360), (640, 480), (960, 720))
VIEWS = (1, 2, 4, 8)
PANEL, MARGIN, BOTTOM = (380, 300), 64, 52


def plot_growth(path: Path, repeats: int) -> None:
    """Measures and writes a PNG of three panels."""
    base, size = 40_000, (480, 360)
    surfels = [(float(n), _milliseconds(n, size, 1, repeats)) for n in COUNTS]
    pixels = [(float(w * h), _milliseconds(base, (w, h), 1, repeats)) for w, h in SIZES]
    views = [(float(v), _milliseconds(base, size, v, repeats)) for v in VIEWS]
    panels = [
        (f"surfels, at {size[0]}x{size[1]}", surfels),
        (f"pixels, {base:,} surfels", pixels),
        (f"views per step, {base:,} surfels at {size[0]}x{size[1]}", views),
    ]
    picture = Image.new("RGB", (PANEL[0] * len(panels), PANEL[1]), "white")
    draw = ImageDraw.Draw(picture)
    for i, (label, points) in enumerate(panels):
        _panel(draw, i * PANEL[0], label, points)
    with atomic_file(path) as unfinished:
        picture.save(unfinished, "PNG", optimize=True)


def _milliseconds(count: int, size: tuple[int, int], views: int, repeats: int) -> float:
    render_once("numba", count, size, True)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(views):
            render_once("numba", count, size, True)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _panel(draw: ImageDraw.ImageDraw, left: int, label: str, points: list[tuple[float, float]]) -> None:
    font = ImageFont.load_default(13)
    x0, x1, y0, y1 = left + MARGIN, left + PANEL[0] - 20, PANEL[1] - BOTTOM, 24
    top_x, top_y = max(x for x, _ in points), 1.1 * max(y for _, y in points)

    def at(x: float, y: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * x / top_x, y0 - (y0 - y1) * y / top_y

    for k in range(5):
        x, y = top_x * k / 4, top_y * k / 4
        draw.line([at(0, y), at(top_x, y)], fill=(225, 225, 225))
        draw.text((x0 - 6, at(0, y)[1]), f"{y:.0f}", fill=(80, 80, 80), font=font, anchor="rm")
        draw.text((at(x, 0)[0], y0 + 6), _short(x), fill=(80, 80, 80), font=font, anchor="mt")
    draw.line([at(x, y) for x, y in points], fill=(31, 100, 180), width=2)
    for x, y in points:
        px, py = at(x, y)
        draw.ellipse([px - 3, py - 3, px + 3, py + 3], fill=(31, 100, 180))
    draw.text((x0, 4), "ms per step", fill=(80, 80, 80), font=font)
    draw.text(((x0 + x1) / 2, y0 + 26), label, fill=(0, 0, 0), font=font, anchor="mt")


def _short(value: float) -> str:
    return f"{value / 1000:.0f}k" if value >= 1000 else f"{value:g}"
