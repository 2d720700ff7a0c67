"""Reads a result and its ground truth, decides which photos count, and lays out the accuracy of the poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vision3d.data.photos import match_names
from vision3d.errors import UsageError, Vision3DError
from vision3d.eval.poses import PROTOCOL, THRESHOLDS_DEG, PoseEvaluation, evaluate_poses, poses_of
from vision3d.eval.tables import Cell, Table
from vision3d.io.cameras_json import read_json
from vision3d.io.known_cameras import read_known_cameras


@dataclass(frozen=True, slots=True)
class PoseReport:
    """An evaluation, what was compared, and a sentence on which photos its pairs are made of."""

    result: Path
    ground_truth: Path
    counted: str
    evaluation: PoseEvaluation

    def tables(self) -> list[Table]:
        """A summary and one row per photo."""
        return [_summary(self), _per_photo(self.evaluation)]

    def json(self) -> dict[str, object]:
        """Plain values; angles in degrees, centres in units of the ground truth, percentages in [0, 100]."""
        e = self.evaluation
        return {
            "result": str(self.result),
            "ground_truth": str(self.ground_truth),
            "protocol": PROTOCOL,
            "counted": self.counted,
            "photos": len(e.photos),
            "registered": e.registered,
            "pairs": len(e.pairs.pairs),
            "rra": _keyed(e.rra),
            "rta": _keyed(e.rta),
            "auc": _keyed(e.auc),
            "co3d_auc": _keyed(e.co3d_auc),
            "scene_size": e.scene_size,
            "median_center": _middle([p.center for p in e.photos]),
            "median_center_relative": _middle([p.center_relative for p in e.photos]),
            "median_focal_relative": _middle([p.focal_relative for p in e.photos]),
            "per_photo": [asdict(photo) for photo in e.photos],
            "per_pair": [
                {"photos": list(pair), "rotation_deg": r, "direction_deg": t}
                for pair, r, t in zip(
                    e.pairs.pairs, e.pairs.rotation_deg.tolist(), e.pairs.direction_deg.tolist(), strict=True
                )
            ],
        }


def report_poses(result: Path, ground_truth: Path, photos: Sequence[str] = ()) -> PoseReport:
    """Compares a result with a ground truth; each is a run's output, cameras.json, transforms.json or COLMAP model.

    The pairs are those of `photos`; if none are named, of the photos that the run was given (run.json beside the
    result); if that is not known, of all photos of the ground truth. Names are matched as paths, else as file names,
    else without their endings.

    Raises:
        UsageError: an input is missing or of no known form, or a named photo has no true pose.
        Vision3DError: fewer than two photos are left to compare.
    """
    truth = read_known_cameras(ground_truth)
    true_names = sorted(poses_of(truth))
    estimate = match_names(true_names, read_known_cameras(result))
    names, counted = _counted(result, true_names, photos)
    if len(names) < 2:
        raise Vision3DError(
            f"{ground_truth} has poses of {len(names)} of the photos, pairs need at least 2 ({counted})"
        )
    return PoseReport(result, ground_truth, counted, evaluate_poses(estimate, truth, names))


def _counted(result: Path, true_names: Sequence[str], photos: Sequence[str]) -> tuple[list[str], str]:
    """The photos that count, by their names in the ground truth, and why."""
    if photos:
        found = match_names(photos, {name: name for name in true_names})
        missing = [name for name in photos if name not in found]
        if missing:
            raise UsageError(f"--photos: the ground truth has no pose of {', '.join(missing[:5])}")
        return sorted(set(found.values())), f"pairs of the {len(found)} photos named by --photos"
    given = run_photos(result)
    if given is None:
        return list(true_names), f"pairs of all {len(true_names)} photos of the ground truth"
    found = match_names(given, {name: name for name in true_names})
    without = len(given) - len(found)
    note = f", {without} without ground truth left out" if without else ""
    return sorted(set(found.values())), f"pairs of the {len(given)} photos given to the run (run.json){note}"


def run_photos(result: Path) -> list[str] | None:
    """Names of all photos that a `reconstruct` run was given, registered or not; None if that is not known."""
    folder = result if result.is_dir() else result.parent
    # The COLMAP model of a run is OUT/sparse or OUT/sparse/0.
    for candidate in (folder, folder.parent, folder.parent.parent):
        run_file = candidate / "run.json"
        if run_file.is_file() and (candidate == folder or "sparse" in folder.relative_to(candidate).parts):
            names = read_json(run_file).get("photos")
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return names
            raise Vision3DError(f'{run_file} has no list "photos": name them with --photos')
    return None


def _summary(report: PoseReport) -> Table:
    e = report.evaluation
    columns = ("measure", *(f"@{t} deg" for t in THRESHOLDS_DEG))
    rows: list[tuple[Cell, ...]] = [
        (label, *(values[t] for t in THRESHOLDS_DEG))
        for label, values in (
            ("rotation accuracy RRA %", e.rra),
            ("translation direction accuracy RTA %", e.rta),
            ("AUC %", e.auc),
            ("CO3D AUC %", e.co3d_auc),
        )
    ]
    title = f"Poses: {e.registered} of {len(e.photos)} photos registered, {len(e.pairs.pairs)} pairs"
    caption = f"Protocol: {report.counted}; {PROTOCOL}."
    return Table(title, caption, columns, (0, *(1 for _ in THRESHOLDS_DEG)), tuple(rows))


def _per_photo(e: PoseEvaluation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for photo in e.photos:
        if not photo.registered:
            rows.append((photo.name, "no", None, None, None, None, None, None))
            continue
        shares = [None if value is None else 100 * value for value in (photo.center_relative, photo.focal_relative)]
        angles = (photo.rotation_deg, photo.direction_deg)
        rows.append((photo.name, "yes", *angles, photo.center, *shares, photo.principal_px))
    columns = (
        "photo",
        "registered",
        "rotation deg",
        "direction deg",
        "centre",
        "centre % of size",
        "focal %",
        "principal px",
    )
    caption = (
        f"Rotation, direction: median over the photo's pairs with registered photos. Centre: in units of the ground "
        f"truth, whose size is {e.scene_size:.4g}; needs three registered photos. Focal: |f / f_true - 1|."
    )
    return Table("Per photo", caption, columns, (0, 0, 3, 3, 4, 3, 2, 2), tuple(rows))


def _keyed(values: dict[int, float]) -> dict[str, float]:
    return {str(threshold): value for threshold, value in values.items()}


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
