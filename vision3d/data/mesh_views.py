"""Pictures of a textured triangle mesh with exact depth, normals and masks: test scenes and training pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vision3d.core import Camera, RigidTransform, Vision3DError
from vision3d.data.mesh_raster import first_hits


@dataclass(frozen=True, slots=True)
class TexturedMesh:
    """Triangles in the world with a texture: uv per corner of each face in [0, 1] (v up), texture [3 H W] in [0, 1].

    Without a texture the mesh has one colour, that of a 1x1 texture.
    """

    vertices: Float[Tensor, "n 3"]
    faces: Int[Tensor, "m 3"]
    uv: Float[Tensor, "m 3 2"]
    texture: Float[Tensor, "3 th tw"]


@dataclass(frozen=True, slots=True)
class MeshView:
    """A rendered picture. depth: z in the camera at pixel centres, 0 where nothing is. normal: unit, in the camera
    frame, facing the camera; zero where nothing is. mask: whether a pixel's centre shows the mesh."""

    camera: Camera
    cam_from_world: RigidTransform
    rgb: Float[Tensor, "3 h w"]
    depth: Float[Tensor, "h w"]
    normal: Float[Tensor, "3 h w"]
    mask: Bool[Tensor, "h w"]


def read_textured_mesh(path: str | Path) -> TexturedMesh:
    """Read an OBJ, GLB or PLY with its picture, grey where it has none (colours per vertex are not used).

    Raises:
        Vision3DError: missing, unreadable, or without triangles.
    """
    path = Path(path)
    if not path.is_file():
        raise Vision3DError(f"cannot read {path}: no such file")
    try:
        loaded = trimesh.load_mesh(path, process=False)
        if isinstance(loaded, trimesh.Scene):
            loaded = loaded.to_mesh()
        faces = torch.from_numpy(np.array(loaded.faces, dtype=np.int64))
        vertices = torch.from_numpy(np.array(loaded.vertices, dtype=np.float64))
        visual = loaded.visual
        uv = torch.zeros(len(faces), 3, 2, dtype=torch.float64)
        texture = torch.full((3, 1, 1), 0.6)
        if visual.kind == "texture" and visual.uv is not None:
            material = visual.material
            picture = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
            if picture is not None:
                uv = torch.from_numpy(np.array(visual.uv, dtype=np.float64))[faces]
                pixels = np.array(picture.convert("RGB"), dtype=np.float32) / 255
                texture = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    except Exception as error:  # the readers of a dozen formats raise whatever happens to them
        raise Vision3DError(f"{path} cannot be read as a mesh: {type(error).__name__}: {error}") from None
    if not len(faces):
        raise Vision3DError(f"{path} holds no triangles")
    return TexturedMesh(vertices, faces, uv, texture)


def render_mesh(
    mesh: TexturedMesh,
    camera: Camera,
    cam_from_world: RigidTransform,
    *,
    supersampling: int = 3,
    background: tuple[float, float, float] = (0.5, 0.5, 0.5),
    light: tuple[float, float, float] | None = None,
    sky: tuple[float, float, float] | None = None,
) -> MeshView:
    """Draw the mesh: colour averaged over supersampling^2 rays per pixel, the rest exact at the pixel's centre.

    Args:
        camera: without distortion. supersampling: odd, so that one ray goes through the centre.
        background: colour where nothing is, mixed in at the outline.
        light: direction towards the light in the world; colours are then 0.3 + 0.7 cos of its angle to the normal.
        sky: direction of the zenith of an even sky over black ground, which leaves no side without shading; colours
            are then 0.3 + 0.7 (1 + cos) / 2.
    """
    if any(camera.distortion):
        raise ValueError(f"a mesh is drawn with a camera without distortion, got {camera.model}")
    if supersampling < 1 or supersampling % 2 == 0:
        raise ValueError(f"supersampling must be odd, got {supersampling}")
    if light is not None and sky is not None:
        raise ValueError("choose one of light and sky")
    s, h, w = supersampling, camera.height, camera.width
    vertices = cam_from_world.apply(mesh.vertices.double())
    corners = vertices[mesh.faces].numpy()
    intrinsics = (camera.focal[0] * s, camera.focal[1] * s, camera.center[0] * s, camera.center[1] * s)
    face, weights, depth = first_hits(corners, intrinsics, w * s, h * s)
    hit = face >= 0
    index = np.where(hit, face, 0)

    edges = corners[:, 1:] - corners[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.where(length > 0, length, 1)
    normals *= np.where((normals * corners[:, 0]).sum(1) > 0, -1.0, 1.0)[:, None]  # towards the camera

    full = np.concatenate([weights, 1 - weights.sum(2, keepdims=True)], axis=2)
    uv = (full[..., None] * mesh.uv.numpy()[index]).sum(2)
    color = _texture_at(mesh.texture.numpy(), uv)
    if (source := light or sky) is not None:
        cosine = normals @ (cam_from_world.rotation.double().numpy() @ (np.array(source) / np.linalg.norm(source)))
        share = (1 + cosine) / 2 if sky is not None else cosine
        color = color * (0.3 + 0.7 * np.clip(share, 0, 1))[index][..., None]
    color = np.where(hit[..., None], color, np.array(background))
    rgb = color.reshape(h, s, w, s, 3).mean((1, 3))

    middle = (slice(s // 2, None, s),) * 2
    mask = hit[middle]
    normal = np.where(mask[..., None], normals[index[middle]], 0.0)
    return MeshView(
        camera,
        cam_from_world,
        torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32)).clamp(0, 1),
        torch.from_numpy(depth[middle].astype(np.float32)),
        torch.from_numpy(normal.transpose(2, 0, 1).astype(np.float32)),
        torch.from_numpy(mask.copy()),
    )


def _texture_at(texture: Float[np.ndarray, "3 th tw"], uv: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w 3"]:
    """Bilinear colours; the texture repeats beyond [0, 1] and v points up."""
    _, th, tw = texture.shape
    pixels = np.ascontiguousarray(texture.transpose(1, 2, 0))
    x = np.mod(uv[..., 0], 1.0) * tw - 0.5
    y = np.mod(1 - uv[..., 1], 1.0) * th - 0.5
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    tx, ty = (x - x0)[..., None], (y - y0)[..., None]
    x0, x1, y0, y1 = x0 % tw, (x0 + 1) % tw, y0 % th, (y0 + 1) % th
    top = pixels[y0, x0] * (1 - tx) + pixels[y0, x1] * tx
    bottom = pixels[y1, x0] * (1 - tx) + pixels[y1, x1] * tx
    out: np.ndarray = top * (1 - ty) + bottom * ty
    return out
