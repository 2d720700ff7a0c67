"""A film of the surfels along the orbit of the cameras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vision3d.core import Progress, RigidTransform, View, silent
from vision3d.io.video import write_video
from vision3d.recon.fit_config import FitResult
from vision3d.recon.orbit import orbit_path
from vision3d.recon.renders import render
from vision3d.recon.report.view_pictures import rgb_picture

FRAMES = 90
FRAMES_PER_SECOND = 24
WIDTH = 640  # px


def write_orbit(
    path: Path,
    fit: FitResult,
    views: Sequence[View],
    poses: Mapping[str, RigidTransform],
    progress: Progress = silent,
) -> None:
    """Writes an mp4 of FRAMES frames, the longer side WIDTH px."""
    cameras = [(poses[view.name], view.camera) for view in views]

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for done, (pose, camera) in enumerate(orbit_path(cameras, fit.surfels.means, FRAMES)):
            progress("orbit", done, FRAMES)
            factor = WIDTH / max(camera.width, camera.height)
            small = camera.resized(round(camera.width * factor), round(camera.height * factor))
            yield rgb_picture(render(fit.surfels, small, pose, fit.background).color)
        progress("orbit", FRAMES, FRAMES)

    write_video(path, frames(), FRAMES_PER_SECOND)
