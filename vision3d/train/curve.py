"""Losses and metrics over the steps of a run, drawn as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vision3d.io.atomic import atomic_file
from vision3d.recon.report.line_plots import Axis, linear_axis, log_axis, shown_number
from vision3d.train.folder import TrainFolder
from vision3d.train.table import read_table

PANEL, LEFT, RIGHT, TOP, BOTTOM = (460, 260), 60, 16, 30, 30
COLUMNS = 3
LINE, GRID, INK = (31, 100, 180), (225, 225, 225), (60, 60, 60)
NOT_DRAWN = ("step", "epoch", "seconds")
LOG_SPAN = 20.0  # values that span more than this factor get a logarithmic axis


def draw_curve(folder: TrainFolder) -> None:
    """Draws a panel for every column of the run's two tables, in `folder.curve`; nothing if there are no rows."""
    panels = []
    for path in (folder.validation, folder.log):
        table = read_table(path)
        panels += [(name, table["step"], values) for name, values in table.items() if name not in NOT_DRAWN]
    if panels:
        _draw(folder.curve, panels)


def _draw(path: Path, panels: list[tuple[str, list[float], list[float]]]) -> None:
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    picture = Image.new("RGB", (PANEL[0] * columns, PANEL[1] * rows), "white")
    draw = ImageDraw.Draw(picture)
    for k, (name, steps, values) in enumerate(panels):
        corner = ((k % columns) * PANEL[0], (k // columns) * PANEL[1])
        _panel(draw, corner, name, np.array(steps), np.array(values))
    with atomic_file(path) as unfinished:
        picture.save(unfinished, "PNG", optimize=True)


def _panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, x: np.ndarray, y: np.ndarray) -> None:
    font = ImageFont.load_default(12)
    keep = np.isfinite(y)
    x, y = x[keep], y[keep]
    last = f": {shown_number(float(y[-1]))} at step {int(x[-1])}" if len(y) else ": no values"
    draw.text((corner[0] + LEFT, corner[1] + 8), f"{name}{last}", fill=INK, font=font)
    if not len(y):
        return
    positive = float(y.min()) > 0 and float(y.max()) > LOG_SPAN * float(y.min())
    across, up = linear_axis(np.append(x, 0.0), tight=True), log_axis(y) if positive else linear_axis(y)
    x0, x1 = corner[0] + LEFT, corner[0] + PANEL[0] - RIGHT
    y0, y1 = corner[1] + PANEL[1] - BOTTOM, corner[1] + TOP

    def place(axis: Axis, values: np.ndarray, low: float, high: float) -> np.ndarray:
        return low + (high - low) * axis.share(values).clip(0, 1)

    for tick in up.ticks:
        at = float(place(up, np.array([tick]), y0, y1)[0])
        draw.line([(x0, at), (x1, at)], fill=GRID)
        draw.text((x0 - 6, at), shown_number(tick), fill=INK, font=font, anchor="rm")
    for tick in across.ticks:
        at = float(place(across, np.array([tick]), x0, x1)[0])
        draw.text((at, y0 + 6), shown_number(tick), fill=INK, font=font, anchor="mt")
    points = list(zip(place(across, x, x0, x1).tolist(), place(up, y, y0, y1).tolist(), strict=True))
    if len(points) > 1:
        draw.line(points, fill=LINE, width=2)
    for px, py in points if len(points) <= 48 else ():
        draw.ellipse([px - 2.5, py - 2.5, px + 2.5, py + 2.5], fill=LINE)
