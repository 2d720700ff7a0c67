"""Line plots as inline SVG with two x axes to switch between; what is drawn is binned so that pages stay small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from vision3d.recon.report.markup import text
from vision3d.recon.report.plots import nice

WIDTH, HEIGHT = 460, 236
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 16, 34
DOTTED = 48  # curves with no more values than this show each of them as a dot
LOG_SPAN = 20.0  # values that span more than this factor get a logarithmic axis; it leaves zeros out


@dataclass(frozen=True, slots=True)
class Line:
    """Values over x, NaN where there is none; palette: number of its colour."""

    name: str
    values: Float[np.ndarray, " n"]
    palette: int


@dataclass(frozen=True, slots=True)
class Axis:
    """From low to high (of the logarithms where log), with ticks at values."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """0 at the low end to 1 at the high end, NaN for what a logarithmic axis cannot hold."""
        if self.log:
            values = np.log10(np.where(values > 0, values, np.nan))
        return (values - self.low) / (self.high - self.low)

    def place(self, value: float) -> float:
        """`share` of one value."""
        return float(self.share(np.array([float(value)]))[0])


def line_plot(
    title: str,
    unit: str,
    lines: Sequence[Line],
    xs: Sequence[tuple[str, str, Float[np.ndarray, " n"]]],
    *,
    marks: Sequence[tuple[Sequence[float], str]] = (),
    log: bool | None = None,
    key: str = "",
) -> str:
    """A figure. xs: (key, label, values) of each x axis, of which the first is shown; marks: x on each, and a word."""
    finite = np.concatenate([line.values[np.isfinite(line.values)] for line in lines] or [np.zeros(0)])
    if not len(finite):
        return f'<figure class="plot"><figcaption>{text(title)}</figcaption><p class="none">no data</p></figure>'
    y_axis = log_axis(finite) if _is_log(finite, log) else linear_axis(finite)
    groups = ""
    for k, (x_key, x_label, x) in enumerate(xs):
        x_axis = linear_axis(x[np.isfinite(x)], tight=True)
        if x_key == "iteration":
            x_axis = replace(x_axis, ticks=tuple(tick for tick in x_axis.ticks if tick == round(tick)))
        drawn = "".join(_mark(x_axis, at[k], word) for at, word in marks)
        drawn += "".join(_path(line, x_axis.share(x), y_axis.share(line.values)) for line in lines)
        hidden = "" if k == 0 else ' class="other-axis"'
        groups += f'<g data-x="{text(x_key)}"{hidden}>{_x_ticks(x_axis, x_label)}{drawn}</g>'
    swatches = "".join(
        f'<span><i style="background:var(--line-{line.palette})"></i>{text(line.name)}</span>' for line in lines
    )
    scale = ' <small class="log">log scale</small>' if y_axis.log else ""
    legend = (
        f'<p class="swatches">{swatches}</p>' if len(lines) > 1 or lines[0].name.casefold() != title.casefold() else ""
    )
    with_unit = f" <small>in {text(unit)}</small>" if unit else ""
    return (
        f'<figure class="plot curve" data-plot="{text(key)}"><figcaption>{text(title)}{with_unit}{scale}</figcaption>'
        f'{legend}<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(_summary(title, unit, lines))}">'
        f'{_y_ticks(y_axis)}{groups}<line class="at" x1="0" x2="0" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
        f'visibility="hidden"/></svg></figure>'
    )


def linear_axis(values: Float[np.ndarray, " n"], *, tight: bool = False) -> Axis:
    """From zero where that is not far below the values; tight: just the range of the values."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    span = high - low
    if not tight:
        low = 0.0 if 0 <= low <= 0.6 * high else low - 0.06 * span
        high += 0.06 * span
    if not high - low > 1e-9 * max(abs(high), abs(low)):
        low, high = low - max(abs(low) * 0.1, 1e-12), high + max(abs(high) * 0.1, 1e-12)
    step = nice((high - low) / 4)
    ticks = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return Axis(low, high, tuple(ticks.tolist()))


def log_axis(values: Float[np.ndarray, " n"]) -> Axis:
    """Over the positive values, with a tick per power of ten, or at 1, 2, 5 where there are few of those."""
    logs = np.log10(values[values > 0])
    low, high = float(logs.min()) - 0.05, float(logs.max()) + 0.05
    powers = range(math.floor(low), math.ceil(high) + 1)
    every = max(1, len(powers) // 5)
    factors = (1.0, 2.0, 5.0) if high - low < 2 else (1.0,)
    ticks = [f * 10.0**p for p in powers for f in factors if p % every == 0 and low <= p + math.log10(f) <= high]
    return Axis(low, high, tuple(ticks), log=True)


def binned(values: Float[np.ndarray, " n"], starts: np.ndarray, count: int) -> Float[np.ndarray, " m"]:
    """Mean of the finite values from each start to the next, NaN where there is none; `count` is n."""
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), starts) if count else np.zeros(0)
    seen = np.add.reduceat(known.astype(np.int64), starts) if count else np.zeros(0)
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan)


def shown_number(value: float) -> str:
    """Short: "0", "0.03", "1.2k", "3M", "2e-05"."""
    size = abs(value)
    for limit, divisor, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if limit <= size < 1e9:
            return f"{value / divisor:.4g}{letter}"
    return f"{value:.4g}" if size < 1e9 else f"{value:.1e}"


def _is_log(finite: Float[np.ndarray, " n"], log: bool | None) -> bool:
    positive = finite[finite > 0]
    if log is False or not len(positive):
        return False
    if log:
        return True
    if float(finite.min()) < 0 or 2 * len(positive) < len(finite):
        return False
    return float(positive.max()) > LOG_SPAN * float(np.percentile(positive, 2))


def _path(line: Line, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> str:
    keep = np.isfinite(x) & np.isfinite(y)
    px = LEFT + x[keep] * (WIDTH - LEFT - RIGHT)
    py = TOP + (1 - y[keep].clip(0, 1)) * (HEIGHT - TOP - BOTTOM)
    if not len(px):
        return ""
    points = " ".join(f"{u:.1f},{v:.1f}" for u, v in zip(px, py, strict=True))
    dots = ""
    if len(px) <= DOTTED:
        dots = "".join(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="2.6"/>' for u, v in zip(px, py, strict=True))
        dots = f'<g fill="var(--line-{line.palette})">{dots}</g>'
    return f'<polyline class="line" stroke="var(--line-{line.palette})" points="{points}"/>{dots}'


def _mark(axis: Axis, at: float, word: str) -> str:
    share = axis.place(at)
    if share > 1:
        return ""
    share = max(share, 0.0)  # what holds from the start
    x = LEFT + share * (WIDTH - LEFT - RIGHT)
    anchor, shift = ("start", 3) if share < 0.85 else ("end", -3)
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="mark-text" x="{x + shift:.1f}" y="{TOP - 4}" text-anchor="{anchor}">{text(word)}</text>'
    )


def _x_ticks(axis: Axis, label: str) -> str:
    parts = []
    for value in axis.ticks:
        x = LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{shown_number(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{text(label)}</text>')
    return "".join(parts)


def _y_ticks(axis: Axis) -> str:
    parts = []
    for value in axis.ticks:
        y = TOP + (1 - axis.place(value)) * (HEIGHT - TOP - BOTTOM)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown_number(value)}</text>'
        )
    return "".join(parts)


def _summary(title: str, unit: str, lines: Sequence[Line]) -> str:
    ends = []
    for line in lines:
        found = line.values[np.isfinite(line.values)]
        if len(found):
            ends.append(f"{line.name} ends at {shown_number(float(found[-1]))}{' ' + unit if unit else ''}")
    return f"{title}: {', '.join(ends)}"
