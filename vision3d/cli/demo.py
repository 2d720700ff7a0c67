"""`vision3d demo`: reconstructs two photos whose depth is known, and says how far the result is from the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vision3d.cli.progress import progress_bars


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Reconstructs scikit-image's stereo_motorcycle pair (Middlebury 2014, CC BY 4.0 or similar; see README)."""

    out: Path = Path("demo")
    """folder for the photos and the result"""
    json: bool = False
    """print the figures as JSON"""


def run(config: DemoConfig) -> int:
    """Runs the demo; returns the exit code."""
    from vision3d.eval.motorcycle import measure, write_motorcycle
    from vision3d.recon.pipeline import ReconstructConfig, reconstruct

    photos = config.out / "photos"
    intrinsics = write_motorcycle(photos)
    out = config.out / "result"
    with progress_bars(quiet=config.json) as progress:
        result = reconstruct(ReconstructConfig(photos=photos, out=out, intrinsics=intrinsics), progress)
    figures = measure(result.scene)
    if config.json:
        print(json.dumps(figures))
        return 0
    print(f"two photos registered, {figures['points']} points; against the ground truth:")
    print(f"  rotation                {figures['rotation_error_deg']:.3f} deg off")
    print(f"  direction of movement   {figures['translation_error_deg']:.3f} deg off")
    print(f"  depth of the points     median {100 * figures['median_relative_depth_error']:.2f} % off")
    print(f"  points within 2 px of the true disparity: {100 * figures['share_within_2px']:.1f} %")
    print("open these:")
    for name in ("report.html", "overview.png", "points.ply"):
        print(f"  {out / name}")
    return 0
