"""Writes the self-contained report.html of a run.

`write_report(data, path)` is the entry point. A further section is one function from Page to Section | None in the
list SECTIONS below (see sections.py), with its script among the assets that page.py puts in.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision3d.core import Scene
from vision3d.io.atomic import atomic_write_bytes
from vision3d.recon.report import sections
from vision3d.recon.report.curves_section import curves_section
from vision3d.recon.report.data import Attempt, DrawnPair, PhotoRow, ReportData
from vision3d.recon.report.overview import draw_overview
from vision3d.recon.report.page import Page, Section, SectionMaker, prepare, render, save
from vision3d.recon.report.render_section import render_section
from vision3d.recon.report.surface_data import Curve, OptimisationCurves, RenderedView, ResultFile, SurfaceFigures
from vision3d.recon.report.surface_section import surface_section

SECTIONS: tuple[SectionMaker, ...] = (
    sections.scene_section,
    render_section,
    surface_section,
    curves_section,
    sections.photos_section,
    sections.matrix_section,
    sections.pairs_section,
    sections.quality_section,
    sections.run_section,
    sections.settings_section,
)


def write_report(data: ReportData, path: str | Path, makers: Sequence[SectionMaker] = SECTIONS) -> None:
    """Writes one HTML file that needs nothing else, atomically. Vision3DError if it cannot be written."""
    save(render(prepare(data), sections.header(data), makers), path)


def write_overview(
    scene: Scene,
    path: str | Path,
    size: tuple[int, int] = (1280, 720),
    photos: Mapping[str, UInt8[np.ndarray, "_h _w 3"]] | None = None,
) -> None:
    """Writes `draw_overview` as PNG, atomically. Vision3DError if it cannot be written."""
    stream = io.BytesIO()
    Image.fromarray(draw_overview(scene, size, photos)).save(stream, "PNG", optimize=True)
    atomic_write_bytes(path, stream.getvalue())


__all__ = [
    "SECTIONS",
    "Attempt",
    "Curve",
    "DrawnPair",
    "OptimisationCurves",
    "Page",
    "PhotoRow",
    "RenderedView",
    "ReportData",
    "ResultFile",
    "Section",
    "SurfaceFigures",
    "draw_overview",
    "write_overview",
    "write_report",
]
