"""`vision3d bench splat`: our Numba surfel rasterizer beside its dense torch twin, and gsplat where there is CUDA.

An evaluation is one (pixel, surfel) pair that the kernel computes: the rows of a 16 x 16 tile that a listed surfel
touches, until all pixels of the tile are full. Times are of whole `render_surfels` calls, with checks and projection.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vision3d.bench.harness import Case, Prepare, Row, measure, report
from vision3d.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

COUNTS = (10_000, 60_000, 200_000)
SIZES = ((320, 240), (640, 480), (1280, 960))
ACCEPTED = (60_000, (640, 480))  # the case with limits, see `_verdict`
TOLERANCE = 1e-3  # largest difference, relative to the largest number: a float32 sum over many surfels, and branches


@dataclass(frozen=True, kw_only=True)
class BenchSplatConfig:
    """Options of `vision3d bench splat`."""

    threads: Annotated[int, tyro.conf.arg(help="CPU threads")] = 2
    repeats: Annotated[int, tyro.conf.arg(help="timed calls per case")] = 5
    twin: Annotated[bool, tyro.conf.arg(help="time the dense torch twin on the smallest case (minutes)")] = True
    plot: Annotated[Path | None, tyro.conf.arg(help="also measure growth with surfels, pixels and views: a PNG")] = None
    json: Annotated[bool, tyro.conf.arg(help="JSON on stdout, the text on stderr")] = False


@dataclass(frozen=True)
class Rendered:
    """Channels [11 h w] of a picture and, where asked for, gradients of a weighted sum of them, one after another."""

    channels: np.ndarray
    gradients: np.ndarray | None


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
    rows: dict[tuple[int, tuple[int, int], bool], Row] = {}
    for size in SIZES:
        for count in COUNTS:
            for backward in (False, True):
                ours = partial(prepare, "numba", count, size, backward, config.threads)
                gsplat = partial(prepare, "gsplat", count, size, backward, config.threads)
                case = _case(count, size, backward, ours, {"gsplat": gsplat} if with_gsplat else {})
                rows[count, size, backward] = measure(case, config.repeats)
    all_rows = list(rows.values())
    twins = []
    if config.twin:
        for backward in (False, True):
            contenders = [
                partial(prepare, e, COUNTS[0], SIZES[0], backward, config.threads) for e in ("numba", "torch")
            ]
            case = _case(COUNTS[0], SIZES[0], backward, contenders[0], {"torch twin": contenders[1]}, isolate=True)
            twins.append(measure(case, 1, {"OMP_NUM_THREADS": str(config.threads)}))
    status = report("splat", all_rows + twins, as_json_text=config.json)
    out = sys.stderr if config.json else sys.stdout
    evaluations = {(count, size): _evaluations(count, size) for count in COUNTS for size in SIZES}
    print("\n".join([*_table(rows, evaluations), *_verdict(rows, evaluations, twins)]), file=out)
    if config.plot is not None:
        from vision3d.bench.splat_plot import plot_growth

        plot_growth(config.plot, config.repeats)
        print(f"growth drawn in {config.plot}", file=out)
    return status


def prepare(engine: str, count: int, size: tuple[int, int], backward: bool, threads: int) -> Callable[[], Rendered]:
    """Draws the scene and renders it once (kernels get compiled); the call renders it, and with gradients if asked."""
    import torch

    torch.set_num_threads(threads)
    call = partial(render_once, engine, count, size, backward)
    if engine != "torch":  # the twin has nothing to compile, and takes long
        call()
    return call


def render_once(engine: str, count: int, size: tuple[int, int], backward: bool) -> Rendered:
    """A picture of the random scene, and gradients to surfels, pose and intrinsics of a fixed weighting of it."""
    import torch

    from vision3d.recon.splat2d import render_surfels

    surfels, camera, k, weights = _scene(count, size, "cuda" if engine == "gsplat" else "cpu")
    leaves = [*(getattr(surfels, name) for name in ("means", "quats", "scales", "opacities", "sh"))]
    leaves += [camera.rotation, camera.translation, k]
    for leaf in leaves:
        leaf.requires_grad_(backward)
    r = render_surfels(surfels, camera, k, size, engine=engine)  # type: ignore[arg-type]
    flat = [r.color, r.alpha[None], r.depth[None], r.median_depth[None], r.normal]
    channels = torch.cat([*flat, r.distortion[None], r.color_variance[None]])
    if not backward:
        return Rendered(channels.cpu().numpy(), None)
    gradients = torch.autograd.grad((channels * weights).sum(), leaves, allow_unused=engine == "gsplat")
    known = [g.flatten() / g.abs().max().clamp(min=1e-30) for g in gradients[:5] if g is not None]
    return Rendered(channels.detach().cpu().numpy(), torch.cat(known).cpu().numpy())


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
        weights = torch.randn(11, size[1], size[0], generator=torch.Generator().manual_seed(1))
        names = ("means", "quats", "scales", "opacities", "sh")
        _KEPT[count, size, device] = (
            Surfels(*(getattr(surfels, name).to(device) for name in names)),
            RigidTransform(camera.rotation.to(device), camera.translation.to(device)),
            intrinsics(size).to(device),
            weights.to(device),
        )
    return _KEPT[count, size, device]


def difference(ours: Rendered, peer: Rendered) -> float:
    """Largest difference of a channel or gradient, relative to the largest number; pixels where an engine took another
    branch (alpha next to 1/255) are left out as long as they are fewer than one in a thousand."""
    import numpy as np

    scale = np.abs(ours.channels).max(axis=(1, 2), keepdims=True)
    apart = (np.abs(ours.channels - peer.channels) / np.maximum(scale, 1e-30)).max(axis=0)
    worst = float(np.quantile(apart, 0.999))
    if ours.gradients is not None and peer.gradients is not None and ours.gradients.shape == peer.gradients.shape:
        worst = max(worst, float(np.quantile(np.abs(ours.gradients - peer.gradients), 0.999)))
    return worst


def _case(
    count: int, size: tuple[int, int], backward: bool, ours: Prepare, peers: dict[str, Prepare], isolate: bool = False
) -> Case:
    what = "forward+backward" if backward else "forward"
    return Case(
        name=f"{count:,} surfels, {size[0]}x{size[1]}, {what}",
        ours=ours,
        peers=peers,
        difference=difference,
        tolerance=TOLERANCE,
        isolate=isolate,
    )


def _evaluations(count: int, size: tuple[int, int]) -> int:
    import torch

    from vision3d.recon.splat2d.numba_engine import count_evaluations
    from vision3d.recon.splat2d.project_numba import project_surfels_numba

    surfels, camera, k, _ = _scene(count, size, "cpu")
    with torch.no_grad():
        return count_evaluations(project_surfels_numba(surfels, camera, k), size)


def _table(rows: dict[Any, Row], evaluations: dict[Any, int]) -> list[str]:
    lines = [
        "",
        "surfels    picture     forward   evaluations   per second   peak MB   with backward   ratio   peak MB",
    ]
    for size in SIZES:
        for count in COUNTS:
            forward, both = rows[count, size, False].ours, rows[count, size, True].ours
            pairs = evaluations[count, size]
            lines.append(
                f"{count:7,}  {size[0]:5d}x{size[1]:<4d} {1e3 * forward.median_s:8.1f} ms {pairs / 1e6:9.1f} M"
                f" {pairs / forward.median_s / 1e9:9.2f}e9 {forward.peak_mb:9.0f}"
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


def _verdict(rows: dict[Any, Row], evaluations: dict[Any, int], twins: list[Row]) -> list[str]:
    """The figures that were asked for, with their limits."""
    count, size = ACCEPTED
    forward, both = rows[count, size, False].ours, rows[count, size, True].ours
    rate = evaluations[count, size] / forward.median_s
    lines = [
        f"{count:,} surfels at {size[0]}x{size[1]}: {rate / 1e9:.2f}e9 evaluations per second (at least 1.2e9), "
        f"forward+backward {both.median_s / forward.median_s:.2f} times forward (at most 4), "
        f"{both.peak_mb:.0f} MB (at most 2000)"
    ]
    for row in twins:
        lines.append(
            f"{row.case.name}, all pixels with all surfels: the twin takes "
            f"{row.peers['torch twin'].median_s / row.ours.median_s:.0f} times as long (at least 100)"
        )
    return lines
