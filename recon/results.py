"""Writes what a run found: the scene in formats that other programs open, run.json, and the report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from vision3d import __version__
from vision3d.config import dump_config
from vision3d.core import CameraPrior, PointCloud, Progress, Scene
from vision3d.data.photos import PhotoInfo, load_photo
from vision3d.io.atomic import atomic_write_json
from vision3d.io.cameras_json import known_cameras, write_cameras_json
from vision3d.io.colmap import write_colmap
from vision3d.io.nerfstudio import write_transforms
from vision3d.io.ply import write_ply
from vision3d.recon.known_poses import BY_OUTLINES
from vision3d.recon.report import Attempt, DrawnPair, PhotoRow, ReportData, write_overview, write_report
from vision3d.recon.run_folder import RUN_FILE, RunFolder
from vision3d.recon.sfm import SfmResult
from vision3d.recon.surface import Surface
from vision3d.recon.surface_report import curves, figures, result_files, surface_json
from vision3d.recon.tracks import Pair
from vision3d.recon.view_graph import VerifiedPair

THUMBNAIL = 640  # px
DRAWN_SIZE = 800  # px
DRAWN_EACH = 4  # strongest and weakest pairs that the report draws
PACKAGES = ("torch", "kornia", "opencv-python-headless", "opencv-python", "pycolmap", "poselib", "numba", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Everything that results are written from; `settings` is the run's configuration."""

    title: str
    settings: object
    seed: int
    photo_folder: Path
    photos: Sequence[PhotoInfo]
    priors: Mapping[str, CameraPrior]
    pairs: Mapping[Pair, VerifiedPair]
    result: SfmResult | None
    left_out: Mapping[str, str]
    keypoints: Mapping[str, int]
    turns: Mapping[str, int]
    timings: Mapping[str, float]
    warnings: Sequence[str]
    surface: Surface | None = None

    @property
    def scene(self) -> Scene | None:
        """The scene, if there is one."""
        return None if self.result is None else self.result.scene


def write_results(folder: RunFolder, summary: RunSummary, progress: Progress) -> None:
    """Writes all results into the run's folder, run.json last; each file is whole or not there at all."""
    progress("results", 0, 3)
    if summary.scene is not None:
        write_scene(summary.scene, folder.path, summary.photo_folder)
    progress("results", 1, 3)
    thumbnails = {p.name: _picture(p, THUMBNAIL) for p in summary.photos}
    if summary.scene is not None:
        write_overview(summary.scene, folder.path / "overview.png", photos=thumbnails)
    write_report(_report(summary, thumbnails, folder.path), folder.path / "report.html")
    progress("results", 2, 3)
    atomic_write_json(folder.path / RUN_FILE, _run_json(summary))
    progress("results", 3, 3)


def write_scene(scene: Scene, out: Path, photo_folder: Path) -> None:
    """Writes sparse/ (COLMAP, binary), points.ply, cameras.json and transforms.json into `out`.

    transforms.json refers to the photos by their absolute path.
    """
    write_colmap(out / "sparse", scene)
    write_ply(out / "points.ply", PointCloud(scene.points, scene.colors.double() / 255))
    write_cameras_json(out / "cameras.json", known_cameras(scene), note="written by vision3d; the scale is arbitrary")
    write_transforms(out / "transforms.json", scene, image_folder=str(photo_folder.resolve()), ply_path="points.ply")


def _run_json(summary: RunSummary) -> dict[str, object]:
    scene, result = summary.scene, summary.result
    accepted = sum(pair.accepted for pair in summary.pairs.values())
    return {
        "vision3d": __version__,
        "settings": _settings(summary.settings),
        "seed": summary.seed,
        "versions": _versions(),
        "machine": _machine(),
        "photos": [p.name for p in summary.photos],
        "left_out": dict(summary.left_out),
        "turned_deg": {name: 90 * k for name, k in summary.turns.items() if k},
        "counts": {
            "photos": len(summary.photos),
            "registered": 0 if scene is None else len(scene.images),
            "pairs_matched": len(summary.pairs),
            "pairs_verified": accepted,
            "points": 0 if scene is None else len(scene.points),
            "observations": 0 if scene is None else len(scene.tracks.point),
        },
        "mean_reprojection_error_px": None if scene is None or not len(scene.errors) else float(scene.errors.mean()),
        "intrinsics": None if result is None else result.intrinsics,
        "attempts": [
            {"name": a.name, "registered": a.registered, "points": a.points, "score": a.score, "seconds": a.seconds}
            for a in (() if result is None else result.attempts)
        ],
        "chosen": None if result is None else result.chosen,
        "surface": None if summary.surface is None else surface_json(summary.surface),
        "timings_s": {name: round(seconds, 3) for name, seconds in summary.timings.items()},
        "warnings": list(summary.warnings),
    }


def _report(summary: RunSummary, thumbnails: Mapping[str, UInt8[np.ndarray, "_h _w 3"]], out: Path) -> ReportData:
    scene, result, surface = summary.scene, summary.result, summary.surface
    rows = [_row(summary, photo, thumbnails[photo.name]) for photo in summary.photos]
    rows += [PhotoRow(name=name, reason=why) for name, why in summary.left_out.items() if name not in thumbnails]
    attempts = [
        Attempt(
            name=a.name,
            chosen=result is not None and a.name == result.chosen,
            registered=a.registered,
            points=a.points,
            score=a.score,
            seconds=a.seconds,
        )
        for a in (() if result is None else result.attempts)
    ]
    return ReportData(
        title=summary.title,
        scene=scene,
        photos=rows,
        pair_inliers={pair: len(found.matches) for pair, found in summary.pairs.items() if found.accepted},
        drawn_pairs=_drawn(summary),
        timings=summary.timings,
        settings=_settings(summary.settings),
        versions=_versions(),
        machine=_machine(),
        seed=summary.seed,
        attempts=attempts,
        warnings=summary.warnings,
        held_by_points=result is None or result.chosen != BY_OUTLINES,
        surfels=None if surface is None else surface.fit.surfels,
        mesh=None if surface is None else surface.mesh,
        surface=None if surface is None else figures(surface),
        renders=[] if surface is None else [photo.pictures for photo in surface.photos],
        curves=None if surface is None else curves(surface.fit),
        orbit=out / "orbit.mp4" if surface is not None and (out / "orbit.mp4").is_file() else None,
        files=[] if surface is None else result_files(out),
    )


def _row(summary: RunSummary, photo: PhotoInfo, thumbnail: UInt8[np.ndarray, "h w 3"]) -> PhotoRow:
    scene = summary.scene
    registered = scene is not None and photo.name in scene.images
    source = summary.priors[photo.name].source
    focal = summary.priors[photo.name].camera.focal[0]
    if registered and scene is not None:
        focal = scene.camera_of(photo.name).focal[0]
    return PhotoRow(
        name=photo.name,
        size=photo.size,
        thumbnail=thumbnail,
        registered=registered,
        reason=summary.left_out.get(photo.name, ""),
        focal_px=focal,
        focal_source={"given": "given", "exif": "EXIF, refined", "guess": "estimated"}[source],
        turn_deg=90 * summary.turns.get(photo.name, 0),
        keypoints=summary.keypoints.get(photo.name),
    )


def _drawn(summary: RunSummary) -> list[DrawnPair]:
    accepted = sorted(
        (pair for pair, found in summary.pairs.items() if found.accepted),
        key=lambda pair: (-len(summary.pairs[pair].matches), pair),
    )
    chosen = [(pair, "strongest") for pair in accepted[:DRAWN_EACH]]
    chosen += [(pair, "weakest") for pair in accepted[DRAWN_EACH:][-DRAWN_EACH:]]
    by_name = {p.name: p for p in summary.photos}
    names = {name for pair, _ in chosen for name in pair}
    pictures = {name: _picture(by_name[name], DRAWN_SIZE) for name in sorted(names)}
    drawn = []
    for (a, b), kind in chosen:
        matches = summary.pairs[a, b].matches
        points0, points1 = (
            points.numpy() * np.array(pictures[name].shape[1::-1]) / np.array(by_name[name].size)
            for name, points in ((a, matches.points0), (b, matches.points1))
        )
        drawn.append(
            DrawnPair(
                name0=a,
                name1=b,
                rgb0=pictures[a],
                rgb1=pictures[b],
                points0=points0,
                points1=points1,
                kind=kind,
                count=len(matches),
            )
        )
    return drawn


def _picture(photo: PhotoInfo, size: int) -> UInt8[np.ndarray, "h w 3"]:
    rgb = load_photo(photo.path, size, photo.name).rgb
    return np.ascontiguousarray((rgb * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _settings(config: object) -> dict[str, Any]:
    import yaml

    plain: dict[str, Any] = yaml.safe_load(dump_config(config))
    return plain


def _versions() -> dict[str, str]:
    found = {"vision3d": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except ImportError:  # PackageNotFoundError: OpenCV comes under two names
            continue
    return found


def _machine() -> dict[str, str]:
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
