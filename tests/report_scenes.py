"""Small made-up scenes for the tests of the report."""

import math
from dataclasses import replace

import numpy as np
import torch

from vision3d.core import Camera, Mesh, PosedImage, RigidTransform, Scene, Surfels, Tracks
from vision3d.recon.report import Curve, OptimisationCurves, PhotoRow, RenderedView, ReportData


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


def ball_mesh(rings: int = 24, radius: float = 0.6) -> Mesh:
    """A red ball about the origin of arc_scene, faces counter-clockwise from outside."""
    theta, phi = np.meshgrid(np.linspace(0, math.pi, rings), np.linspace(0, 2 * math.pi, 2 * rings), indexing="ij")
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    index = np.arange(points[..., 0].size).reshape(theta.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    vertices = torch.tensor(points.reshape(-1, 3) * radius)
    return Mesh(vertices.float(), torch.tensor(faces), torch.tensor([1.0, 0.1, 0.1]).expand(len(vertices), 3))


def ball_surfels(count: int = 500, radius: float = 0.6) -> Surfels:
    """Green disks on a sphere about the origin of arc_scene, normals outwards."""
    normals = np.random.default_rng(1).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    quats = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], 0 * normals[:, 0]], axis=1)
    sh = torch.tensor([-0.3, 0.4, -0.3]) / 0.28209479
    return Surfels(
        torch.tensor(normals * radius).float(),
        torch.tensor(quats).float(),
        torch.full((count, 2), 0.08),
        torch.full((count,), 0.9),
        sh.expand(count, 1, 3).float(),
    )


def flat(red: int, green: int, blue: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture of one colour."""
    return np.full((height, width, 3), (red, green, blue), np.uint8)


def rendered(name: str = "a.jpg", **changes: object) -> RenderedView:
    """A view with a red photo, a blue render, and green, yellow and white for depth, normals and error."""
    view = RenderedView(
        name=name,
        photo=flat(255, 0, 0),
        render=flat(0, 0, 255),
        depth=flat(0, 255, 0),
        normal=flat(255, 255, 0),
        error=flat(255, 255, 255),
        depth_limits=(1.5, 9.0),
        psnr=20.0,
        ssim=0.75,
    )
    return replace(view, **changes)


def some_curves(count: int = 1000) -> OptimisationCurves:
    """A loss that falls, PSNR that is measured rarely on held-out photos."""
    iteration = np.arange(count)
    held_out = np.where(iteration % 100 == 0, 20.0 + iteration / count, np.nan)
    curves = (
        Curve(name="total", plot="Loss", values=np.exp(-iteration * 5.0 / count)),
        Curve(name="held-out photos", plot="PSNR", unit="dB", values=held_out),
    )
    return OptimisationCurves(
        iteration=iteration, seconds=iteration * 0.1, curves=curves, marks=[(count // 2, "finer")]
    )
