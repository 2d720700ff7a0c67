"""`vision3d demo`: reconstructs two photos whose depth is known, and says how far the result is from the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vision3d.cli.progress import progress_bars


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Reconstructs the Motorcycle pair (Middlebury 2014) that scikit-image ships, and measures the result."""

    out: Path = Path("demo")
    """folder for the photos and the results"""
    json: bool = False
    """print the figures as JSON"""


def run(config: DemoConfig) -> int:
    """Cameras, points, surfels and a mesh from two photos, and their errors."""
    from vision3d.cli.reconstruct import surface_line
    from vision3d.data.photo_folder import RUN_MARKER
    from vision3d.errors import UsageError
    from vision3d.eval.motorcycle import measure, measure_depth, write_motorcycle
    from vision3d.recon.pipeline import ReconstructConfig, reconstruct

    result_folder = config.out / "result"
    if config.out.exists() and not (result_folder / RUN_MARKER).is_file():
        if not config.out.is_dir():
            raise UsageError(f"--out {config.out} is a file; name a folder")
        if any(config.out.iterdir()):
            raise UsageError(f"--out {config.out} holds something else; name a new or empty folder")
    (result_folder / RUN_MARKER).parent.mkdir(parents=True, exist_ok=True)
    (result_folder / RUN_MARKER).touch()
    photos = config.out / "photos"
    intrinsics = write_motorcycle(photos)
    if not config.json:
        print("two photos to cameras, surfels and a mesh; the first run also compiles kernels, about a minute")
    with progress_bars(quiet=config.json) as progress:
        result = reconstruct(ReconstructConfig(photos=photos, out=result_folder, intrinsics=intrinsics), progress)
    sparse, dense = measure(result.scene), measure_depth(result_folder)
    if config.json:
        print(json.dumps({"sparse": sparse, "surface": dense}))
        return 0
    assert result.surface is not None
    print("against the ground truth:")
    print(f"  rotation                {sparse['rotation_error_deg']:.3f} deg off")
    print(f"  direction of movement   {sparse['translation_error_deg']:.3f} deg off")
    print(f"  {sparse['points']} points: depth {100 * sparse['median_relative_depth_error']:.2f} % off (median)")
    print(
        f"  surface: depth {100 * dense['median_relative_depth_error']:.2f} % off (median over"
        f" {100 * dense['coverage']:.0f} % of the photo), {100 * dense['share_within_1_percent']:.0f} % within 1 %"
    )
    print(surface_line(result.surface))
    print("open these:")
    for name in ("report.html", "overview.png", "mesh.glb", "surfels.ply", "orbit.mp4"):
        print(f"  {result_folder / name}")
    print(f"or look around: vision3d view {result_folder}")
    return 0
