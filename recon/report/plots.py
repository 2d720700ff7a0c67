"""Plots as inline SVG: they take their colours from the page, and each bar says its numbers when pointed at."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Num

from vision3d.recon.report.markup import number, text

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 22, 34


def histogram(values: Num[np.ndarray, " n"], label: str, unit: str, *, integer: bool = False) -> str:
    """Bars over `values` up to their 99th percentile (what lies beyond is in the last bar), the median marked."""
    values = values[np.isfinite(values)]
    if not len(values):
        return f'<figure class="plot"><figcaption>{text(label)}</figcaption><p class="none">no data</p></figure>'
    edges = _integer_edges(values) if integer else _edges(values)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    beyond = float(values.max()) > float(edges[-1])
    top = int(counts.max())
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    step = width / len(counts)
    bars = []
    for i, count in enumerate(counts.tolist()):
        h = height * count / top
        low, high = float(edges[i]), float(edges[i + 1])
        last = i == len(counts) - 1 and beyond
        span = _span(low, high, unit, integer=integer, last=last)
        bars.append(
            f'<rect class="bar" x="{LEFT + i * step + 0.5:.1f}" y="{TOP + height - h:.1f}" '
            f'width="{max(step - 1, 0.5):.1f}" height="{h:.1f}"><title>{text(span)}: {count:,}</title></rect>'
        )
    median = float(np.median(values))
    place = LEFT + width * float(np.clip((median - edges[0]) / (edges[-1] - edges[0]), 0, 1))
    shown = number(median, 0 if integer and median == round(median) else 1 if integer else _digits(median))
    with_unit = text(shown + unit if unit == "°" else f"{shown} {unit}")
    anchor = "start" if place < WIDTH * 0.6 else "end"
    marker = (
        f'<line class="median" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP - 6}" y2="{TOP + height}"/>'
        f'<text class="median-text" x="{place + (5 if anchor == "start" else -5):.1f}" y="{TOP - 8}" '
        f'text-anchor="{anchor}">median {with_unit}</text>'
    )
    return (
        f'<figure class="plot"><figcaption>{text(label)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(label)}: median {with_unit}">'
        f"{_axes(edges, top, unit, integer=integer)}{''.join(bars)}{marker}</svg></figure>"
    )


def bars(rows: list[tuple[str, float, str]]) -> str:
    """Horizontal bars: label, value, and the text that stands behind the bar."""
    top = max((value for _, value, _ in rows if math.isfinite(value)), default=0.0) or 1.0
    lines = []
    for label, value, shown in rows:
        share = 100 * max(value, 0) / top if math.isfinite(value) else 0
        lines.append(
            f"<div><dt>{text(label)}</dt>"
            f'<dd><span class="track"><span style="width:{share:.1f}%"></span></span><b>{text(shown)}</b></dd></div>'
        )
    return f'<dl class="bars">{"".join(lines)}</dl>'


def _axes(edges: np.ndarray, top: int, unit: str, *, integer: bool) -> str:
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = []
    for share in (0, 0.5, 1):
        y = TOP + height * (1 - share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(top * share)}</text>')
    count = len(edges) - 1
    every = max(1, math.ceil(count / 8))
    step = width / count
    digits = 0 if integer else _decimals(every * float(edges[1] - edges[0]))
    for i in range(0, count if integer else count + 1, every):
        x = LEFT + (i + 0.5 if integer else i) * step
        value = edges[i] + 0.5 if integer else edges[i]
        parts.append(f'<text x="{x:.1f}" y="{TOP + height + 16}" text-anchor="middle">{value:.{digits}f}</text>')
    if unit != "°":
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{text(unit)}</text>')
    return "".join(parts)


def _edges(values: np.ndarray) -> np.ndarray:
    high = float(np.percentile(values, 99))
    if high <= 0:
        high = max(float(values.max()), 1.0)
    step = nice(high / 32)
    return np.arange(math.ceil(high / step) + 1) * step


def _integer_edges(values: np.ndarray) -> np.ndarray:
    low = int(values.min())
    high = max(min(int(values.max()), low + 39), low + 1)
    return np.arange(low, high + 2) - 0.5


def nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= step * 0.999)


def _digits(value: float) -> int:
    """Decimals that leave about two significant digits."""
    return 0 if value >= 20 or value <= 0 else min(6, max(1, 1 - math.floor(math.log10(value))))


def _decimals(step: float) -> int:
    """Decimals that tell multiples of `step` apart."""
    return next(
        digits for digits in range(9) if digits == 8 or abs(step * 10**digits - round(step * 10**digits)) < 1e-6
    )


def _short(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def _span(low: float, high: float, unit: str, *, integer: bool, last: bool) -> str:
    if integer:
        return f"{low + 0.5:.0f}{' or more' if last else ''} {unit}"
    digits = _decimals(high - low)
    return f"{low:.{digits}f} {unit} or more" if last else f"{low:.{digits}f} to {high:.{digits}f} {unit}"
