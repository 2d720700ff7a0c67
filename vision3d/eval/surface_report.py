"""Reads a result's mesh and the true surface, aligns them as asked, and lays out how close they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vision3d.core import DepthView, Mesh
from vision3d.errors import UsageError, Vision3DError
from vision3d.eval.surface import SurfaceEvaluation, evaluate_surface
from vision3d.eval.surface_align import align_by_cameras, align_by_points, moved
from vision3d.eval.surface_distance import Surface
from vision3d.eval.surface_truth import known_to, mesh_of_depths, read_depth_views, visible_in
from vision3d.eval.tables import Table
from vision3d.io.cameras_json import KnownCamera
from vision3d.io.known_cameras import read_known_cameras
from vision3d.io.mesh import read_mesh

Align = Literal["none", "cameras", "icp"]
_BEHIND = 0.02  # of the diagonal: how far behind true depth a point is still judged


@dataclass(frozen=True, slots=True)
class SurfaceReport:
    """An evaluation, what was compared, and how."""

    result: Path
    ground_truth: Path
    protocol: str
    evaluation: SurfaceEvaluation

    def tables(self) -> list[Table]:
        """One table: distances in the truth's unit and in percent of its diagonal."""
        e = self.evaluation

        def row(name: str, value: float) -> tuple[str, str, float]:
            return (name, f"{value:.5g}", 100 * value / e.diagonal)

        shares = [(name, f"{100 * value:.2f} %", None) for name, value in self._shares().items()]
        rows = (
            row("accuracy (result to truth), mean", e.accuracy),
            row("accuracy, median", e.accuracy_median),
            row("completeness (truth to result), mean", e.completeness),
            row("completeness, median", e.completeness_median),
            row("chamfer (mean of both means)", e.chamfer),
            ("normal error, mean", f"{e.normal_error_deg:.2f} deg", None),
            ("normal consistency, mean |cos|", f"{e.normal_consistency:.4f}", None),
            row("threshold of precision and recall", e.threshold),
            *shares,
        )
        return [Table("Surface", f"Protocol: {self.protocol}.", ("measure", "value", "% of diagonal"), (0, 0, 4), rows)]

    def json(self) -> dict[str, object]:
        """Plain values; lengths in the truth's unit, shares in [0, 1]."""
        names = {"result": str(self.result), "ground_truth": str(self.ground_truth), "protocol": self.protocol}
        return {**names, **asdict(self.evaluation)}

    def _shares(self) -> dict[str, float]:
        e = self.evaluation
        return {"precision": e.precision, "recall": e.recall, "F-score": e.f_score}


@dataclass(frozen=True, slots=True)
class _Truth:
    mesh: Mesh
    depths: list[DepthView]  # empty for a mesh
    text: str


def report_surface(
    result: Path,
    ground_truth: Path,
    *,
    align: Align = "none",
    truth_cameras: Path | None = None,
    visible_only: bool = False,
    threshold: float | None = None,
    samples: int = 200_000,
    seed: int = 0,
) -> SurfaceReport:
    """Compares saved files.

    Args:
        result: mesh, or a run's output folder with mesh.ply. ground_truth: mesh, or a folder with true depth maps
            depth/STEM.npy and the cameras of their photos. align: "cameras": by the poses that both sides know;
            "icp": so if both have poses, and then by closest points. truth_cameras: where the true cameras are, if
            not in the ground truth's folder. visible_only: count only truth that a true camera sees.

    Raises:
        UsageError: an input is missing or of no known form. Vision3DError: broken files, nothing to compare.
    """
    if samples < 100:
        raise UsageError(f"--samples must be 100 or more, got {samples}")
    if threshold is not None and not (np.isfinite(threshold) and threshold > 0):
        raise UsageError(f"--threshold must be a positive length, got {threshold}")
    cameras = _true_cameras(ground_truth, truth_cameras)
    truth = _read_truth(ground_truth, cameras)
    mesh = read_mesh(_mesh_path(result))
    notes = [truth.text]
    mesh, note = _aligned_by_cameras(mesh, result, cameras, align)
    notes += note
    true_surface = _surface(truth.mesh, samples, seed + 1, ground_truth)
    if align == "icp":
        by_points = align_by_points(_surface(mesh, samples, seed, result), true_surface)
        mesh = moved(mesh, by_points)
        notes.append(
            f"then trimmed ICP with a similarity (scale {float(by_points.scale):.6g}, the closest 90 % of points)"
        )
    surface = _surface(mesh, samples, seed, result)
    known = None
    if truth.depths:
        behind = _BEHIND * true_surface.diagonal()
        known = known_to(surface.samples.points, truth.depths, behind)
        notes.append(
            "accuracy over points of the result that some true depth map can judge: on a pixel of known depth, and "
            f"less than {100 * _BEHIND:g} % of the diagonal behind it"
        )
    visible = None
    if visible_only:
        posed = [(c.camera, c.cam_from_world) for c in cameras.values()]
        seen_by = [(camera, pose) for camera, pose in posed if camera is not None and pose is not None]
        if not seen_by:
            raise UsageError("--visible-only needs the true cameras: name them with --truth-cameras")
        visible = visible_in(true_surface.samples.points, truth.mesh, seen_by)
        notes.append(f"completeness over the part of the truth that one of {len(seen_by)} true cameras sees")
    evaluation = evaluate_surface(surface, true_surface, threshold=threshold, known=known, visible=visible)
    notes += [
        f"{evaluation.result_points} points on the result and {evaluation.truth_points} on the truth, spread by area "
        f"(seed {seed}), each to the nearest point of the other's triangles",
        f"diagonal of the truth's box {evaluation.diagonal:.6g}",
    ]
    return SurfaceReport(result, ground_truth, "; ".join(notes), evaluation)


def _aligned_by_cameras(
    mesh: Mesh, result: Path, cameras: dict[str, KnownCamera], align: Align
) -> tuple[Mesh, list[str]]:
    if align == "none":
        return mesh, ["no alignment"]
    folder = result if result.is_dir() else result.parent
    try:
        truth_from_result, count = align_by_cameras(read_known_cameras(folder), cameras)
    except Vision3DError as error:
        if align == "cameras":
            raise UsageError(f"--align cameras: {error}") from None
        return mesh, ["no alignment by cameras"]
    scale = float(truth_from_result.scale)
    return moved(mesh, truth_from_result), [f"aligned by a similarity from {count} cameras (scale {scale:.6g})"]


def _mesh_path(result: Path) -> Path:
    if not result.is_dir():
        return result
    if (result / "mesh.ply").is_file():
        return result / "mesh.ply"
    raise UsageError(f"{result} has no mesh.ply: give a mesh, or the output folder of a run that made one")


def _true_cameras(ground_truth: Path, given: Path | None) -> dict[str, KnownCamera]:
    if given is not None:
        return read_known_cameras(given)
    try:
        return read_known_cameras(ground_truth if ground_truth.is_dir() else ground_truth.parent)
    except UsageError:  # there are none: a mesh needs them only for --align and --visible-only
        return {}


def _read_truth(path: Path, cameras: dict[str, KnownCamera]) -> _Truth:
    if not path.exists():
        raise UsageError(f"the ground truth {path} does not exist")
    if path.is_file():
        return _Truth(read_mesh(path), [], f"truth is the mesh {path.name}")
    if not (path / "depth").is_dir():
        raise UsageError(f"{path} has no folder `depth` with true depth maps: give a mesh or such a folder")
    views = read_depth_views(path / "depth", cameras)
    text = f"truth is the surface of {len(views)} depth maps (not merged, cut at depth steps)"
    return _Truth(mesh_of_depths(views), views, text)


def _surface(mesh: Mesh, samples: int, seed: int, path: Path) -> Surface:
    try:
        return Surface(mesh, samples, seed)
    except ValueError as error:
        raise Vision3DError(f"{path}: {error}") from None
