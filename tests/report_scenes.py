"""Small made-up scenes for the tests of the report."""

import math
from dataclasses import replace

import numpy as np
import torch

from vision3d.core import Camera, PosedImage, RigidTransform, Scene, Tracks
from vision3d.recon.report import PhotoRow, ReportData


def arc_scene(photos: int = 5, points: int = 400, scale: float = 1.0, degrees: float = 60) -> Scene:
    """Cameras on an arc about a blob of coloured points in world axes x right, y down; exact observations."""
    rng = np.random.default_rng(0)
    cloud = torch.tensor(rng.normal(size=(points, 3)) * 0.4 * scale)
    camera = Camera(640, 480, (600.0, 600.0), (320.0, 240.0))
    images = {}
    for i in range(photos):
        angle = math.radians(degrees) * (i / max(photos - 1, 1) - 0.5)
        center = scale * np.array([4 * math.sin(angle), -0.5, -4 * math.cos(angle)])
        ahead = -center / np.linalg.norm(center)
        right = np.cross([0.0, 1.0, 0.0], ahead)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(ahead, right), ahead])
        pose = RigidTransform(torch.tensor(rotation), torch.tensor(-rotation @ center))
        images[f"IMG_{i:03d}.jpg"] = PosedImage(7, pose)
    point = torch.arange(points).repeat(photos)
    image = torch.arange(photos).repeat_interleave(points)
    seen = [camera.project(posed.cam_from_world.apply(cloud))[0] for posed in images.values()]
    xy = torch.cat(seen) if seen else torch.zeros(0, 2, dtype=torch.float64)
    colors = torch.tensor(rng.integers(0, 256, (points, 3)), dtype=torch.uint8)
    errors = torch.tensor(rng.gamma(2, 0.3, points))
    return Scene({7: camera}, images, cloud, colors, errors, Tracks(tuple(images), point, image, xy))


def photo(seed: int = 0, width: int = 64, height: int = 48) -> np.ndarray:
    """A made-up photo."""
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def report_data(scene: Scene | None, **changes: object) -> ReportData:
    """A report on the scene with a thumbnail for every photo."""
    names = tuple(scene.images) if scene is not None else ()
    rows = [PhotoRow(name=n, size=(640, 480), thumbnail=photo(i), registered=True) for i, n in enumerate(names)]
    pairs = {(a, b): 100 + i for i, a in enumerate(names) for b in names[i + 1 :]}
    return replace(ReportData(title="A trip", scene=scene, photos=rows, pair_inliers=pairs), **changes)
