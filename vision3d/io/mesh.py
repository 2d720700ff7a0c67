"""Triangle meshes as PLY and GLB with vertex colours, and meshes of other programs (PLY, OBJ, GLB, STL, OFF)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import UInt8

from vision3d.core import Mesh, Scene, Vision3DError
from vision3d.io.atomic import atomic_write_bytes
from vision3d.io.glb import upright_from_world
from vision3d.io.ply_table import PlyElement, parse_header

MESH_ENDINGS = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off")


def write_mesh_ply(path: str | Path, mesh: Mesh) -> None:
    """Write a binary PLY (little endian): float x, y, z, uchar red, green, blue where there are colours, int faces.

    Raises:
        ValueError: no faces, a vertex that is not finite, a face of a vertex that is not there.
        Vision3DError: it cannot be written; the path is as it was.
    """
    _check(mesh)
    fields = [(name, "<f4") for name in ("x", "y", "z")]
    columns = list(mesh.vertices.detach().cpu().float().numpy().T)
    if mesh.colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        columns += list(_bytes(mesh).T)
    vertices = np.empty(len(mesh.vertices), fields)
    for (name, _), column in zip(fields, columns, strict=True):
        vertices[name] = column
    faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = mesh.faces.cpu().numpy()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header\n"]
    atomic_write_bytes(path, "\n".join(header).encode() + vertices.tobytes() + faces.tobytes())


def write_mesh_glb(path: str | Path, mesh: Mesh, scene: Scene | None = None) -> None:
    """Write a GLB (y up, looking along -z), turned so that the cameras of `scene` are upright on average.

    Raises:
        ValueError, Vision3DError: as `write_mesh_ply`.
    """
    _check(mesh)
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    turn = flip if scene is None else upright_from_world(scene)
    vertices = mesh.vertices.detach().cpu().double() @ turn.mT
    content = trimesh.Trimesh(vertices.numpy(), mesh.faces.cpu().numpy(), process=False)
    if mesh.colors is not None:
        alpha = np.full((len(vertices), 1), 255, np.uint8)
        content.visual = trimesh.visual.ColorVisuals(content, vertex_colors=np.concatenate([_bytes(mesh), alpha], 1))
    atomic_write_bytes(path, bytes(content.export(file_type="glb")))


def read_mesh_ply(path: str | Path) -> Mesh:
    """Read a triangle mesh from a PLY, of this program or another; polygons are split into triangles.

    Raises:
        Vision3DError: missing, no PLY, cut off, without faces (a point cloud or splats), or with broken ones.
    """
    path = Path(path)
    data = _bytes_of(path)
    order, elements, body = parse_header(path, data)
    named = {element.name: element for element in elements}
    if "vertex" not in named or "face" not in named or not named["face"].count:
        have = ", ".join(f"{e.count} {e.name}" for e in elements) or "nothing"
        raise Vision3DError(f"{path} is a PLY without faces (it holds {have}): a triangle mesh is needed")
    fields = [name for name, _ in named["vertex"].fields]
    if not {"x", "y", "z"} <= set(fields):
        raise Vision3DError(f"{path}: the vertices have no x, y and z (they have {', '.join(fields)})")
    if order and len(data) - body < _least_size(order, elements):
        raise Vision3DError(
            f"{path} is cut off: {named['vertex'].count} vertices and {named['face'].count} faces promised"
        )
    return _read(path, "ply")


def read_mesh(path: str | Path) -> Mesh:
    """Read a triangle mesh by the ending of its name; vertex colours where there are some (textures are not read).

    A GLB is returned as it stands, all its parts in one, y up: it may be turned against the scene it came from.

    Raises:
        Vision3DError: missing, of no known kind, damaged, or without triangles.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in MESH_ENDINGS:
        raise Vision3DError(f"{path} is no mesh of a known kind: use {', '.join(MESH_ENDINGS)}")
    if kind == ".ply":
        return read_mesh_ply(path)
    _bytes_of(path)
    return _read(path, kind[1:])


def _read(path: Path, kind: str) -> Mesh:
    try:
        loaded = trimesh.load_mesh(path, file_type=kind, process=False, maintain_order=True)
        if isinstance(loaded, trimesh.Scene):
            loaded = loaded.to_mesh()
        vertices = np.asarray(loaded.vertices, dtype=np.float64)
        faces = np.asarray(getattr(loaded, "faces", np.zeros((0, 3))), dtype=np.int64).reshape(-1, 3)
        visual: Any = getattr(loaded, "visual", None)
        colored = visual is not None and visual.kind == "vertex"
        colors = np.asarray(visual.vertex_colors)[:, :3] / 255 if colored else None
    except Exception as error:  # the readers of a dozen formats raise whatever happens to them
        raise Vision3DError(f"{path} cannot be read as a mesh: {type(error).__name__}: {error}") from None
    if not len(faces):
        raise Vision3DError(f"{path} holds no triangles")
    mesh = Mesh(
        torch.from_numpy(vertices.astype(np.float32)),
        torch.from_numpy(faces),
        None if colors is None else torch.from_numpy(colors.astype(np.float32)),
    )
    try:
        _check(mesh)
    except ValueError as error:
        raise Vision3DError(f"{path}: {error}") from None
    return mesh


def _least_size(order: str, elements: list[PlyElement]) -> int:
    """Bytes that the elements take at least: a list has its count, and a face three corners of a byte."""
    total = 0
    for element in elements:
        size = np.dtype([(str(i), order + kind) for i, (_, kind) in enumerate(element.fields)]).itemsize
        total += element.count * (size + (4 if element.has_list else 0))
    return total


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Vision3DError(f"cannot read {path}: {error.strerror or error}") from None


def _check(mesh: Mesh) -> None:
    if not len(mesh.faces):
        raise ValueError("a mesh without faces cannot be written or read")
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise ValueError("a vertex of the mesh is NaN or infinite")
    if int(mesh.faces.min()) < 0 or int(mesh.faces.max()) >= len(mesh.vertices):
        raise ValueError(f"a face names a vertex that is not there ({len(mesh.vertices)} vertices)")


def _bytes(mesh: Mesh) -> UInt8[np.ndarray, "n 3"]:
    assert mesh.colors is not None
    colors = mesh.colors.detach().cpu().float().nan_to_num().clamp(0, 1)
    return np.asarray((colors * 255).round().to(torch.uint8).numpy())
