"""The Motorcycle stereo pair that scikit-image ships (Middlebury 2014, downsampled by 4), as a test with ground truth.

Scharstein et al., "High-resolution stereo datasets with subpixel-accurate ground truth", GCPR 2014. Pixel (x, y) of
the left photo lies at (x - d, y) in the right one; depth = baseline * f / (d + doffs).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vision3d.core import Scene, Vision3DError
from vision3d.io.atomic import atomic_write_json
from vision3d.io.known_cameras import read_known_cameras

FOCAL = 994.978  # px
CENTER_LEFT = (311.193 + 0.5, 254.877 + 0.5)  # px; the published values put pixel centres at whole numbers
DOFFS = 31.086  # px: principal point of the right photo minus that of the left one
BASELINE_M = 0.193001
LEFT, RIGHT = "left.png", "right.png"


def write_motorcycle(photos: Path) -> Path:
    """Writes the two photos into a folder, and beside it cameras.json with their intrinsics, whose path is returned."""
    from PIL import Image as PILImage
    from skimage.data import stereo_motorcycle

    left, right, _ = stereo_motorcycle()
    photos.mkdir(parents=True, exist_ok=True)
    height, width = left.shape[:2]
    entries = {}
    for name, rgb, cx in ((LEFT, left, CENTER_LEFT[0]), (RIGHT, right, CENTER_LEFT[0] + DOFFS)):
        PILImage.fromarray(rgb).save(photos / name)
        k = [[FOCAL, 0.0, cx], [0.0, FOCAL, CENTER_LEFT[1]], [0.0, 0.0, 1.0]]
        entries[name] = {"width": width, "height": height, "K": k}
    path = photos.parent / "intrinsics.json"
    atomic_write_json(path, {"images": entries})
    return path


def disparity() -> Float[np.ndarray, "h w"]:
    """Ground-truth disparity of the left photo in px; infinite where unknown."""
    from skimage.data import stereo_motorcycle

    return np.asarray(stereo_motorcycle()[2], dtype=np.float64)


def measure(scene: Scene | None) -> dict[str, float]:
    """Errors of a reconstruction of the two photos; the scale is set by the known baseline.

    rotation and translation: angle in degrees to the true relative pose (no rotation, right photo along +x).
    Depth: |z - z_true| / z_true of every point seen in the left photo, z_true from the disparity at the nearest
    pixel. share_within_2px: points whose disparity (from their depth) is at most 2 px from the truth.
    Vision3DError if not both photos are registered.
    """
    if scene is None or LEFT not in scene.images or RIGHT not in scene.images:
        raise Vision3DError("the demo did not register both photos")
    left_from_world = scene.images[LEFT].cam_from_world
    right_from_left = scene.images[RIGHT].cam_from_world @ left_from_world.inverse()
    cosine = (float(right_from_left.rotation.diagonal().sum()) - 1) / 2
    direction = right_from_left.center() / right_from_left.center().norm()
    unit = BASELINE_M / float(right_from_left.center().norm())

    in_left = scene.tracks.image == scene.tracks.images.index(LEFT)
    points = left_from_world.apply(scene.points)[scene.tracks.point[in_left]]
    z = points[:, 2].numpy() * unit
    column, row = (scene.tracks.xy[in_left].floor().long().T).numpy()
    truth = disparity()
    d_true = truth[row.clip(0, truth.shape[0] - 1), column.clip(0, truth.shape[1] - 1)]
    known = np.isfinite(d_true)
    z, d_true = z[known], d_true[known]
    z_true = BASELINE_M * FOCAL / (d_true + DOFFS)
    d = BASELINE_M * FOCAL / z - DOFFS
    return {
        "points": int(scene.points.shape[0]),
        "rotation_error_deg": math.degrees(math.acos(min(1.0, max(-1.0, cosine)))),
        "translation_error_deg": math.degrees(math.acos(min(1.0, max(-1.0, float(direction[0]))))),
        "median_relative_depth_error": float(np.median(np.abs(z - z_true) / z_true)),
        "share_within_2px": float((np.abs(d - d_true) <= 2).mean()),
    }


def measure_depth(result: Path) -> dict[str, float]:
    """Errors of the rendered depth of the left photo, from a finished run's cameras.json and renders/.

    The scale is set by the known baseline, as in `measure`. Every pixel counts whose true disparity is known and where
    the surface was rendered; coverage is their share of all pixels with a known disparity. Vision3DError without the
    files, or with a depth map of another size than the photo.
    """
    cameras = read_known_cameras(result / "cameras.json")
    path = result / "renders" / "train" / "left_depth.npz"
    left, right = (cameras[name].cam_from_world if name in cameras else None for name in (LEFT, RIGHT))
    if left is None or right is None or not path.is_file():
        raise Vision3DError(f"{result} has no poses of both photos, or no {path.relative_to(result)}")
    with np.load(path, allow_pickle=False) as found:
        z = found["depth"].astype(np.float64) * BASELINE_M / float((right @ left.inverse()).center().norm())
    truth = disparity()
    if z.shape != truth.shape:
        raise Vision3DError(f"the rendered depth has {z.shape[1]}x{z.shape[0]} px, the photo {truth.shape[::-1]}")
    known = np.isfinite(truth)
    shown = known & (z > 0)
    z_true = BASELINE_M * FOCAL / (truth[shown] + DOFFS)
    error = np.abs(z[shown] - z_true) / z_true
    return {
        "pixels": int(shown.sum()),
        "coverage": float(shown.sum() / known.sum()),
        "median_relative_depth_error": float(np.median(error)),
        "share_within_1_percent": float((error <= 0.01).mean()),
    }
