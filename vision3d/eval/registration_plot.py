"""Recall of registration over the threshold, as one PNG with a panel for each kind of error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vision3d.eval.registration_scores import PairScore
from vision3d.io.atomic import atomic_file

WIDTH, HEIGHT = 520, 420  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 44, 58
COLORS = ((31, 119, 180), (214, 98, 20), (44, 140, 60), (180, 40, 50), (120, 80, 170), (110, 80, 60), (200, 90, 170))
INK, GRID, MARK = (40, 40, 40), (222, 222, 222), (150, 150, 150)
_FINER = 3  # drawn larger and shrunk, for smooth lines


@dataclass(frozen=True, slots=True)
class Panel:
    """Errors of each method over the pairs that count; marks: thresholds of the rules."""

    title: str
    label: str
    most: float
    marks: tuple[float, ...]
    errors: Mapping[str, Float[np.ndarray, " n"]]


def panels(by_method: Mapping[str, Sequence[PairScore]], most_m: float, most_deg: float) -> list[Panel]:
    """RMSE (where known, without neighbours), translation and rotation errors."""
    out = []
    rmse = {
        method: np.array([s.rmse_m for s in scores if s.rmse_m is not None and not s.neighbours])
        for method, scores in by_method.items()
    }
    if any(len(values) for values in rmse.values()):
        out.append(Panel("Pairs that do not follow each other", "RMSE, m", 0.6, (0.2,), rmse))
    translation = {method: np.array([s.translation_m for s in scores]) for method, scores in by_method.items()}
    rotation = {method: np.array([s.rotation_deg for s in scores]) for method, scores in by_method.items()}
    out.append(Panel("All pairs", "translation error, m", 2 * most_m, (most_m,), translation))
    out.append(Panel("All pairs", "rotation error, deg", 2 * most_deg, (most_deg,), rotation))
    return out


def write_recall_plot(path: str | Path, title: str, panels: Sequence[Panel]) -> None:
    """Draws the panels side by side. Vision3DError if the file cannot be written."""
    picture = draw_recall_plot(title, panels)
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")


def draw_recall_plot(title: str, panels: Sequence[Panel]) -> Image.Image:
    """A step at every error: the share of pairs whose error is at most the threshold."""
    k = _FINER
    image = Image.new("RGB", (WIDTH * len(panels) * k, HEIGHT * k), "white")
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(13 * k), ImageFont.load_default(16 * k)
    for number, panel in enumerate(panels):
        x0 = number * WIDTH

        def place(share: float, value: float, x0: int = x0) -> tuple[float, float]:
            x = x0 + LEFT + (WIDTH - LEFT - RIGHT) * share
            return k * x, k * (TOP + (HEIGHT - TOP - BOTTOM) * (1 - value))

        for step in np.linspace(0, 1, 6).tolist():
            draw.line([place(step, 0), place(step, 1)], GRID, k)
            draw.line([place(0, step), place(1, step)], GRID, k)
            x, y = place(step, 0)
            draw.text((x, y + 8 * k), f"{step * panel.most:.3g}", INK, small, anchor="ma")
            x, y = place(0, step)
            draw.text((x - 8 * k, y), f"{100 * step:.0f}", INK, small, anchor="rm")
        for mark in panel.marks:
            draw.line([place(mark / panel.most, 0), place(mark / panel.most, 1)], MARK, 2 * k)
        draw.line([place(0, 1), place(0, 0), place(1, 0)], INK, k)
        heading = f"{title}. {panel.title}" if number == 0 else panel.title
        draw.text(((x0 + LEFT) * k, TOP // 2 * k), heading, INK, large, anchor="lm")
        draw.text((place(0.5, 0)[0], (HEIGHT - 14) * k), panel.label, INK, small, anchor="mm")
        draw.text(((x0 + WIDTH - RIGHT) * k, TOP // 2 * k), "recall %", INK, small, anchor="rm")
        for i, (method, errors) in enumerate(panel.errors.items()):
            color = COLORS[i % len(COLORS)]
            points = [place(x / panel.most, y) for x, y in _steps(errors, panel.most)]
            draw.line(points, color, (5 if i == 0 else 2) * k, joint="curve")
            right = sum(errors <= panel.marks[0])
            x, y = place(0.42, 0.06 + 0.065 * (len(panel.errors) - 1 - i))
            draw.line([(x, y), (x + 22 * k, y)], color, 4 * k)
            draw.text(
                (x + 28 * k, y), f"{method}  {right}/{len(errors)} at {panel.marks[0]:g}", INK, small, anchor="lm"
            )
    return image.resize((image.width // k, image.height // k), Image.Resampling.LANCZOS)


def _steps(errors: Float[np.ndarray, " n"], most: float) -> list[tuple[float, float]]:
    inside = np.sort(errors[errors <= most])
    line, height = [(0.0, 0.0)], 0.0
    for i, error in enumerate(inside.tolist(), 1):
        line += [(error, height), (error, i / len(errors))]
        height = i / len(errors)
    return [*line, (most, height)]
