"""`vision3d bench splat`: our Numba surfel rasterizer beside its dense torch twin, and gsplat where there is CUDA.

A pair is a pixel with a surfel: all 16 x 16 px of every tile that the surfel is listed in, until the tile is full. That
is what a kernel with a plain loop over a tile's pixels evaluates, and what the rate counts. Ours computes fewer: in a
row only strips of 8 px (16 with AVX-512) that the box around the surfel's disk touches, until the strip is full.
Times are medians of whole `render_surfels` calls, one after another as in an optimisation, with checks, projection and
sorting; with gradients, of the call and the gradients to surfels, pose and intrinsics from given ones of all outputs.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vision3d.bench.harness import Case, Figures, Row, measure, report
from vision3d.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

COUNTS = (10_000, 60_000, 200_000)
SIZES = ((320, 240), (640, 480), (1280, 960))
ACCEPTED = (60_000, (640, 480))  # the case with limits, see `_verdict`
TWIN = (2_000, (320, 240))  # every pixel with every surfel: what the twin ends in seconds
PEERS = {"gsplat": "gsplat", "torch": "torch twin"}
WARM_UP = 2  # untimed calls before the timed ones
TOLERANCE = 1e-3  # largest difference, relative to the largest number: a float32 sum over many surfels, and branches


@dataclass(frozen=True, kw_only=True)
class BenchSplatConfig:
    """Options of `vision3d bench splat`."""

    threads: Annotated[int, tyro.conf.arg(help="CPU threads")] = 2
    repeats: Annotated[int, tyro.conf.arg(help="timed calls per case")] = 5
    twin: Annotated[bool, tyro.conf.arg(help="also time the dense torch twin, on a small case")] = True
    plot: Annotated[Path | None, tyro.conf.arg(help="also measure growth with surfels, pixels and views: a PNG")] = None
    json: Annotated[bool, tyro.conf.arg(help="JSON on stdout, the text on stderr")] = False


@dataclass(frozen=True)
class Rendered:
    """Layers of a picture and, where asked for, gradients to surfels, pose and intrinsics."""

    layers: tuple[Tensor, ...]
    gradients: tuple[Tensor | None, ...]

    def channels(self) -> np.ndarray:
        """[11 h w]."""
        import torch

        flat = [layer if layer.ndim == 3 else layer[None] for layer in self.layers]
        return torch.cat(flat).detach().cpu().numpy()

    def gradient(self) -> np.ndarray:
        """Of all surfel parameters, one after another, each divided by its largest number."""
        import numpy as np

        known = [g.flatten() / g.abs().max().clamp(min=1e-30) for g in self.gradients[:5] if g is not None]
        return np.concatenate([g.cpu().numpy() for g in known]) if known else np.empty(0, np.float32)


def run(config: BenchSplatConfig) -> int:
    """Measures and prints; 0 when all results agree."""
    for name in ("threads", "repeats"):
        if getattr(config, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(config, name)}")
    # Threads of torch that wait in a loop for more work take the cores from Numba's; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(config.threads)
    with_gsplat = torch.cuda.is_available() and importlib.util.find_spec("gsplat") is not None
    engines = ["numba", "gsplat"] if with_gsplat else ["numba"]
    rows: dict[tuple[int, tuple[int, int], bool], Row] = {}
    for size in SIZES:
        for count in COUNTS:
            for backward in (False, True):
                rows[count, size, backward] = _measured(count, size, backward, engines, config.repeats)
    all_rows = list(rows.values())
    twins = []
    if config.twin:
        twins = [_measured(*TWIN, backward, ["numba", "torch"], config.repeats) for backward in (False, True)]
    status = report("splat", all_rows + twins, as_json_text=config.json)
    out = sys.stderr if config.json else sys.stdout
    evaluations = {(count, size): _evaluations(count, size) for count in COUNTS for size in SIZES}
    print("\n".join([*_table(rows, evaluations), *_verdict(rows, evaluations, twins)]), file=out)
    if config.plot is not None:
        from vision3d.bench.splat_plot import plot_growth

        plot_growth(config.plot, config.repeats)
        print(f"growth drawn in {config.plot}", file=out)
    return status


def _measured(count: int, size: tuple[int, int], backward: bool, engines: list[str], repeats: int) -> Row:
    """Memory and agreement from calls on their own, times from calls one after another (the twin's from one)."""
    calls = {engine: partial(render_once, engine, count, size, backward) for engine in engines}
    case = Case(
        name=f"{count:,} surfels, {size[0]}x{size[1]}, {'forward+backward' if backward else 'forward'}",
        ours=lambda: calls["numba"],
        peers={PEERS[engine]: partial(_given, call) for engine, call in calls.items() if engine != "numba"},
        difference=difference,
        tolerance=TOLERANCE,
    )
    row = measure(case, 1)
    peers = {
        name: replace(figures, result=None) if name == PEERS["torch"] else _in_a_row(figures, calls[name], repeats)
        for name, figures in row.peers.items()
    }
    return replace(row, ours=_in_a_row(row.ours, calls["numba"], repeats), peers=peers)


def _given(call: Callable[[], Rendered]) -> Callable[[], Rendered]:
    return call


def _in_a_row(figures: Figures, call: Callable[[], Rendered], repeats: int) -> Figures:
    """The figures with times of calls one after another, without the result."""
    seconds, cpu = [], []
    for i in range(WARM_UP + repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        if i >= WARM_UP:
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
    return replace(figures, median_s=statistics.median(seconds), cpu_s=statistics.median(cpu), result=None)


def render_once(engine: str, count: int, size: tuple[int, int], backward: bool) -> Rendered:
    """A picture of the random scene and, if asked, gradients to surfels, pose and intrinsics of a fixed weighting."""
    import torch

    from vision3d.recon.splat2d import render_surfels

    surfels, camera, k, weights = _scene(count, size, "cuda" if engine == "gsplat" else "cpu")
    leaves = [*(getattr(surfels, name) for name in ("means", "quats", "scales", "opacities", "sh"))]
    leaves += [camera.rotation, camera.translation, k]
    for leaf in leaves:
        leaf.requires_grad_(backward)
    r = render_surfels(surfels, camera, k, size, engine=engine)  # type: ignore[arg-type]
    layers = (r.color, r.alpha, r.depth, r.median_depth, r.normal, r.distortion, r.color_variance)
    gradients: tuple[Tensor | None, ...] = ()
    if backward:
        gradients = torch.autograd.grad(layers, leaves, weights, allow_unused=engine == "gsplat")
    if engine == "gsplat":
        torch.cuda.synchronize()
    return Rendered(layers, gradients)


_KEPT: dict[tuple[int, tuple[int, int], str], Any] = {}


def _scene(count: int, size: tuple[int, int], device: str) -> Any:
    """Drawn once per case: what is timed is the rendering."""
    import torch

    from vision3d.bench.splat_scene import intrinsics, pose, random_surfels
    from vision3d.core.surfels import Surfels
    from vision3d.core.transform import RigidTransform

    if (count, size, device) not in _KEPT:
        _KEPT.clear()
        surfels, camera = random_surfels(count, size), pose()
        draw = torch.Generator().manual_seed(1)
        weights = [torch.randn(size[1], size[0], generator=draw) for _ in range(7)]
        for colors in (0, 4):
            weights[colors] = torch.randn(3, size[1], size[0], generator=draw)
        names = ("means", "quats", "scales", "opacities", "sh")
        _KEPT[count, size, device] = (
            Surfels(*(getattr(surfels, name).to(device) for name in names)),
            RigidTransform(camera.rotation.to(device), camera.translation.to(device)),
            intrinsics(size).to(device),
            [w.to(device) for w in weights],
        )
    return _KEPT[count, size, device]


def difference(ours: Rendered, peer: Rendered) -> float:
    """Largest difference of a channel or gradient, relative to the largest number; pixels where an engine took another
    branch (alpha next to 1/255) are left out as long as they are fewer than one in a thousand."""
    import numpy as np

    a, b = ours.channels(), peer.channels()
    apart = (np.abs(a - b) / np.maximum(np.abs(a).max(axis=(1, 2), keepdims=True), 1e-30)).max(axis=0)
    worst = float(np.quantile(apart, 0.999))
    a, b = ours.gradient(), peer.gradient()
    if len(a) and a.shape == b.shape:
        worst = max(worst, float(np.quantile(np.abs(a - b), 0.999)))
    return worst


def _evaluations(count: int, size: tuple[int, int]) -> tuple[int, int]:
    from vision3d.recon.splat2d.numba_engine import count_evaluations

    surfels, camera, k, _ = _scene(count, size, "cpu")
    return count_evaluations(surfels, camera, k, size)


def _table(rows: dict[Any, Row], evaluations: dict[Any, tuple[int, int]]) -> list[str]:
    lines = [
        "",
        "surfels    picture     forward        pairs    a second  computed   peak MB   with backward   ratio   peak MB",
    ]
    for size in SIZES:
        for count in COUNTS:
            forward, both = rows[count, size, False].ours, rows[count, size, True].ours
            computed, pairs = evaluations[count, size]
            lines.append(
                f"{count:7,}  {size[0]:5d}x{size[1]:<4d} {1e3 * forward.median_s:8.1f} ms {pairs / 1e6:9.1f} M"
                f" {pairs / forward.median_s / 1e9:9.2f}e9 {computed / pairs:9.0%} {forward.peak_mb:8.0f}"
                f" {1e3 * both.median_s:12.1f} ms {both.median_s / forward.median_s:7.2f} {both.peak_mb:9.0f}"
            )
    lines.append("growth of forward+backward, per step:")
    for size in SIZES:
        times = [rows[count, size, True].ours.median_s for count in COUNTS]
        steps = ", ".join(f"x{b / a:.2f}" for a, b in pairwise(times))
        lines.append(f"  {size[0]}x{size[1]}: surfels x6, x3.3: time {steps}")
    for count in COUNTS:
        times = [rows[count, size, True].ours.median_s for size in SIZES]
        steps = ", ".join(f"x{b / a:.2f}" for a, b in pairwise(times))
        lines.append(f"  {count:,} surfels: pixels x4, x4: time {steps}")
    return lines


def _verdict(rows: dict[Any, Row], evaluations: dict[Any, tuple[int, int]], twins: list[Row]) -> list[str]:
    """The figures that were asked for, with their limits."""
    count, size = ACCEPTED
    forward, both = rows[count, size, False].ours, rows[count, size, True].ours
    computed, pairs = evaluations[count, size]
    rate, own_rate = pairs / forward.median_s, computed / forward.median_s
    lines = [
        f"{count:,} surfels at {size[0]}x{size[1]}: {rate / 1e9:.2f}e9 pairs per second (at least 1.2e9; "
        f"{own_rate / 1e9:.2f}e9 of them computed, the others skipped), "
        f"forward+backward {both.median_s / forward.median_s:.2f} times forward (at most 4), "
        f"{both.peak_mb:.0f} MB (at most 2000)"
    ]
    for row in twins:
        lines.append(
            f"{row.case.name}, all pixels with all surfels: the twin takes "
            f"{row.peers['torch twin'].median_s / row.ours.median_s:.0f} times as long (at least 100)"
        )
    return lines
