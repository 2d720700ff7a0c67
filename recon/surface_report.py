"""What run.json and the report say of surfels and mesh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vision3d.recon.fit_config import TERMS, FitCurves, FitResult
from vision3d.recon.report import Curve, OptimisationCurves, ResultFile, SurfaceFigures
from vision3d.recon.report.surface_data import mean_psnr, mean_ssim
from vision3d.recon.surface import Surface

FILES = (
    ("surfels.ply", "surfels, for SuperSplat and other viewers of Gaussian splats"),
    ("mesh.ply", "mesh with vertex colours"),
    ("mesh.glb", "the same mesh, y up, for browsers and Blender"),
    ("points.ply", "sparse points"),
    ("cameras.json", "cameras"),
    ("orbit.mp4", "a flight around the surface"),
)
TITLES = {
    "photometric": "colour and structure",
    "normal": "normal consistency",
    "distortion": "distortion",
    "variance": "colour variance",
    "correspondence": "correspondence",
    "silhouette": "silhouette",
}


def surface_json(surface: Surface) -> dict[str, Any]:
    """Figures for run.json; PSNR (dB) and SSIM are means over photos at the working size, held-out photos without
    their exposure."""
    views = [photo.pictures for photo in surface.photos]

    def likeness(held_out: bool) -> dict[str, object]:
        psnr = mean_psnr(views, held_out=held_out)
        return {
            "photos": 0 if psnr is None else psnr[1],
            "psnr_db": None if psnr is None else round(psnr[0], 3),
            "ssim": _rounded(mean_ssim(views, held_out=held_out)),
        }

    return {
        "surfels_at_start": surface.started,
        "surfels": len(surface.fit.surfels),
        "ended": surface.fit.ended,
        "steps": surface.fit.curves.steps[-1] if surface.fit.curves.steps else 0,
        "train": likeness(False),
        "held_out": likeness(True),
        "held_out_photos": sorted(surface.held_out),
        "vertices": None if surface.mesh is None else len(surface.mesh.vertices),
        "faces": None if surface.mesh is None else len(surface.mesh.faces),
    }


def curves(fit: FitResult) -> OptimisationCurves | None:
    """The optimisation's curves for the report."""
    found = fit.curves
    if not found.steps:
        return None

    def values(name: str) -> np.ndarray:
        return np.array(found.values[name], dtype=np.float64)

    used = [name for name in TERMS if values(name).any()]  # a term of weight 0 is no term
    lines = [Curve(name=TITLES[name], plot="loss by term", values=values(name)) for name in used]
    total = np.sum([values(name) for name in TERMS], axis=0)
    lines.insert(0, Curve(name="sum", plot="loss by term", values=total))
    lines.append(Curve(name="training photos", plot="PSNR", values=values("psnr"), unit="dB", log=False))
    held_out = values("psnr_held_out")
    if np.isfinite(held_out).any():
        lines.append(Curve(name="held-out photos", plot="PSNR", values=held_out, unit="dB", log=False))
    lines.append(Curve(name="surfels", plot="surfels", values=values("surfels"), log=False))
    movement = values("camera_movement_deg")
    lines.append(Curve(name="median rotation", plot="movement of the cameras", values=movement, unit="deg", log=False))
    return OptimisationCurves(
        iteration=np.array(found.steps), seconds=np.array(found.seconds), curves=lines, marks=size_marks(found)
    )


def size_marks(found: FitCurves) -> list[tuple[int, str]]:
    """Where the photos' size changed, and the sizes: a jump of the curves there is no accident."""
    sizes = found.values.get("longer_side_px", [])
    if len(sizes) != len(found.steps) or len(set(sizes)) < 2:
        return []
    marks = [(0, f"{sizes[0]:.0f} px")]
    for k in range(1, len(sizes)):
        if sizes[k] != sizes[k - 1]:
            marks.append((found.steps[k - 1], f"{sizes[k]:.0f} px"))
    return marks


def figures(surface: Surface) -> SurfaceFigures:
    """The surface in numbers."""
    return SurfaceFigures(surfels=len(surface.fit.surfels), notes={"optimisation": surface.fit.ended})


def result_files(out: Path, names: Sequence[tuple[str, str]] = FILES) -> list[ResultFile]:
    """Links to the files that are there."""
    return [
        ResultFile(path=name, note=note, bytes=(out / name).stat().st_size)
        for name, note in names
        if (out / name).is_file()
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
