"""`vision3d evaluate surface`: how close the mesh of a result comes to a true mesh or to true depth maps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class EvaluateSurfaceConfig:
    """Accuracy, completeness, chamfer, normals and F-score of a mesh."""

    result: Positional[Path]
    """Output folder of `reconstruct` (its mesh.ply counts), or a mesh: PLY, OBJ, GLB, STL, OFF."""
    ground_truth: Positional[Path]
    """A true mesh, or a folder with true depth maps depth/STEM.npy and the cameras of their photos."""
    align: Literal["none", "cameras", "icp"] = "none"
    """Move the result first: by the camera poses of both (similarity), or so and then by closest points."""
    truth_cameras: Path | None = None
    """The true cameras (cameras.json, transforms.json or COLMAP model), if not in the ground truth's folder."""
    visible_only: bool = False
    """Completeness over the part of the truth only that a true camera sees."""
    threshold: float | None = None
    """Distance for precision, recall and F-score, in the truth's unit (default: 0.5 % of its diagonal)."""
    samples: int = 200_000
    """Points spread over each surface."""
    seed: int = 0
    """Of the random points."""
    out: Path | None = None
    """Also write the JSON to this file."""
    json: bool = False
    """Print JSON instead of tables."""


def run_surface(config: EvaluateSurfaceConfig) -> int:
    """Prints how close the surface is."""
    from vision3d.eval.surface_report import report_surface
    from vision3d.eval.tables import print_tables
    from vision3d.io.atomic import atomic_write_json

    report = report_surface(
        config.result,
        config.ground_truth,
        align=config.align,
        truth_cameras=config.truth_cameras,
        visible_only=config.visible_only,
        threshold=config.threshold,
        samples=config.samples,
        seed=config.seed,
    )
    if config.out is not None:
        atomic_write_json(config.out, report.json())
    if config.json:
        print(json.dumps(report.json(), indent=1, ensure_ascii=False))
    else:
        print_tables(report.tables())
    return 0
