"""Precision-recall plots of the KITTI object evaluation as PNG: one picture per class and metric, a line per
difficulty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vision3d.eval.kitti_matching import DIFFICULTIES
from vision3d.eval.kitti_object import Curves, KittiScores
from vision3d.io.atomic import atomic_file

TITLES = {"2d": "Detection", "aos": "Orientation", "bev": "Bird's Eye View", "3d": "3D Detection"}
WIDTH, HEIGHT = 640, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 48, 60
COLORS = ((31, 119, 180), (214, 98, 20), (44, 140, 60))
INK, GRID = (40, 40, 40), (222, 222, 222)
_FINER = 3  # drawn larger and shrunk, for smooth lines


def write_plots(folder: str | Path, scores: KittiScores) -> list[Path]:
    """Write FOLDER/CLASS_METRIC.png for every metric that was scored, and return the paths.

    The numbers in the legend are average precision at 40 recall positions, in percent.

    Raises:
        Vision3DError: the folder cannot be written to.
    """
    paths = []
    for name, by_metric in scores.curves.items():
        for metric, curves in by_metric.items():
            if curves is None:
                continue
            path = Path(folder) / f"{name.lower()}_{metric}.png"
            picture = draw_plot(
                f"{name}: {TITLES[metric]}", curves, "orientation similarity" if metric == "aos" else ""
            )
            with atomic_file(path) as temporary:
                picture.save(temporary, format="PNG")
            paths.append(path)
    return paths


def draw_plot(title: str, curves: Curves, y_label: str = "") -> Image.Image:
    """The three curves over recall 0 to 1; y_label: "precision" by default."""
    k = _FINER
    image = Image.new("RGB", (WIDTH * k, HEIGHT * k), "white")
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(13 * k), ImageFont.load_default(17 * k)

    def place(recall: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * recall
        return k * x, k * (TOP + (HEIGHT - TOP - BOTTOM) * (1 - value))

    for step in np.linspace(0, 1, 6).tolist():
        draw.line([place(step, 0), place(step, 1)], GRID, k)
        draw.line([place(0, step), place(1, step)], GRID, k)
        x, y = place(step, 0)
        draw.text((x, y + 8 * k), f"{step:.1f}", INK, small, anchor="ma")
        x, y = place(0, step)
        draw.text((x - 8 * k, y), f"{step:.1f}", INK, small, anchor="rm")
    draw.line([place(0, 1), place(0, 0), place(1, 0)], INK, k)
    draw.text((LEFT * k, TOP // 2 * k), title, INK, large, anchor="lm")
    draw.text((place(0.5, 0)[0], (HEIGHT - 14) * k), "recall", INK, small, anchor="mm")
    draw.text(((WIDTH - RIGHT) * k, TOP // 2 * k), y_label or "precision", INK, small, anchor="rm")
    recall = np.linspace(0, 1, curves.values.shape[1]).tolist()
    for row, color in zip(curves.values, COLORS, strict=True):
        draw.line([place(r, v) for r, v in zip(recall, row.tolist(), strict=True)], color, 3 * k, joint="curve")
    for i, (difficulty, value, color) in enumerate(zip(DIFFICULTIES, curves.r40(), COLORS, strict=True)):
        x, y = k * (LEFT + 16), k * (HEIGHT - BOTTOM - 70 + 22 * i)
        draw.line([(x, y), (x + 28 * k, y)], color, 3 * k)
        draw.text((x + 38 * k, y), f"{difficulty.name}  {value:.2f}", INK, small, anchor="lm")
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
