"""What a report shows: filled by the pipeline, read by the sections of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vision3d.core import Mesh, Scene, Surfels
from vision3d.recon.report.surface_data import (
    OptimisationCurves,
    RenderedView,
    ResultFile,
    Rgb,
    SurfaceFigures,
    mean_psnr,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRow:
    """One photo that was found, registered or not.

    size: (width, height) px of the upright original, None if it could not be read. thumbnail: RGB of any size, or a
    function that makes it, called once (shrunk for the page; hand in about 640 px). reason: why it was left out.
    focal_source: where focal_px comes from, e.g. "given", "exif", "estimated". turn_deg: clockwise turn that was
    applied for matching. observations and mean_error_px are taken from the scene where they are None.
    """

    name: str
    size: tuple[int, int] | None = None
    thumbnail: Rgb | Callable[[], Rgb] | None = None
    registered: bool = False
    reason: str = ""
    focal_px: float | None = None
    focal_source: str = ""
    turn_deg: int = 0
    keypoints: int | None = None
    observations: int | None = None
    mean_error_px: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPair:
    """A verified pair to draw: points0[i] matches points1[i], in px of rgb0 and rgb1 (about 800 px is enough).

    kind: what the pair is an example of, e.g. "strongest", "weakest". count: verified matches of the pair, where more
    than the points handed in.
    """

    name0: str
    name1: str
    rgb0: Rgb
    rgb1: Rgb
    points0: Float[np.ndarray, "n 2"]
    points1: Float[np.ndarray, "n 2"]
    kind: str = ""
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way to reconstruct that was tried; the scene comes from the one with chosen=True."""

    name: str
    chosen: bool = False
    registered: int | None = None
    points: int | None = None
    mean_error_px: float | None = None
    score: float | None = None
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything on the page.

    scene: None if nothing was registered. pair_inliers: verified matches by the names of two photos, in either order.
    timings: seconds by stage, in the order they ran. settings: plain JSON values, nested as they like. versions,
    machine: label to text. warnings: sentences, the most important first. held_by_points: whether points hold the
    cameras, so that few of them are a reason to doubt; outlines may do it instead.

    What the surfel and mesh stages add, all optional: surfels and mesh are shown in the interactive view (thinned out
    as needed) in the scene's frame; surface: its figures, where None those of surfels and mesh; renders: a view per
    photo; curves: of the optimisation; orbit: an H.264 mp4 in the report's folder; files: links to other results.
    """

    title: str
    scene: Scene | None
    photos: Sequence[PhotoRow]
    pair_inliers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    drawn_pairs: Sequence[DrawnPair] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    attempts: Sequence[Attempt] = ()
    warnings: Sequence[str] = ()
    held_by_points: bool = True
    surfels: Surfels | None = None
    mesh: Mesh | None = None
    surface: SurfaceFigures | None = None
    renders: Sequence[RenderedView] = ()
    curves: OptimisationCurves | None = None
    orbit: Path | None = None
    files: Sequence[ResultFile] = ()

    def figures(self) -> SurfaceFigures:
        """Those given, filled up with the sizes of surfels and mesh."""
        given = self.surface or SurfaceFigures()
        surfels, vertices, faces = given.surfels, given.vertices, given.faces
        if surfels is None and self.surfels is not None:
            surfels = len(self.surfels)
        if self.mesh is not None:
            vertices = len(self.mesh.vertices) if vertices is None else vertices
            faces = len(self.mesh.faces) if faces is None else faces
        return replace(given, surfels=surfels, vertices=vertices, faces=faces)

    def verdict(self) -> str:
        """The result in one line, e.g. "11 of 11 photos registered, 8,412 points, mean reprojection error 0.61 px"."""
        registered = sum(row.registered for row in self.photos)
        parts = [f"{registered} of {len(self.photos)} {'photo' if len(self.photos) == 1 else 'photos'} registered"]
        if self.scene is not None:
            count = len(self.scene.points)
            parts.append(f"{count:,} {'point' if count == 1 else 'points'}")
            errors = self.scene.errors[self.scene.errors.isfinite()]
            if len(errors):
                parts.append(f"mean reprojection error {float(errors.mean()):.2f} px")
        figures = self.figures()
        if figures.faces is not None:
            parts.append(f"surface of {figures.faces:,} {'face' if figures.faces == 1 else 'faces'}")
        elif figures.surfels is not None:
            parts.append(f"{figures.surfels:,} {'surfel' if figures.surfels == 1 else 'surfels'}")
        for held_out, kind in ((True, "held-out"), (False, "rendered")):
            if (psnr := mean_psnr(self.renders, held_out=held_out)) is not None:
                parts.append(f"PSNR {psnr[0]:.1f} dB on {psnr[1]} {kind} {'photo' if psnr[1] == 1 else 'photos'}")
                break
        if self.timings:
            parts.append(duration(sum(self.timings.values())))
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "23 s", "4 min 05 s", "2 h 03 min"."""
    if not np.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
