"""The section with curves of the optimisation over iterations or seconds: losses, PSNR, surfels, camera movement."""

from __future__ import annotations

import numpy as np

from vision3d.recon.report.data import duration
from vision3d.recon.report.line_plots import Line, binned, line_plot
from vision3d.recon.report.page import Page, Section
from vision3d.recon.report.surface_data import Curve, OptimisationCurves

MAX_SAMPLES = 240  # bins along x
PALETTE = 8  # colours --line-0 to --line-7 of report.css


def curves_section(page: Page) -> Section | None:
    """A plot per `Curve.plot`, in the order of their first curve. None without any value."""
    curves = page.data.curves
    if curves is None or not len(curves.iteration):
        return None
    plots: dict[str, list[Curve]] = {}
    for curve in curves.curves:
        if _finite(curve).any():
            plots.setdefault(curve.plot, []).append(curve)
    if not plots:
        return None
    count = len(curves.iteration)
    starts = np.unique(np.linspace(0, count, min(count, MAX_SAMPLES), endpoint=False).astype(np.int64))
    ends = np.append(starts[1:], count) - 1
    iteration, seconds = curves.iteration[ends].astype(np.float64), curves.seconds[ends].astype(np.float64)
    timed = bool(np.isfinite(seconds).all()) and float(np.ptp(seconds)) > 0
    xs = [("iteration", "iterations", iteration)] + ([("seconds", "seconds", seconds)] if timed else [])
    marks = [((at, _seconds_at(curves, at)), word) for at, word in curves.marks]

    html, drawn = "", list[dict[str, object]]()
    for i, (title, group) in enumerate(plots.items()):
        lines = [
            Line(c.name, binned(np.where(_finite(c), c.values, np.nan), starts, count), k % PALETTE)
            for k, c in enumerate(group)
        ]
        log = next((c.log for c in group if c.log is not None), None)
        unit = group[0].unit
        html += line_plot(title, unit, lines, xs, marks=marks, log=log, key=str(i))
        drawn.append({"unit": unit, "lines": [{"name": x.name, "values": _rounded(x.values)} for x in lines]})
    tabs = ""
    if timed:
        tabs = (
            '<div class="segments" role="group" aria-label="Horizontal axis">'
            '<button type="button" data-axis="iteration" aria-pressed="true">Iterations</button>'
            '<button type="button" data-axis="seconds" aria-pressed="false">Time</button></div>'
        )
    words = f"{int(curves.iteration[-1]):,} iterations"
    if timed:
        words += f" in {duration(float(seconds[-1]))}"
    words += (
        f"; each value is the mean of about {round(count / len(starts)):,} measurements" if count > len(starts) else ""
    )
    state = {"iteration": iteration.tolist(), "seconds": seconds.tolist(), "plots": drawn}
    html = (
        f'<div class="tools">{tabs}<span class="soft">{words}.</span></div><div class="plots" id="curves">{html}</div>'
    )
    return Section("optimisation", "Optimisation", html, state)


def _seconds_at(curves: OptimisationCurves, iteration: int) -> float:
    return float(np.interp(iteration, curves.iteration, curves.seconds))


def _finite(curve: Curve) -> np.ndarray:
    return np.asarray(np.abs(np.nan_to_num(curve.values, nan=np.inf)) < 1e30)


def _rounded(values: np.ndarray) -> list[float]:
    """Five significant digits, so that the page stays small."""
    return [float(f"{value:.5g}") for value in values.tolist()]
