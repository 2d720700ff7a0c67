"""`vision3d demo`: reconstructs two photos whose depth is known, and says how far the result is from the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vision3d.cli.progress import progress_bars

SEMIDENSE = "xfeat-semidense"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Reconstructs the Motorcycle pair (Middlebury 2014) that scikit-image ships, and measures the result."""

    out: Path = Path("demo")
    """folder for the photos and the results"""
    json: bool = False
    """print the figures as JSON"""


def run(config: DemoConfig) -> int:
    """Cameras and points from two photos; then, with XFeat's weights, many more points for the same cameras."""
    from vision3d.data.photo_folder import RUN_MARKER
    from vision3d.errors import UsageError
    from vision3d.eval.motorcycle import measure, write_motorcycle
    from vision3d.matching.catalogue import weights_on_disk
    from vision3d.recon.pipeline import ReconstructConfig, reconstruct

    if config.out.exists() and not (config.out / "result" / RUN_MARKER).is_file():
        if not config.out.is_dir():
            raise UsageError(f"--out {config.out} is a file; name a folder")
        if any(config.out.iterdir()):
            raise UsageError(f"--out {config.out} holds something else; name a new or empty folder")
    (config.out / "result" / RUN_MARKER).parent.mkdir(parents=True, exist_ok=True)
    (config.out / "result" / RUN_MARKER).touch()
    photos = config.out / "photos"
    intrinsics = write_motorcycle(photos)
    sparse, dense = config.out / "result", config.out / "semidense"
    figures = {}
    with progress_bars(quiet=config.json) as progress:
        result = reconstruct(ReconstructConfig(photos=photos, out=sparse, intrinsics=intrinsics), progress)
        figures["sparse"] = measure(result.scene)
        if weights_on_disk(SEMIDENSE):
            more = ReconstructConfig(
                photos=photos, out=dense, intrinsics=sparse / "cameras.json", known_poses=True, matcher=SEMIDENSE
            )
            figures["semidense"] = measure(reconstruct(more, progress).scene)
    if config.json:
        print(json.dumps(figures))
        return 0
    first = figures["sparse"]
    print("two photos registered; against the ground truth:")
    print(f"  rotation                {first['rotation_error_deg']:.3f} deg off")
    print(f"  direction of movement   {first['translation_error_deg']:.3f} deg off")
    for name, measured in figures.items():
        print(
            f"  {measured['points']:>5} {name} points: depth {100 * measured['median_relative_depth_error']:.2f} % off"
            f" (median), {100 * measured['share_within_2px']:.1f} % within 2 px of the true disparity"
        )
    print("open these:")
    for folder in (sparse, dense)[: len(figures)]:
        for name in ("report.html", "overview.png", "points.ply"):
            print(f"  {folder / name}")
    return 0
