"""A made-up result folder with everything that can be viewed."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
import trimesh
from report_scenes import arc_scene, photo

from vision3d.core import PointCloud, Scene, Surfels
from vision3d.geometry.rotation import quaternion_from_matrix
from vision3d.io.cameras_json import known_cameras, write_cameras_json
from vision3d.io.ply import write_ply
from vision3d.io.surfels_ply import write_surfels


def sphere_surfels(radius: float, n: int = 600) -> Surfels:
    """Red disks that cover a sphere about the origin (Fibonacci lattice)."""
    i = torch.arange(n, dtype=torch.float64) + 0.5
    z, turn = 1 - 2 * i / n, i * 2.399963
    normal = torch.stack([(1 - z * z).sqrt() * turn.cos(), (1 - z * z).sqrt() * turn.sin(), z], dim=1)
    side = torch.nn.functional.normalize(torch.linalg.cross(normal, torch.tensor([[0.3, 0.5, 0.8]]).double()), dim=1)
    axes = torch.stack([side, torch.linalg.cross(normal, side), normal], dim=2)
    sh = (torch.tensor([0.9, 0.1, 0.1]) - 0.5).expand(n, 1, 3) / 0.28209479
    size = torch.full((n, 2), 2 * radius / n**0.5)
    quats = quaternion_from_matrix(axes).float()
    return Surfels((normal * radius).float(), quats, size, torch.full((n,), 0.95), sh.contiguous())


def write_view_folder(out: Path, scale: float = 1.0) -> Scene:
    """cameras.json, points.ply, surfels.ply (a red sphere), mesh.ply (a green one), run.json, photos, and renders with
    a constant depth of 4 * scale for the first two photos."""
    scene = arc_scene(5, 300, scale=scale)
    out.mkdir(parents=True, exist_ok=True)
    write_cameras_json(out / "cameras.json", known_cameras(scene))
    write_ply(out / "points.ply", PointCloud(scene.points, scene.colors.double() / 255))
    write_surfels(out / "surfels.ply", sphere_surfels(1.1 * scale))
    ball = trimesh.creation.icosphere(3, 1.2 * scale)
    ball.visual.vertex_colors = np.tile(np.array([[20, 180, 40, 255]], np.uint8), (len(ball.vertices), 1))
    ball.export(out / "mesh.ply")
    photos = out.parent / f"{out.name}-photos"
    photos.mkdir(exist_ok=True)
    (out / "renders" / "train").mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(scene.images):
        cv2.imwrite(str(photos / name), photo(i))
        if i < 2:
            stem = out / "renders" / "train" / Path(name).stem
            np.savez_compressed(f"{stem}_depth.npz", depth=np.full((48, 64), 4 * scale, np.float32))
            cv2.imwrite(f"{stem}_depth.png", photo(i + 50))
            cv2.imwrite(f"{stem}_photo.png", photo(i + 100))
    (out / "run.json").write_text(json.dumps({"settings": {"photos": str(photos)}}))
    return scene
