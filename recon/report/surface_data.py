"""What a report shows of surfels and meshes: pictures per photo, curves of the optimisation, figures and files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8

Rgb = UInt8[np.ndarray, "_h _w 3"]
Picture = Rgb | Callable[[], Rgb] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedView:
    """A photo beside what the surfels look like from its camera.

    Every picture is RGB, a function that makes it (called once), or None where there is none; all show the same part
    of the scene, and about 640 px is enough. held_out: the photo was kept from the optimisation. depth, normal, error:
    coloured as view_pictures.py does. depth_limits: nearest and farthest depth of the depth picture's colours, in the
    scene's unit. psnr: dB. psnr and ssim may be None or NaN where they were not measured.
    """

    name: str
    held_out: bool = False
    photo: Picture = None
    render: Picture = None
    depth: Picture = None
    normal: Picture = None
    error: Picture = None
    depth_limits: tuple[float, float] | None = None
    psnr: float | None = None
    ssim: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line: a value per row of `OptimisationCurves`, NaN where it was not measured.

    plot: title of the plot that shows it; curves of one plot share its axis. unit: of the values, "" for none.
    log: whether the axis is logarithmic; None: where the values span more than a factor of 20,
    zeros aside, and none is negative.
    """

    name: str
    plot: str
    values: Float[np.ndarray, " n"]
    unit: str = ""
    log: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimisationCurves:
    """What was measured while surfels were optimised, a row per measurement in the order of time.

    marks: iterations at which something changed, with a word for it, e.g. (300, "384 px").
    """

    iteration: Int[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    curves: Sequence[Curve]
    marks: Sequence[tuple[int, str]] = ()

    def __post_init__(self) -> None:
        for curve in self.curves:
            if len(curve.values) != len(self.iteration):
                raise ValueError(
                    f"curve {curve.name!r} has {len(curve.values)} values for {len(self.iteration)} iterations"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceFigures:
    """Numbers about the surface; None is left out. voxel_size: in the scene's unit. notes: label to text."""

    surfels: int | None = None
    vertices: int | None = None
    faces: int | None = None
    voxel_size: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A file to link to: its path relative to the report, what it is in a few words, and its size."""

    path: str
    note: str = ""
    bytes: int | None = None


def mean_psnr(views: Sequence[RenderedView], *, held_out: bool) -> tuple[float, int] | None:
    """Mean PSNR in dB of the held-out or of the other views and how many were measured, None if none was."""
    found = [v.psnr for v in views if v.held_out == held_out and v.psnr is not None and math.isfinite(v.psnr)]
    return (sum(found) / len(found), len(found)) if found else None


def mean_ssim(views: Sequence[RenderedView], *, held_out: bool) -> float | None:
    """Mean SSIM of the held-out or of the other views, None if none was measured."""
    found = [v.ssim for v in views if v.held_out == held_out and v.ssim is not None and math.isfinite(v.ssim)]
    return sum(found) / len(found) if found else None
