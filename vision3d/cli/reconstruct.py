"""`vision3d reconstruct`: photos in a folder to cameras, points, surfels, a mesh and a report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vision3d.cli.progress import progress_bars
from vision3d.recon.pipeline import ReconstructConfig, ReconstructResult, reconstruct
from vision3d.recon.surface import Surface
from vision3d.recon.surface_report import surface_json


@dataclass(frozen=True, kw_only=True)
class ReconstructArguments(ReconstructConfig):
    """Cameras, points, surfels, a mesh and a report from a folder of photos."""

    photos: Annotated[Path, tyro.conf.Positional]
    """folder of photos (subfolders are read too)"""
    json: bool = False
    """print the result as JSON"""
    quiet: bool = False
    """no progress on stderr"""


def run(arguments: ReconstructArguments) -> int:
    """Runs the pipeline and prints what came out."""
    fields = {name: getattr(arguments, name) for name in ReconstructConfig.__dataclass_fields__}
    with progress_bars(arguments.quiet) as progress:
        result = reconstruct(ReconstructConfig(**fields), progress)
    if arguments.json:
        print((result.out / "run.json").read_text(encoding="utf-8").strip())
    else:
        _print(result)
    return 0


def _print(result: ReconstructResult) -> None:
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if result.scene is None:
        accepted = sum(pair.accepted for pair in result.pairs.values())
        print(f"{len(result.photos)} photos, {accepted} of {len(result.pairs)} pairs verified; stopped before poses")
    else:
        scene = result.scene
        error = f", mean reprojection error {float(scene.errors.mean()):.2f} px" if len(scene.errors) else ""
        print(f"{len(scene.images)} of {len(result.photos)} photos registered, {len(scene.points)} points{error}")
    if result.surface is not None:
        print(surface_line(result.surface))
    for name, reason in result.left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"open {result.out / 'report.html'}, or look around: vision3d view {result.out}")


def surface_line(surface: Surface) -> str:
    """Surfels, how well they show the photos, and the mesh, in one line."""
    figures = surface_json(surface)
    parts = [f"{figures['surfels']} surfels"]
    for kind in ("train", "held_out"):
        likeness = figures[kind]
        if likeness["photos"]:
            what = "held-out" if kind == "held_out" else "training"
            word = "photo" if likeness["photos"] == 1 else "photos"
            parts.append(
                f"PSNR {likeness['psnr_db']:.2f} dB, SSIM {likeness['ssim']:.3f} on {likeness['photos']} {what} {word}"
            )
    if figures["faces"]:
        parts.append(f"mesh of {figures['faces']} faces")
    return "; ".join(parts)
